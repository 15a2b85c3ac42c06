// Package scheduling is the kinds of scheduling.k8s.io.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words.
package scheduling

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Kinds are the kinds of scheduling.k8s.io.
func Kinds() []*resource.Kind { return []*resource.Kind{PriorityClass()} }

// Highest is the highest priority that a person may give; those above are the system's.
const Highest = 1000000000

// System are the priority classes that are always there.
var System = map[string]int32{"system-cluster-critical": 2 * Highest, "system-node-critical": 2*Highest + 1000}

// PriorityClass says how important pods of that class are.
func PriorityClass() *resource.Kind {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), Plural: "priorityclasses", Singular: "priorityclass", ShortNames: []string{"pc"},
		Prefix:  "/registry/priorityclasses/",
		New:     func() resource.Object { return &schedulingv1.PriorityClass{} },
		NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },

		Default: func(o resource.Object) {
			if c := o.(*schedulingv1.PriorityClass); c.PreemptionPolicy == nil {
				c.PreemptionPolicy = new(corev1.PreemptLowerPriority)
			}
		},
		PrepareCreate: func(o resource.Object) { o.SetGeneration(1) },
		PrepareUpdate: func(new, old resource.Object) { new.SetGeneration(old.GetGeneration()) },
		NameRule:      apivalidation.NameIsDNSSubdomain,
		Validate:      func(o resource.Object) field.ErrorList { return class(o.(*schedulingv1.PriorityClass)) },
		ValidateUpdate: func(new, old resource.Object) (errs field.ErrorList) {
			n, o := new.(*schedulingv1.PriorityClass), old.(*schedulingv1.PriorityClass)
			if n.Value != o.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			return append(errs, apivalidation.ValidateImmutableField(n.PreemptionPolicy, o.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			{Name: "Value", Type: "integer", Description: doc["value"]},
			{Name: "Global-Default", Type: "boolean", Description: doc["globalDefault"]},
			resource.AgeColumn(),
			{Name: "PreemptionPolicy", Type: "string", Description: doc["preemptionPolicy"]},
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*schedulingv1.PriorityClass)
			policy := ""
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, resource.Age(c, now), policy}
		},
	}
}

func class(c *schedulingv1.PriorityClass) (errs field.ErrorList) {
	const prefix = "system-"
	if strings.HasPrefix(c.Name, prefix) {
		if err := known(c); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+prefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	} else if c.Value > Highest {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", Highest)))
	}
	if p := c.PreemptionPolicy; p != nil && *p != corev1.PreemptLowerPriority && *p != corev1.PreemptNever {
		at := field.NewPath("preemptionPolicy")
		if *p == "" {
			errs = append(errs, field.Required(at, ""))
		} else {
			errs = append(errs, field.NotSupported(at, *p, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
	}
	return errs
}

// known says what keeps a class from being the system's own of that name.
func known(c *schedulingv1.PriorityClass) error {
	value, is := System[c.Name]
	switch {
	case !is:
		return fmt.Errorf("%v is not a known system priority class", c.Name)
	case c.Value != value:
		return fmt.Errorf("value of %v PriorityClass must be %v", c.Name, value)
	case c.GlobalDefault:
		return fmt.Errorf("globalDefault of %v PriorityClass must be false", c.Name)
	}
	return nil
}
