package apps

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// Deployment is a number of pods whose template may change while they serve.
func Deployment() *resource.Kind {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("Deployment"), Plural: "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/deployments/",
		New:     func() resource.Object { return &appsv1.Deployment{} },
		NewList: func() runtime.Object { return &appsv1.DeploymentList{} },

		Default: func(o resource.Object) { defaultDeployment(&o.(*appsv1.Deployment).Spec) },
		PrepareCreate: func(o resource.Object) {
			d := o.(*appsv1.Deployment)
			d.Status, d.Generation = appsv1.DeploymentStatus{}, 1
			core.DropDisabledInTemplate(&d.Spec.Template)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*appsv1.Deployment), old.(*appsv1.Deployment)
			n.Status = o.Status
			core.DropDisabledInTemplate(&n.Spec.Template)
			// Annotations count too: they are copied to the ReplicaSets.
			n.Generation = o.Generation
			if !equality.Semantic.DeepEqual(n.Spec, o.Spec) || !equality.Semantic.DeepEqual(n.Annotations, o.Annotations) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return deployment(&o.(*appsv1.Deployment).Spec) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			var c check
			c.Same(field.NewPath("spec", "selector"), new.(*appsv1.Deployment).Spec.Selector, old.(*appsv1.Deployment).Spec.Selector)
			return c.Errs
		},
		Warnings: func(o resource.Object) []string {
			return append(nameWarning(o), core.TemplateWarnings(&o.(*appsv1.Deployment).Spec.Template, field.NewPath("spec", "template"))...)
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				n, o := new.(*appsv1.Deployment), old.(*appsv1.Deployment)
				n.Spec, n.Labels = o.Spec, o.Labels
			},
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return deploymentStatus(&new.(*appsv1.Deployment).Status, &old.(*appsv1.Deployment).Status)
			},
		},
		Scale: &resource.Scale{
			Read: func(o resource.Object) resource.Replicas {
				d := o.(*appsv1.Deployment)
				return resource.Replicas{Wanted: replicasOf(d.Spec.Replicas), Have: d.Status.Replicas, Selector: selectorText(d.Spec.Selector)}
			},
			Set: func(o resource.Object, n int32) { o.(*appsv1.Deployment).Spec.Replicas = &n },
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Ready", "string", "Number of the pod with ready state"),
			resource.Column("Up-to-date", "string", status["updatedReplicas"]), resource.Column("Available", "string", status["availableReplicas"]), resource.AgeColumn(),
		}, core.TemplateColumns(spec["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			d := o.(*appsv1.Deployment)
			names, images := core.TemplateCells(&d.Spec.Template)
			return []any{
				d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, replicasOf(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
				int64(d.Status.AvailableReplicas), resource.Age(d, now), names, images, metav1.FormatLabelSelector(d.Spec.Selector),
			}
		},
	}
}

func defaultDeployment(s *appsv1.DeploymentSpec) {
	number := func(n **int32, value int32) {
		if *n == nil {
			*n = &value
		}
	}
	number(&s.Replicas, 1)
	number(&s.RevisionHistoryLimit, 10)
	number(&s.ProgressDeadlineSeconds, 600)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		for _, v := range []**intstr.IntOrString{&s.Strategy.RollingUpdate.MaxUnavailable, &s.Strategy.RollingUpdate.MaxSurge} {
			if *v == nil {
				*v = new(intstr.FromString("25%"))
			}
		}
	}
	core.DefaultPodSpec(&s.Template.Spec)
}

func deployment(s *appsv1.DeploymentSpec) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	c.count(s.Replicas, at.Child("replicas"))
	if sel := c.selector(s.Selector, "deployment", at.Child("selector")); sel != nil {
		c.template(&s.Template, sel, "ReplicaSet", at.Child("template"))
	}
	c.strategy(&s.Strategy, at.Child("strategy"))
	c.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	c.count(s.RevisionHistoryLimit, at.Child("revisionHistoryLimit"))
	if p := s.ProgressDeadlineSeconds; p != nil {
		c.NonNegative(at.Child("progressDeadlineSeconds"), int64(*p))
		if *p <= s.MinReadySeconds {
			c.Invalid(at.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds")
		}
	}
	return c.Errs
}

// shownStrategy is how upstream shows a strategy that it does not know: by the names of its own fields.
type shownStrategy struct {
	Type          appsv1.DeploymentStrategyType
	RollingUpdate *appsv1.RollingUpdateDeployment
}

func (c *check) strategy(s *appsv1.DeploymentStrategy, at *field.Path) {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			c.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(s.Type)+"'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		at := at.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			c.Required(at, "this should be defaulted and never be nil")
			return
		}
		unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
		c.amount(unavailable, at.Child("maxUnavailable"))
		c.amount(surge, at.Child("maxSurge"))
		if isZero(unavailable) && isZero(surge) {
			c.Invalid(at.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0")
		}
		c.atMostAll(unavailable, at.Child("maxUnavailable"))
	default:
		c.Add(field.NotSupported(at, shownStrategy{s.Type, s.RollingUpdate}, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType,
		}))
	}
}

func deploymentStatus(s, old *appsv1.DeploymentStatus) field.ErrorList {
	var c check
	at := field.NewPath("status")
	parts := []tally{{"updatedReplicas", s.UpdatedReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	c.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	c.NonNegative(at.Child("replicas"), int64(s.Replicas))
	for _, p := range append(parts, tally{"unavailableReplicas", s.UnavailableReplicas}) {
		c.NonNegative(at.Child(p.name), int64(p.n))
	}
	c.count(s.TerminatingReplicas, at.Child("terminatingReplicas"))
	c.count(s.CollisionCount, at.Child("collisionCount"))
	c.tallies(s.Replicas, s.ReadyReplicas, parts, at)
	if was := old.CollisionCount; was != nil && (s.CollisionCount == nil || *s.CollisionCount < *was) {
		c.Invalid(at.Child("collisionCount"), replicasOf(s.CollisionCount), "cannot be decremented")
	}
	return c.Errs
}
