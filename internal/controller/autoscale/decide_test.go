package autoscale

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const cpuHalf = "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}"

func newAutoscaler(t testing.TB, metrics string, more ...string) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "h", UID: "h", Generation: 4}}
	h.Spec = *specOf(t, "{minReplicas: 2, maxReplicas: 10, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: ["+metrics+"]"+strings.Join(more, "")+"}")
	h.Status.DesiredReplicas = 7
	return h
}

func scale(n int32) Target { return Target{UID: "web", Wanted: n, Have: n, Selector: "app=web"} }

func ofPods(m map[string]PodMetric) Sample { return Sample{Pods: m} }
func values(v ...int64) Sample             { return Sample{Values: v} }
func unknown(why string) Sample            { return Sample{Err: errors.New(why)} }

func (p Plan) String() string {
	s := []string{fmt.Sprintf("%d", p.Replicas)}
	if p.Rescale {
		s[0] += " (" + p.Reason + ")"
	}
	for _, c := range p.Status.Conditions {
		s = append(s, fmt.Sprintf("%s %s %s", c.Type, c.Status, c.Reason))
	}
	for _, e := range p.Events {
		s = append(s, e.Type+" "+e.Reason+": "+e.Words)
	}
	return strings.Join(s, "; ")
}

func TestDecide(t *testing.T) {
	const (
		got   = "AbleToScale True SucceededGetScale"
		ready = "AbleToScale True ReadyForNewScale"
		valid = "ScalingActive True ValidMetricFound"
		fits  = "ScalingLimited False DesiredWithinRange"
	)
	half, high := ofPods(uses(500, 500, 500, 500)), ofPods(uses(1000, 1000, 1000, 1000))
	external := "{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: 10}}}"
	for name, c := range map[string]struct {
		h       *autoscalingv2.HorizontalPodAutoscaler
		target  Target
		samples []Sample
		rivals  []string
		want    string
	}{
		"all is as it shall be":   {newAutoscaler(t, cpuHalf), scale(4), []Sample{half}, nil, "4; " + ready + "; " + valid + "; " + fits},
		"more is asked for":       {newAutoscaler(t, cpuHalf), scale(4), []Sample{high}, nil, "8 (cpu resource utilization (percentage of request) above target); " + ready + "; " + valid + "; " + fits},
		"less is asked for":       {newAutoscaler(t, cpuHalf), scale(4), []Sample{ofPods(uses(100, 100, 100, 100))}, nil, "4; AbleToScale True ScaleDownStabilized; " + valid + "; " + fits},
		"more than the most":      {newAutoscaler(t, cpuHalf), scale(11), nil, nil, "10 (Current number of replicas above Spec.MaxReplicas); " + got},
		"fewer than the least":    {newAutoscaler(t, cpuHalf), scale(1), nil, nil, "2 (Current number of replicas below Spec.MinReplicas); " + got},
		"the target is at zero":   {newAutoscaler(t, cpuHalf), scale(0), nil, nil, "0; " + got + "; ScalingActive False ScalingDisabled"},
		"no selector":             {newAutoscaler(t, cpuHalf), Target{Wanted: 4}, nil, nil, "4; " + got + "; ScalingActive False InvalidSelector; Warning SelectorRequired: selector is required; Warning FailedComputeMetricsReplicas: selector is required"},
		"somebody else's as well": {newAutoscaler(t, cpuHalf), scale(4), nil, []string{"ns/g", "ns/h"}, "4; " + got + "; ScalingActive False AmbiguousSelector; Warning AmbiguousSelector: pods by selector app=web are controlled by multiple HPAs: [ns/g ns/h]; Warning FailedComputeMetricsReplicas: pods by selector app=web are controlled by multiple HPAs: [ns/g ns/h]"},
		"nothing is measured": {
			newAutoscaler(t, cpuHalf), scale(4),
			[]Sample{unknown("none here")},
			nil,
			"4; " + got + "; ScalingActive False FailedGetResourceMetric; Warning FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: none here; " +
				"Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: none here",
		},
		"the highest of several": {newAutoscaler(t, cpuHalf+", "+external), scale(4), []Sample{half, values(30_000, 30_000)}, nil, "6 (external metric queue(nil) above target); " + ready + "; " + valid + "; " + fits},
		"one of several fails, another asks for more": {
			newAutoscaler(t, cpuHalf+", "+external), scale(4),
			[]Sample{unknown("none here"), values(60_000)},
			nil,
			"6 (external metric queue(nil) above target); " + ready + "; " + valid + "; " + fits + "; Warning FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: none here",
		},
		"one of several fails, another asks for less: nothing is done": {
			newAutoscaler(t, cpuHalf+", "+external), scale(4),
			[]Sample{unknown("none here"), values(20_000)},
			nil,
			"4; " + got + "; ScalingActive False FailedGetResourceMetric; Warning FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: none here; " +
				"Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: none here",
		},
		"a container": {
			newAutoscaler(t, "{type: ContainerResource, containerResource: {name: cpu, container: main, target: {type: Utilization, averageUtilization: 50}}}"), scale(4),
			[]Sample{high},
			nil,
			"8 (cpu container resource utilization (percentage of request) above target); " + ready + "; " + valid + "; " + fits,
		},
		"a container of which nothing is known": {
			newAutoscaler(t, "{type: ContainerResource, containerResource: {name: cpu, container: main, target: {type: AverageValue, averageValue: 1}}}"), scale(4),
			[]Sample{unknown("none here")},
			nil,
			"4; " + got + "; ScalingActive False FailedGetContainerResourceMetric; Warning FailedGetContainerResourceMetric: failed to get cpu usage: unable to get metrics for resource cpu: none here; " +
				"Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get main container metric value: failed to get cpu usage: unable to get metrics for resource cpu: none here",
		},
		"a metric of pods": {newAutoscaler(t, "{type: Pods, pods: {metric: {name: qps}, target: {type: AverageValue, averageValue: 500m}}}"), scale(4), []Sample{ofPods(uses(750, 750, 750, 750))}, nil, "6 (pods metric qps above target); " + ready + "; " + valid + "; " + fits},
		"a metric of pods that is unknown": {
			newAutoscaler(t, "{type: Pods, pods: {metric: {name: qps}, target: {type: AverageValue, averageValue: 500m}}}"), scale(4),
			[]Sample{unknown("none here")},
			nil,
			"4; " + got + "; ScalingActive False FailedGetPodsMetric; Warning FailedGetPodsMetric: unable to get metric qps: none here; Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get pods metric value: unable to get metric qps: none here",
		},
		"an object's value":   {newAutoscaler(t, "{type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: hits}, target: {type: Value, value: 10}}}"), scale(4), []Sample{values(20_000)}, nil, "8 (Service metric hits above target); " + ready + "; " + valid + "; " + fits},
		"an object's average": {newAutoscaler(t, "{type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: hits}, target: {type: AverageValue, averageValue: 10}}}"), scale(4), []Sample{values(70_000)}, nil, "7 (external metric hits(nil) above target); " + ready + "; " + valid + "; " + fits},
		"an object that is unknown": {
			newAutoscaler(t, "{type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: hits}, target: {type: Value, value: 10}}}"), scale(4),
			[]Sample{unknown("none here")},
			nil,
			"4; " + got + "; ScalingActive False FailedGetObjectMetric; Warning FailedGetObjectMetric: unable to get metric hits: Service on ns s/none here; " +
				"Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get object metric value: unable to get metric hits: Service on ns s/none here",
		},
		"a value from outside": {newAutoscaler(t, "{type: External, external: {metric: {name: queue, selector: {matchLabels: {a: b}}}, target: {type: Value, value: 30}}}"), scale(4), []Sample{values(40_000, 20_000)}, nil, "8 (external metric queue(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}) above target); " + ready + "; " + valid + "; " + fits},
		"nothing from outside": {
			newAutoscaler(t, external), scale(4),
			[]Sample{unknown("none here")},
			nil,
			"4; " + got + "; ScalingActive False FailedGetExternalMetric; Warning FailedGetExternalMetric: unable to get external metric ns/queue/nil: none here; " +
				"Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get queue external metric value: failed to get queue external metric: unable to get external metric ns/queue/nil: none here",
		},
		"a type that is none": {
			newAutoscaler(t, "{type: Luck}"), scale(4), nil, nil,
			"4; " + got + "; ScalingActive False InvalidMetricSourceType; Warning InvalidMetricSourceType: unknown metric source type \"Luck\"; Warning FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: unknown metric source type \"Luck\"",
		},
		"a tolerance of its own": {newAutoscaler(t, cpuHalf, ", behavior: {scaleUp: {tolerance: '1.5', stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 9, periodSeconds: 15}]}}"), scale(4), []Sample{high}, nil, "4; " + ready + "; " + valid + "; " + fits},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.h.DeepCopy()
			p := Decide(c.h, c.target, Seen{Pods: pods(4), Samples: c.samples, Rivals: c.rivals}, Memory{}, now)
			if got := p.String(); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if c.h.String() != before.String() {
				t.Error("it changed the autoscaler")
			}
			wanted := p.Replicas
			if strings.Contains(c.want, "FailedComputeMetricsReplicas") {
				wanted = 7 // as it was
			}
			if s := p.Status; s.CurrentReplicas != c.target.Wanted || s.DesiredReplicas != wanted || *s.ObservedGeneration != 4 {
				t.Errorf("%+v", s)
			}
			if Asks(c.h, c.target) != (len(p.Status.CurrentMetrics) > 0 || strings.Contains(c.want, "Selector")) {
				t.Errorf("metrics %+v", p.Status.CurrentMetrics)
			}
		})
	}
}

