package autoscaling

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/resource"
)

// Annotations that carry through autoscaling/v1 what it has no fields for. They are never stored.
const (
	metricsNote    = "autoscaling.alpha.kubernetes.io/metrics"
	currentNote    = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsNote = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorNote   = "autoscaling.alpha.kubernetes.io/behavior"
)

func v1Version() resource.Version {
	return resource.Version{
		GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"), Plural: "horizontalpodautoscalers",
		New:        func() resource.Object { return &autoscalingv1.HorizontalPodAutoscaler{} },
		NewList:    func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
		FromStored: func(o resource.Object) resource.Object { return toV1(o.(*autoscalingv2.HorizontalPodAutoscaler)) },
		ToStored:   func(o resource.Object) resource.Object { return fromV1(o.(*autoscalingv1.HorizontalPodAutoscaler)) },
		FieldNames: []string{"metadata.name", "metadata.namespace"},
	}
}

// withoutCopies returns the annotations without those of above: the same map, if there are none.
func withoutCopies(notes map[string]string) map[string]string {
	for _, note := range []string{metricsNote, currentNote, conditionsNote, behaviorNote} {
		if _, there := notes[note]; there {
			notes = maps.Clone(notes)
			maps.DeleteFunc(notes, func(k, _ string) bool {
				return k == metricsNote || k == currentNote || k == conditionsNote || k == behaviorNote
			})
			return notes
		}
	}
	return notes
}

// behavior is a behavior as its annotation has it: by the names of upstream's own fields.
type behavior struct{ ScaleUp, ScaleDown *rules }

type rules struct {
	StabilizationWindowSeconds *int32
	SelectPolicy               *autoscalingv2.ScalingPolicySelect
	Policies                   []policy
	Tolerance                  *apiresource.Quantity
}

type policy struct {
	Type          autoscalingv2.HPAScalingPolicyType
	Value         int32
	PeriodSeconds int32
}

func toV1(h *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	h = h.DeepCopy() // its metadata and pointers become the other's
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(h.Spec.ScaleTargetRef), MinReplicas: h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Annotations = withoutCopies(out.Annotations)
	var others []autoscalingv1.MetricSpec
	cpuSeen := false
	for i := range h.Spec.Metrics {
		m := &h.Spec.Metrics[i]
		cpu := m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU
		if cpu && !cpuSeen {
			cpuSeen = true
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
		if !cpu || m.Resource.Target.AverageUtilization == nil {
			others = append(others, metricToV1(m))
		}
	}
	current := make([]autoscalingv1.MetricStatus, len(h.Status.CurrentMetrics))
	for i := range current {
		m := &h.Status.CurrentMetrics[i]
		current[i] = statusToV1(m)
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
	}
	conditions := make([]autoscalingv1.HorizontalPodAutoscalerCondition, len(h.Status.Conditions))
	for i, c := range h.Status.Conditions {
		conditions[i] = autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		}
	}
	note(out, metricsNote, len(others) > 0, others)
	note(out, currentNote, len(current) > 0, current)
	note(out, conditionsNote, len(conditions) > 0, conditions)
	if b := h.Spec.Behavior; b != nil {
		note(out, behaviorNote, true, behavior{rulesNote(b.ScaleUp), rulesNote(b.ScaleDown)})
	}
	return out
}

func note(h *autoscalingv1.HorizontalPodAutoscaler, key string, some bool, value any) {
	if !some {
		return
	}
	text, err := json.Marshal(value)
	if err != nil {
		return // plain data always has a text
	}
	if h.Annotations == nil {
		h.Annotations = map[string]string{}
	}
	h.Annotations[key] = string(text)
}

func rulesNote(r *autoscalingv2.HPAScalingRules) *rules {
	if r == nil {
		return nil
	}
	out := &rules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		out.Policies = append(out.Policies, policy(p))
	}
	return out
}

func (r *rules) rules() *autoscalingv2.HPAScalingRules {
	if r == nil {
		return nil
	}
	out := &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		out.Policies = append(out.Policies, autoscalingv2.HPAScalingPolicy(p))
	}
	return out
}

// fromV1 is the stored form. Annotations that cannot be read are dropped.
func fromV1(h *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	h = h.DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(h.Spec.ScaleTargetRef), MinReplicas: h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Annotations = withoutCopies(out.Annotations)
	if others, ok := noted[[]autoscalingv1.MetricSpec](h, metricsNote); ok {
		for i := range others {
			out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&others[i]))
		}
	}
	if p := h.Spec.TargetCPUUtilizationPercentage; p != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuUtilization(*p))
	}
	if len(out.Spec.Metrics) == 0 {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(usualUtilization)}
	}
	if current, ok := noted[[]autoscalingv1.MetricStatus](h, currentNote); ok && len(current) > 0 {
		for i := range current {
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, statusFromV1(&current[i]))
		}
	} else if p := h.Status.CurrentCPUUtilizationPercentage; p != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: p},
		}}}
	}
	if conditions, ok := noted[[]autoscalingv1.HorizontalPodAutoscalerCondition](h, conditionsNote); ok {
		for _, c := range conditions {
			out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			})
		}
	}
	if b, ok := noted[behavior](h, behaviorNote); ok && b != (behavior{}) {
		out.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: b.ScaleUp.rules(), ScaleDown: b.ScaleDown.rules()}
	}
	return out
}

// noted reads an annotation.
func noted[T any](h *autoscalingv1.HorizontalPodAutoscaler, key string) (value T, ok bool) {
	text, there := h.Annotations[key]
	if !there || json.Unmarshal([]byte(text), &value) != nil {
		return *new(T), false
	}
	return value, true
}
