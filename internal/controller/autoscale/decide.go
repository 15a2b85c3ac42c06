package autoscale

import (
	"errors"
	"fmt"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// usualTolerance is by how much a metric may be off where a behavior does not say.
const usualTolerance = 0.1

// Target is the scale of what is scaled.
type Target struct {
	UID          types.UID
	Wanted, Have int32
	Selector     string
}

// Seen is what the metrics are computed from.
type Seen struct {
	Pods    []*corev1.Pod // that the target's selector selects
	Rivals  []string      // autoscalers of these pods, this one among them, by namespace and name and sorted
	Samples []Sample      // one for each metric of the spec
}

// Event is something to tell of the autoscaler.
type Event struct{ Type, Reason, Words string }

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Rescale  bool // the target is to have Replicas, for this reason
	Replicas int32
	Reason   string
	Target   Target                                      // as it was decided on
	Status   autoscalingv2.HorizontalPodAutoscalerStatus // before the target is rescaled
	Events   []Event
	Memory   Memory

	behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
}

// begin makes a plan that leaves all as it is.
func begin(h *autoscalingv2.HorizontalPodAutoscaler, m Memory) Plan {
	p := Plan{Status: *h.Status.DeepCopy(), Memory: m, behavior: h.Spec.Behavior}
	p.Status.ObservedGeneration = new(h.Generation)
	return p
}

func (p *Plan) warn(reason, words string) {
	p.Events = append(p.Events, Event{corev1.EventTypeWarning, reason, words})
}

// say sets a condition. Its time is that of the last change of status.
func (p *Plan) say(kind autoscalingv2.HorizontalPodAutoscalerConditionType, is bool, v verdict, now time.Time) {
	c := autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: kind, Status: corev1.ConditionFalse, Reason: v.reason, Message: v.words, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
	}
	if is {
		c.Status = corev1.ConditionTrue
	}
	for i := range p.Status.Conditions {
		was := &p.Status.Conditions[i]
		if was.Type != kind {
			continue
		}
		if was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
		*was = c
		return
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}

