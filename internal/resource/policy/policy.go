// Package policy is the kinds of the policy group.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: errors and columns have upstream's words; an object that
// was valid when written stays changeable.
package policy

import (
	"strconv"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of policy/v1.
func Kinds() []*resource.Kind { return []*resource.Kind{PodDisruptionBudget()} }

// PodDisruptionBudget says how many pods of an application may be evicted at once.
func PodDisruptionBudget() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Plural:           "poddisruptionbudgets", Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
		Namespaced: true, Prefix: "/registry/poddisruptionbudgets/",
		New:     func() resource.Object { return &policyv1.PodDisruptionBudget{} },
		NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		// Pods bring Eviction into this version before any kind of it is there, so the table takes the version for whole.
		Register: func(s *runtime.Scheme) { metav1.AddToGroupVersion(s, policyv1.SchemeGroupVersion) },

		PrepareCreate: func(o resource.Object) {
			b := o.(*policyv1.PodDisruptionBudget)
			b.Status, b.Generation = policyv1.PodDisruptionBudgetStatus{}, 1
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*policyv1.PodDisruptionBudget), old.(*policyv1.PodDisruptionBudget)
			n.Status = o.Status
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		Validate: func(o resource.Object) field.ErrorList {
			return budget(&o.(*policyv1.PodDisruptionBudget).Spec, resource.IsNew(o))
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return selectorUpdate(new.(*policyv1.PodDisruptionBudget).Spec.Selector, old.(*policyv1.PodDisruptionBudget).Spec.Selector)
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				new.(*policyv1.PodDisruptionBudget).Spec = old.(*policyv1.PodDisruptionBudget).Spec
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return status(&new.(*policyv1.PodDisruptionBudget).Status)
			},
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			{Name: "Min Available", Type: "string", Description: "The minimum number of pods that must be available."},
			{Name: "Max Unavailable", Type: "string", Description: "The maximum number of pods that may be unavailable."},
			{Name: "Allowed Disruptions", Type: "integer", Description: "Calculated number of pods that may be disrupted at this time."},
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			b := o.(*policyv1.PodDisruptionBudget)
			return []any{b.Name, amountText(b.Spec.MinAvailable), amountText(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), resource.Age(b, now)}
		},
	}
}

func amountText(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

// shownSpec is how upstream shows a whole spec: by the names of its own fields.
type shownSpec struct {
	MinAvailable               *intstr.IntOrString
	Selector                   *metav1.LabelSelector
	MaxUnavailable             *intstr.IntOrString
	UnhealthyPodEvictionPolicy *policyv1.UnhealthyPodEvictionPolicyType
}

func budget(s *policyv1.PodDisruptionBudgetSpec, isNew bool) field.ErrorList {
	var l validate.List
	at := field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		l.Invalid(at, shownSpec(*s), "minAvailable and maxUnavailable cannot be both set")
	}
	amount(&l, s.MinAvailable, at.Child("minAvailable"))
	amount(&l, s.MaxUnavailable, at.Child("maxUnavailable"))
	l.Add(selector(s.Selector, !isNew)...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		validate.OneOf(&l, at.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return l.Errs
}

// amount demands a number that is not negative, or a percentage up to 100.
func amount(l *validate.List, v *intstr.IntOrString, at *field.Path) {
	switch {
	case v == nil:
	case v.Type != intstr.String:
		l.NonNegative(at, int64(v.IntValue()))
	default:
		wrong := validation.IsValidPercent(v.StrVal)
		l.Messages(at, *v, wrong)
		if n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%")); len(wrong) == 0 && err == nil && n > 100 {
			l.Invalid(at, *v, "must not be greater than 100%")
		}
	}
}

// selector checks a selector; one that is stored may have values that no label can have.
func selector(s *metav1.LabelSelector, anyValue bool) field.ErrorList {
	o := metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValue}
	return metavalidation.ValidateLabelSelector(s, o, field.NewPath("spec", "selector"))
}

// selectorUpdate refuses values that no label can have, unless there were such before.
func selectorUpdate(new, old *metav1.LabelSelector) field.ErrorList {
	if len(selector(old, false)) > 0 || len(selector(new, true)) > 0 {
		return nil
	}
	return selector(new, false)
}

func status(s *policyv1.PodDisruptionBudgetStatus) field.ErrorList {
	var l validate.List
	at := field.NewPath("status")
	l.Add(metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))...)
	l.NonNegative(at.Child("disruptionsAllowed"), int64(s.DisruptionsAllowed))
	l.NonNegative(at.Child("currentHealthy"), int64(s.CurrentHealthy))
	l.NonNegative(at.Child("desiredHealthy"), int64(s.DesiredHealthy))
	l.NonNegative(at.Child("expectedPods"), int64(s.ExpectedPods))
	return l.Errs
}
