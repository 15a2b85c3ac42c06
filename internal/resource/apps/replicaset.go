package apps

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// ReplicaSet is a number of pods of one template.
func ReplicaSet() *resource.Kind {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("ReplicaSet"), Plural: "replicasets", Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/replicasets/",
		New:     func() resource.Object { return &appsv1.ReplicaSet{} },
		NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },

		Default: func(o resource.Object) {
			rs := o.(*appsv1.ReplicaSet)
			if rs.Spec.Replicas == nil {
				rs.Spec.Replicas = new(int32(1))
			}
			core.DefaultPodSpec(&rs.Spec.Template.Spec)
		},
		PrepareCreate: func(o resource.Object) {
			rs := o.(*appsv1.ReplicaSet)
			rs.Status, rs.Generation = appsv1.ReplicaSetStatus{}, 1
			core.DropDisabledInTemplate(&rs.Spec.Template)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*appsv1.ReplicaSet), old.(*appsv1.ReplicaSet)
			n.Status = o.Status
			core.DropDisabledInTemplate(&n.Spec.Template)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return replicaSet(&o.(*appsv1.ReplicaSet).Spec) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			var c check
			c.Same(field.NewPath("spec", "selector"), new.(*appsv1.ReplicaSet).Spec.Selector, old.(*appsv1.ReplicaSet).Spec.Selector)
			return c.Errs
		},
		Warnings: func(o resource.Object) []string {
			return append(nameWarning(o), core.TemplateWarnings(&o.(*appsv1.ReplicaSet).Spec.Template, field.NewPath("spec", "template"))...)
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*appsv1.ReplicaSet).Spec = old.(*appsv1.ReplicaSet).Spec },
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return replicaSetStatus(&new.(*appsv1.ReplicaSet).Status)
			},
		},
		Scale: &resource.Scale{
			Read: func(o resource.Object) resource.Replicas {
				rs := o.(*appsv1.ReplicaSet)
				return resource.Replicas{Wanted: replicasOf(rs.Spec.Replicas), Have: rs.Status.Replicas, Selector: selectorText(rs.Spec.Selector)}
			},
			Set: func(o resource.Object, n int32) { o.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		},

		Fields: func(o resource.Object) map[string]string {
			fields := resource.MetaFields(o)
			fields["status.replicas"] = strconv.Itoa(int(o.(*appsv1.ReplicaSet).Status.Replicas))
			return fields
		},
		FieldNames: resource.MetaNames("status.replicas"),
		Controlled: true,
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Desired", "integer", spec["replicas"]), resource.Column("Current", "integer", status["replicas"]),
			resource.Column("Ready", "integer", status["readyReplicas"]), resource.AgeColumn(),
		}, core.TemplateColumns(spec["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			rs := o.(*appsv1.ReplicaSet)
			names, images := core.TemplateCells(&rs.Spec.Template)
			return []any{
				rs.Name, int64(replicasOf(rs.Spec.Replicas)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas), resource.Age(rs, now),
				names, images, metav1.FormatLabelSelector(rs.Spec.Selector),
			}
		},
	}
}

func replicaSet(s *appsv1.ReplicaSetSpec) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	c.count(s.Replicas, at.Child("replicas"))
	c.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if sel := c.selector(s.Selector, "deployment", at.Child("selector")); sel != nil {
		c.template(&s.Template, sel, "ReplicaSet", at.Child("template"))
	}
	return c.Errs
}

func replicaSetStatus(s *appsv1.ReplicaSetStatus) field.ErrorList {
	var c check
	at := field.NewPath("status")
	parts := []tally{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	c.NonNegative(at.Child("replicas"), int64(s.Replicas))
	for _, p := range parts {
		c.NonNegative(at.Child(p.name), int64(p.n))
	}
	c.count(s.TerminatingReplicas, at.Child("terminatingReplicas"))
	c.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	c.tallies(s.Replicas, s.ReadyReplicas, parts, at)
	return c.Errs
}
