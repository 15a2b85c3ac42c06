package disruption

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/workload"
)

// Scale is what a controller of pods wants.
type Scale struct {
	UID        types.UID
	Replicas   int32
	Controller *metav1.OwnerReference // of the controller itself; nil if it has none
}

// Scales finds the scale of a pod's controller: nil if there is no such object, an error if its kind has none.
type Scales func(metav1.OwnerReference) (*Scale, error)

// Event is something to tell.
type Event struct {
	Pod           *corev1.Pod // nil: of the budget itself
	Type          string
	Reason, Words string
}

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Status *policyv1.PodDisruptionBudgetStatus // nil: it is as it shall be
	Events []Event
	Again  time.Duration // when to look again although nothing has changed; zero: never
}

// Decide computes how many of a budget's pods may be disrupted.
func Decide(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scales Scales, now time.Time) (p Plan) {
	if len(pods) == 0 {
		p.tell(corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	n, err := count(b, pods, scales)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", fmt.Sprintf("Failed to calculate the number of expected pods: %v", err))
		p.Status = failed(b, err, now)
		return p
	}
	if n.unmanaged {
		p.tell(corev1.EventTypeWarning, "UnmanagedPods", fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector))
	}
	going := p.disrupted(b, pods, now)
	p.Status = n.status(b, healthy(pods, going, now), going, now)
	return p
}

func (p *Plan) tell(kind, reason, words string) {
	p.Events = append(p.Events, Event{Type: kind, Reason: reason, Words: words})
}

// counts is what a budget asks for.
type counts struct {
	expected, desired int32
	unmanaged         bool // some pods have no controller, and are not in expected
}

func count(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, scales Scales) (n counts, err error) {
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	switch {
	case most != nil:
		if err := n.expect(pods, scales); err != nil {
			return n, err
		}
		part, err := intstr.GetScaledValueFromIntOrPercent(most, int(n.expected), true)
		n.desired = max(n.expected-int32(part), 0)
		return n, err
	case least == nil:
	case least.Type == intstr.Int:
		n.expected, n.desired = int32(len(pods)), least.IntVal
	default:
		if err := n.expect(pods, scales); err != nil {
			return n, err
		}
		part, err := intstr.GetScaledValueFromIntOrPercent(least, int(n.expected), true)
		n.desired = int32(part)
		return n, err
	}
	return n, nil
}

// expect sums up what the controllers of the pods want.
func (n *counts) expect(pods []*corev1.Pod, scales Scales) error {
	wanted := map[types.UID]int32{} // by controller, or by what controls it
	known := map[types.UID]bool{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			n.unmanaged = true
			continue
		}
		if known[ref.UID] {
			continue
		}
		s, err := scaleOf(*ref, scales)
		if err != nil {
			return err
		}
		if s == nil {
			return fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		known[ref.UID], wanted[s.UID] = true, s.Replicas
	}
	for _, replicas := range wanted {
		n.expected += replicas
	}
	return nil
}

// scaleOf follows a ReplicaSet to its Deployment.
func scaleOf(ref metav1.OwnerReference, scales Scales) (*Scale, error) {
	s, err := scales(ref)
	if err != nil || s == nil || s.UID != ref.UID {
		return nil, err
	}
	if up := s.Controller; up != nil && ref.Kind == "ReplicaSet" && up.Kind == "Deployment" {
		d, err := scales(*up)
		if err != nil {
			return nil, err
		}
		if d != nil && d.UID == up.UID {
			return d, nil
		}
	}
	return s, nil
}

// disrupted keeps of the evicted pods those that are still to go, and tells of those that did not.
func (p *Plan) disrupted(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) map[string]metav1.Time {
	going := map[string]metav1.Time{}
	for _, pod := range pods {
		since, evicted := b.Status.DisruptedPods[pod.Name]
		if !evicted || pod.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(Timeout).Sub(now)
		if left < 0 {
			p.Events = append(p.Events, Event{
				Pod: pod, Type: corev1.EventTypeWarning, Reason: "NotDeleted",
				Words: fmt.Sprintf("Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name),
			})
			continue
		}
		going[pod.Name] = since
		if left = max(left, time.Millisecond); p.Again == 0 || left < p.Again {
			p.Again = left
		}
	}
	return going
}

func healthy(pods []*corev1.Pod, going map[string]metav1.Time, now time.Time) (n int32) {
	for _, pod := range pods {
		if since, ok := going[pod.Name]; ok && since.Add(Timeout).After(now) {
			continue
		}
		if pod.DeletionTimestamp == nil && workload.Ready(pod) {
			n++
		}
	}
	return n
}

// status is the budget's status as it shall be, or nil if it is that.
func (n counts) status(b *policyv1.PodDisruptionBudget, healthy int32, going map[string]metav1.Time, now time.Time) *policyv1.PodDisruptionBudgetStatus {
	s := b.Status.DeepCopy()
	s.ObservedGeneration, s.DisruptedPods = b.Generation, going
	s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods = healthy, n.desired, n.expected
	s.DisruptionsAllowed = 0
	if n.expected > 0 { // a budget without pods allows nothing: the first pods may come before it is looked at again
		s.DisruptionsAllowed = max(healthy-n.desired, 0)
	}
	c := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: s.ObservedGeneration, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
	}
	if s.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, c)
	if equality.Semantic.DeepEqual(s, &b.Status) {
		return nil
	}
	return s
}

// failed is the status of a budget that cannot be computed: it allows nothing. Nil if it says so already.
func failed(b *policyv1.PodDisruptionBudget, err error, now time.Time) *policyv1.PodDisruptionBudgetStatus {
	s := b.Status.DeepCopy()
	s.DisruptionsAllowed = 0
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error(),
		ObservedGeneration: s.ObservedGeneration, LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
	})
	if equality.Semantic.DeepEqual(s, &b.Status) {
		return nil
	}
	return s
}

// Stale says when a pod's condition DisruptionTarget is to be taken back: its deletion was announced and did not come. Zero: now.
func Stale(pod *corev1.Pod, now time.Time) (in time.Duration, ok bool) {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0, false
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != corev1.DisruptionTarget {
			continue
		}
		// The node may take its time with what it has announced itself.
		if c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
			return 0, false
		}
		return max(c.LastTransitionTime.Add(Timeout).Sub(now), 0), true
	}
	return 0, false
}
