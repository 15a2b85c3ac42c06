package apps

import (
	"maps"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// DaemonSet is one pod on each node that fits.
func DaemonSet() *resource.Kind {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("DaemonSet"), Plural: "daemonsets", Singular: "daemonset", ShortNames: []string{"ds"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/daemonsets/",
		New:     func() resource.Object { return &appsv1.DaemonSet{} },
		NewList: func() runtime.Object { return &appsv1.DaemonSetList{} },

		Default: func(o resource.Object) { defaultDaemonSet(&o.(*appsv1.DaemonSet).Spec) },
		PrepareCreate: func(o resource.Object) {
			ds := o.(*appsv1.DaemonSet)
			ds.Status, ds.Generation = appsv1.DaemonSetStatus{}, 1
			core.DropDisabledInTemplate(&ds.Spec.Template)
			setTemplateGeneration(ds, max(1, templateGeneration(ds)))
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
			n.Status, n.Generation = o.Status, o.Generation
			core.DropDisabledInTemplate(&n.Spec.Template)
			templates := templateGeneration(o)
			if !equality.Semantic.DeepEqual(n.Spec.Template, o.Spec.Template) {
				templates++
			}
			setTemplateGeneration(n, templates)
			if !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return daemonSet(&o.(*appsv1.DaemonSet).Spec) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			var c check
			c.Same(field.NewPath("spec", "selector"), new.(*appsv1.DaemonSet).Spec.Selector, old.(*appsv1.DaemonSet).Spec.Selector)
			return c.Errs
		},
		Warnings: func(o resource.Object) []string {
			return core.TemplateWarnings(&o.(*appsv1.DaemonSet).Spec.Template, field.NewPath("spec", "template"))
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*appsv1.DaemonSet).Spec = old.(*appsv1.DaemonSet).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return daemonSetStatus(&new.(*appsv1.DaemonSet).Status, &old.(*appsv1.DaemonSet).Status)
			},
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Desired", "integer", status["desiredNumberScheduled"]), resource.Column("Current", "integer", status["currentNumberScheduled"]),
			resource.Column("Ready", "integer", status["numberReady"]), resource.Column("Up-to-date", "integer", status["updatedNumberScheduled"]),
			resource.Column("Available", "integer", status["numberAvailable"]),
			resource.Column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]), resource.AgeColumn(),
		}, core.TemplateColumns(spec["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			ds := o.(*appsv1.DaemonSet)
			names, images := core.TemplateCells(&ds.Spec.Template)
			s := &ds.Status
			return []any{
				ds.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
				int64(s.NumberAvailable), labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector), resource.Age(ds, now),
				names, images, metav1.FormatLabelSelector(ds.Spec.Selector),
			}
		},
	}
}

func defaultDaemonSet(s *appsv1.DaemonSetSpec) {
	u := &s.UpdateStrategy
	orText(&u.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if u.RollingUpdate.MaxUnavailable == nil {
			u.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(1))
		}
		if u.RollingUpdate.MaxSurge == nil {
			u.RollingUpdate.MaxSurge = new(intstr.FromInt32(0))
		}
	}
	orNumber(&s.RevisionHistoryLimit, 10)
	core.DefaultPodSpec(&s.Template.Spec)
}

// templateGeneration counts the changes of the template; Kubernetes keeps it in an annotation since apps/v1. Clients cannot set it.
func templateGeneration(ds *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	notes := maps.Clone(ds.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	notes[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
	ds.Annotations = notes
}

func daemonSet(s *appsv1.DaemonSetSpec) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	template := at.Child("template")
	c.Add(metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	if sel, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !sel.Matches(labels.Set(s.Template.Labels)) {
		c.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		c.Invalid(at.Child("selector"), s.Selector, "empty selector is invalid for daemonset")
	}
	c.Add(core.ValidatePodTemplateSpec(&s.Template, template)...)
	if p := s.Template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		c.Add(field.NotSupported(template.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		c.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in DaemonSet is not Supported")
	}
	c.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	c.daemonStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))
	c.count(s.RevisionHistoryLimit, at.Child("revisionHistoryLimit"))
	return c.Errs
}

// shownDaemonStrategy is how upstream shows a strategy that it does not know: by the names of its own fields.
type shownDaemonStrategy struct {
	Type          appsv1.DaemonSetUpdateStrategyType
	RollingUpdate *appsv1.RollingUpdateDaemonSet
}

func (c *check) daemonStrategy(u *appsv1.DaemonSetUpdateStrategy, at *field.Path) {
	switch u.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at := at.Child("rollingUpdate")
		if u.RollingUpdate == nil {
			c.Required(at, "")
			return
		}
		unavailable, surge := u.RollingUpdate.MaxUnavailable, u.RollingUpdate.MaxSurge
		c.amount(unavailable, at.Child("maxUnavailable"))
		c.amount(surge, at.Child("maxSurge"))
		c.atMostAll(unavailable, at.Child("maxUnavailable"))
		c.atMostAll(surge, at.Child("maxSurge"))
		switch {
		case !isZero(unavailable) && !isZero(surge):
			c.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
		case isZero(unavailable) && isZero(surge):
			c.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		c.Add(field.NotSupported(at, shownDaemonStrategy{u.Type, u.RollingUpdate}, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType,
		}))
	}
}

func daemonSetStatus(s, old *appsv1.DaemonSetStatus) field.ErrorList {
	var c check
	at := field.NewPath("status")
	for _, p := range []tally{
		{"currentNumberScheduled", s.CurrentNumberScheduled},
		{"numberMisscheduled", s.NumberMisscheduled},
		{"desiredNumberScheduled", s.DesiredNumberScheduled},
		{"numberReady", s.NumberReady},
	} {
		c.NonNegative(at.Child(p.name), int64(p.n))
	}
	c.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	for _, p := range []tally{
		{"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable}, {"numberUnavailable", s.NumberUnavailable},
	} {
		c.NonNegative(at.Child(p.name), int64(p.n))
	}
	c.count(s.CollisionCount, at.Child("collisionCount"))
	c.noDecrement(s.CollisionCount, old.CollisionCount, at.Child("collisionCount"))
	return c.Errs
}