// Unreachable is the plan where the target's scale cannot be read.
func Unreachable(h *autoscalingv2.HorizontalPodAutoscaler, m Memory, err error, now time.Time) Plan {
	p := begin(h, m)
	p.warn("FailedGetScale", err.Error())
	p.say(autoscalingv2.AbleToScale, false, verdict{"FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err)}, now)
	return p
}

// Asks says that the metrics decide; else the bounds alone do.
func Asks(h *autoscalingv2.HorizontalPodAutoscaler, t Target) bool {
	least := leastOf(&h.Spec)
	return !(t.Wanted == 0 && least != 0) && t.Wanted <= h.Spec.MaxReplicas && t.Wanted >= least
}

// Decide says how many replicas the target shall have. What is seen counts only if the autoscaler Asks.
func Decide(h *autoscalingv2.HorizontalPodAutoscaler, t Target, seen Seen, m Memory, now time.Time) Plan {
	if len(m.recommended) == 0 {
		m.recommended = []point{{t.Wanted, now}}
	}
	p := begin(h, m)
	p.Target, p.Replicas = t, t.Wanted
	p.Status.CurrentReplicas = t.Wanted
	p.say(autoscalingv2.AbleToScale, true, verdict{"SucceededGetScale", "the HPA controller was able to get the target's current scale"}, now)
	var metrics []autoscalingv2.MetricStatus
	switch least := leastOf(&h.Spec); {
	case t.Wanted == 0 && least != 0:
		p.say(autoscalingv2.ScalingActive, false, verdict{"ScalingDisabled", "scaling is disabled since the replica count of the target is zero"}, now)
	case t.Wanted > h.Spec.MaxReplicas:
		p.Replicas, p.Reason = h.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case t.Wanted < least:
		p.Replicas, p.Reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		asked, from, statuses, err := p.compute(h, t, seen, now)
		if metrics = statuses; err != nil {
			p.Status.CurrentMetrics = metrics
			p.warn("FailedComputeMetricsReplicas", err.Error())
			return p
		}
		switch {
		case asked > t.Wanted:
			p.Reason = from + " above target"
		case asked < t.Wanted:
			p.Reason = "All metrics below target"
		}
		var b bounded
		b, p.Memory = bound(&h.Spec, p.Memory, t.Wanted, asked, now)
		p.say(autoscalingv2.AbleToScale, true, b.able, now)
		p.say(autoscalingv2.ScalingLimited, b.capped, b.limited, now)
		p.Replicas = b.replicas
	}
	p.Rescale = p.Replicas != t.Wanted
	p.Status.CurrentMetrics, p.Status.DesiredReplicas = metrics, p.Replicas
	return p
}

// compute asks all metrics, and takes the highest answer. If one cannot be asked, nothing is scaled down.
func (p *Plan) compute(h *autoscalingv2.HorizontalPodAutoscaler, t Target, seen Seen, now time.Time) (asked int32, from string, statuses []autoscalingv2.MetricStatus, err error) {
	if err := p.selectable(t, seen, now); err != nil {
		return 0, "", nil, err
	}
	statuses = make([]autoscalingv2.MetricStatus, len(h.Spec.Metrics))
	failures := 0
	var first *refusal
	for i := range h.Spec.Metrics {
		q := question{
			spec: &h.Spec.Metrics[i], sample: Sample{Err: errors.New("nothing was measured")}, pods: seen.Pods, target: t,
			namespace: h.Namespace, tolerance: toleranceOf(h.Spec.Behavior), now: now,
		}
		if i < len(seen.Samples) {
			q.sample = seen.Samples[i]
		}
		answer, refused := q.answer()
		if refused != nil {
			p.warn(refused.reason, refused.cause.Error())
			if failures++; first == nil {
				first = refused
			}
			continue
		}
		statuses[i] = answer.status
		if asked == 0 || answer.replicas > asked {
			asked, from = answer.replicas, answer.from
		}
	}
	if failures >= len(h.Spec.Metrics) || failures > 0 && asked < t.Wanted {
		if first == nil {
			return 0, "", statuses, errors.New("no metrics")
		}
		p.say(autoscalingv2.ScalingActive, false, verdict{first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause)}, now)
		return 0, "", statuses, fmt.Errorf("invalid metrics (%v invalid out of %v), first error is: %v", failures, len(h.Spec.Metrics), first.whole)
	}
	p.say(autoscalingv2.ScalingActive, true, verdict{"ValidMetricFound", "the HPA was able to successfully calculate a replica count from " + from}, now)
	return asked, from, statuses, nil
}

// selectable demands a selector whose pods are nobody else's.
func (p *Plan) selectable(t Target, seen Seen, now time.Time) error {
	refuse := func(event, reason, words, told string) error {
		p.warn(event, words)
		p.say(autoscalingv2.ScalingActive, false, verdict{reason, told}, now)
		return errors.New(words)
	}
	if t.Selector == "" {
		return refuse("SelectorRequired", "InvalidSelector", "selector is required", "the HPA target's scale is missing a selector")
	}
	if _, err := labels.Parse(t.Selector); err != nil {
		words := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return refuse("InvalidSelector", "InvalidSelector", words, words)
	}
	if len(seen.Rivals) > 1 {
		words := fmt.Sprintf("pods by selector %v are controlled by multiple HPAs: [%s]", t.Selector, strings.Join(seen.Rivals, " "))
		return refuse("AmbiguousSelector", "AmbiguousSelector", words, words)
	}
	return nil
}

func toleranceOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerance {
	t := tolerance{down: usualTolerance, up: usualTolerance}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

// Done is the plan after the target was rescaled.
func (p Plan) Done(now time.Time) Plan {
	p.say(autoscalingv2.AbleToScale, true, verdict{"SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", p.Replicas)}, now)
	p.Events = append(p.Events, Event{corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", p.Replicas, p.Reason)})
	p.Status.LastScaleTime = new(metav1.NewTime(now).Rfc3339Copy())
	p.Memory = p.Memory.scaled(p.behavior, p.Target.Wanted, p.Replicas, now)
	return p
}

// Failed is the plan after the target could not be rescaled. Was is how many replicas were asked for before.
func (p Plan) Failed(err error, was int32, now time.Time) Plan {
	p.warn("FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", p.Replicas, p.Reason, err))
	p.say(autoscalingv2.AbleToScale, false, verdict{"FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err)}, now)
	p.Status.DesiredReplicas = was
	return p
}
