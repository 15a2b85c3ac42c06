// Package autoscaling is the kinds of the autoscaling group, stored as autoscaling/v2 and served as autoscaling/v1 as well.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and columns
// have upstream's words; what autoscaling/v1 has no fields for goes through it and back in annotations.
package autoscaling

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Kinds are the kinds of the autoscaling group.
func Kinds() []*resource.Kind { return []*resource.Kind{HorizontalPodAutoscaler()} }

// HorizontalPodAutoscaler keeps the replicas of something at what its metrics ask for.
func HorizontalPodAutoscaler() *resource.Kind {
	spec := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		Plural:           "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/horizontalpodautoscalers/",
		New:     func() resource.Object { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
		Also:    []resource.Version{v1Version()},

		Default: func(o resource.Object) { defaultSpec(&o.(*autoscalingv2.HorizontalPodAutoscaler).Spec) },
		PrepareCreate: func(o resource.Object) {
			h := o.(*autoscalingv2.HorizontalPodAutoscaler)
			h.Status, h.Generation = autoscalingv2.HorizontalPodAutoscalerStatus{}, 1
			h.Annotations = withoutCopies(h.Annotations)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*autoscalingv2.HorizontalPodAutoscaler), old.(*autoscalingv2.HorizontalPodAutoscaler)
			n.Status = o.Status
			n.Annotations = withoutCopies(n.Annotations)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList {
			return autoscaler(&o.(*autoscalingv2.HorizontalPodAutoscaler).Spec, resource.IsNew(o))
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return autoscalerUpdate(&new.(*autoscalingv2.HorizontalPodAutoscaler).Spec, &old.(*autoscalingv2.HorizontalPodAutoscaler).Spec)
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				n := new.(*autoscalingv2.HorizontalPodAutoscaler)
				n.Spec, n.Annotations = old.(*autoscalingv2.HorizontalPodAutoscaler).Spec, withoutCopies(n.Annotations)
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return autoscalerStatus(&new.(*autoscalingv2.HorizontalPodAutoscaler).Status)
			},
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			{Name: "Reference", Type: "string", Description: spec["scaleTargetRef"]},
			{Name: "Targets", Type: "string", Description: spec["metrics"]},
			{Name: "MinPods", Type: "string", Description: spec["minReplicas"]},
			{Name: "MaxPods", Type: "string", Description: spec["maxReplicas"]},
			{Name: "Replicas", Type: "string", Description: autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]},
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			return row(o.(*autoscalingv2.HorizontalPodAutoscaler), now)
		},
	}
}

func row(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	least := "<unset>"
	if n := h.Spec.MinReplicas; n != nil {
		least = strconv.Itoa(int(*n))
	}
	ref := h.Spec.ScaleTargetRef
	return []any{
		h.Name, ref.Kind + "/" + ref.Name, targets(h.Spec.Metrics, h.Status.CurrentMetrics), least,
		int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), resource.Age(h, now),
	}
}

const mostTargets = 2 // that a column shows

// targets shows what the metrics are and shall be.
func targets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return "<none>"
	}
	all := make([]string, len(specs))
	for i := range specs {
		var status autoscalingv2.MetricStatus
		if i < len(statuses) {
			status = statuses[i]
		}
		all[i] = target(&specs[i], currentOf(&status, specs[i].Type))
	}
	if more := len(all) - mostTargets; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:mostTargets], ", "), more)
	}
	return strings.Join(all, ", ")
}

// currentOf is what the status says of a metric of that type; nil if it says nothing.
func currentOf(s *autoscalingv2.MetricStatus, of autoscalingv2.MetricSourceType) *autoscalingv2.MetricValueStatus {
	switch {
	case of == autoscalingv2.ExternalMetricSourceType && s.External != nil:
		return &s.External.Current
	case of == autoscalingv2.PodsMetricSourceType && s.Pods != nil:
		return &s.Pods.Current
	case of == autoscalingv2.ObjectMetricSourceType && s.Object != nil:
		return &s.Object.Current
	case of == autoscalingv2.ResourceMetricSourceType && s.Resource != nil:
		return &s.Resource.Current
	case of == autoscalingv2.ContainerResourceMetricSourceType && s.ContainerResource != nil:
		return &s.ContainerResource.Current
	}
	return nil
}

func target(spec *autoscalingv2.MetricSpec, current *autoscalingv2.MetricValueStatus) string {
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		return valueTarget(&spec.External.Target, current)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		return valueTarget(&spec.Object.Target, current)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		return average(current) + "/" + quantity(spec.Pods.Target.AverageValue)
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		return resourceTarget(string(spec.Resource.Name), &spec.Resource.Target, current)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		return resourceTarget(string(spec.ContainerResource.Name), &spec.ContainerResource.Target, current)
	}
	return "<unknown type>"
}

func valueTarget(t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return average(current) + "/" + quantity(t.AverageValue) + " (avg)"
	}
	is := "<unknown>"
	if current != nil {
		is = quantity(current.Value)
	}
	return is + "/" + quantity(t.Value)
}

func resourceTarget(name string, t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return name + ": " + average(current) + "/" + quantity(t.AverageValue)
	}
	is, wanted := "<unknown>", "<auto>"
	if current != nil && current.AverageUtilization != nil {
		is = fmt.Sprintf("%d%%", *current.AverageUtilization)
	}
	if t.AverageUtilization != nil {
		wanted = fmt.Sprintf("%d%%", *t.AverageUtilization)
	}
	return name + ": " + is + "/" + wanted
}

func average(current *autoscalingv2.MetricValueStatus) string {
	if current == nil || current.AverageValue == nil {
		return "<unknown>"
	}
	return quantity(current.AverageValue)
}

// quantity reads a copy: showing a quantity may change how it is kept.
func quantity(q *apiresource.Quantity) string {
	if q == nil {
		return "<nil>"
	}
	return new(q.DeepCopy()).String()
}