func TestWhatThereIsIsTold(t *testing.T) {
	h := newAutoscaler(t, cpuHalf+", {type: Luck}")
	m := Decide(h, scale(4), Seen{Pods: pods(4), Samples: []Sample{ofPods(uses(1000, 1000, 1000, 1000))}}, Memory{}, now).Status.CurrentMetrics
	if len(m) != 2 || *m[0].Resource.Current.AverageUtilization != 100 || m[0].Resource.Current.AverageValue.String() != "1" || m[1].Type != "" {
		t.Errorf("%+v", m)
	}
}

func TestAfterTheTargetWasRescaled(t *testing.T) {
	h := newAutoscaler(t, cpuHalf, ", behavior: {scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 2, periodSeconds: 60}]}}")
	seen := Seen{Pods: pods(4), Samples: []Sample{ofPods(uses(1000, 1000, 1000, 1000))}}
	p := Decide(h, scale(4), seen, Memory{}, now)
	done := p.Done(now)
	if got, want := done.String(), "6 (cpu resource utilization (percentage of request) above target); AbleToScale True SucceededRescale; ScalingActive True ValidMetricFound; ScalingLimited True ScaleUpLimit; "+
		"Normal SuccessfulRescale: New size: 6; reason: cpu resource utilization (percentage of request) above target"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if !done.Status.LastScaleTime.Time.Equal(now) || done.Status.Conditions[0].Message != "the HPA controller was able to update the target scale to 6" {
		t.Errorf("%+v", done.Status)
	}
	if next := Decide(h, scale(6), Seen{Pods: pods(6), Samples: []Sample{ofPods(uses(1000, 1000, 1000, 1000, 1000, 1000))}}, done.Memory, now.Add(30*time.Second)); next.Rescale {
		t.Errorf("within the minute: %s", next)
	}
	if next := Decide(h, scale(6), Seen{Pods: pods(6), Samples: []Sample{ofPods(uses(1000, 1000, 1000, 1000, 1000, 1000))}}, done.Memory, now.Add(time.Minute)); next.Replicas != 8 {
		t.Errorf("after the minute: %s", next)
	}
	failed := p.Failed(errors.New("no"), 3, now)
	if got, want := failed.String(), "6 (cpu resource utilization (percentage of request) above target); AbleToScale False FailedUpdateScale; ScalingActive True ValidMetricFound; ScalingLimited True ScaleUpLimit; "+
		"Warning FailedRescale: New size: 6; reason: cpu resource utilization (percentage of request) above target; error: no"; got != want || failed.Status.DesiredReplicas != 3 || failed.Status.LastScaleTime != nil {
		t.Errorf("%s\nwant %s\n%+v", got, want, failed.Status)
	}
	lost := Unreachable(h, Memory{}, errors.New("nobody"), now)
	if got, want := lost.String(), "0; AbleToScale False FailedGetScale; Warning FailedGetScale: nobody"; got != want || lost.Status.DesiredReplicas != 7 {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestAConditionKeepsItsTime(t *testing.T) {
	h := newAutoscaler(t, cpuHalf)
	first := Decide(h, scale(4), Seen{Pods: pods(4), Samples: []Sample{ofPods(uses(500, 500, 500, 500))}}, Memory{}, now)
	h.Status = first.Status
	later := Decide(h, scale(4), Seen{Pods: pods(4), Samples: []Sample{ofPods(uses(1000, 1000, 1000, 1000))}}, first.Memory, now.Add(time.Hour))
	for _, c := range later.Status.Conditions {
		if !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("%+v", c)
		}
	}
	h.Status = later.Status
	for _, c := range Decide(h, scale(4), Seen{}, later.Memory, now.Add(2*time.Hour)).Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive && (c.Status != corev1.ConditionFalse || !c.LastTransitionTime.Time.Equal(now.Add(2*time.Hour))) {
			t.Errorf("%+v", c)
		}
	}
}
