package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// namespace explains one that does not go.
func (l *look) namespace(o *corev1.Namespace) state {
	if o.DeletionTimestamp == nil {
		return well("is Active")
	}
	s := ill("has been Terminating %s", l.since(o.DeletionTimestamp.Time))
	for _, c := range o.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			s.because("%s", oneLine(c.Message))
		}
	}
	left, err := l.w.Left(o.Name)
	if err != nil {
		l.failed(err)
	}
	slices.SortStableFunc(left, func(a, b Leftover) int { return strings.Compare(a.Resource+"/"+a.Name, b.Resource+"/"+b.Name) })
	const most = 20
	var waiting []string
	for _, thing := range left {
		if len(s.Causes) == most {
			s.because("and more: there are %s", count(len(left), "object"))
			break
		}
		switch {
		case len(thing.Finalizers) > 0:
			c := s.because("%s/%s is held by the finalizers %s", thing.Resource, thing.Name, strings.Join(thing.Finalizers, ", "))
			c.because("whoever serves them has not taken them off, and may not run any more")
		case thing.Deleted && thing.Resource == "pods":
			if p := one[*corev1.Pod](l, "pods", o.Name, thing.Name); p != nil {
				of := l.pod(p)
				s.because("pod/%s %s", p.Name, of.Text).Causes = of.Causes
			}
		case thing.Deleted:
			s.because("%s/%s is being deleted", thing.Resource, thing.Name)
		default:
			waiting = append(waiting, thing.Resource+"/"+thing.Name)
		}
	}
	if len(waiting) > 0 {
		s.because("not told to go yet: %s", some(waiting))
	}
	if i := slices.IndexFunc(left, func(t Leftover) bool { return len(t.Finalizers) > 0 }); i >= 0 {
		s.advise("To let it go: see what runs that takes these finalizers off, and does not; only if it is gone for good: %s", unfinalize(o.Name, left[i].Resource, left[i].Name))
	}
	if others := slices.DeleteFunc(slices.Clone(o.Spec.Finalizers), func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes }); len(others) > 0 {
		s.because("the namespace itself is held by spec.finalizers %s", join(others))
	}
	if len(o.Finalizers) > 0 {
		s.because("the namespace itself is held by the finalizers %s", strings.Join(o.Finalizers, ", "))
	}
	if len(s.Causes) == 0 {
		s.because("nothing is left in it: it goes at any moment")
	}
	return s
}

func join[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = string(t)
	}
	return strings.Join(texts, ", ")
}

func nodeCondition(n *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func nodeReady(n *corev1.Node) bool {
	c := nodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// node explains one that takes no pods, or runs none.
func (l *look) node(n *corev1.Node) state {
	ready := nodeCondition(n, corev1.NodeReady)
	var s state
	switch {
	case ready == nil:
		s = ill("is not ready: it has not said anything of itself yet")
		s.because("it was made %s, and its agent has not reported since", l.ago(n.CreationTimestamp.Time))
		s.advise("To bring it back: see that `sampan agent` runs on that machine and reaches the server")
	case ready.Status == corev1.ConditionUnknown:
		s = ill("is not ready: nothing is heard of it %s", l.since(l.heard(n, ready)))
		s.because("%s: %s", ready.Reason, oneLine(ready.Message))
		s.because("its last sign of life was %s", l.ago(l.heard(n, ready)))
		s.advise("To bring it back: see that the machine is up, that `sampan agent` runs on it, and that it reaches the server")
	case ready.Status != corev1.ConditionTrue:
		s = ill("is not ready %s", l.since(ready.LastTransitionTime.Time))
		s.because("its agent says: %s: %s", ready.Reason, oneLine(ready.Message))
	default:
		s = well("is Ready")
	}
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue {
			s.well = false
			s.because("%s %s: %s", c.Type, l.since(c.LastTransitionTime.Time), oneLine(c.Message))
		}
	}
	var taints []string
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !(t.Key == corev1.TaintNodeUnschedulable && n.Spec.Unschedulable) {
			taints = append(taints, taintText(t))
		}
	}
	if len(taints) > 0 {
		s.because("pods come here only if they tolerate %s %s", map[bool]string{true: "the taint", false: "the taints"}[len(taints) == 1], strings.Join(taints, ", "))
	}
	if n.Spec.Unschedulable {
		if s.well {
			s.well, s.Text = false, "is Ready, but cordoned"
		}
		s.because("it is cordoned: new pods do not come here")
		l.drained(&s, n)
		s.advise("To let pods come again: `kubectl uncordon %s`", n.Name)
	}
	if s.well && len(taints) > 0 {
		s.Text = "is Ready, for pods that tolerate its taints"
	}
	return s
}

// heard is when the node last gave a sign of life: its lease is renewed more often than its status.
func (l *look) heard(n *corev1.Node, ready *corev1.NodeCondition) (last time.Time) {
	last = ready.LastHeartbeatTime.Time
	if lease := one[*coordinationv1.Lease](l, "leases", corev1.NamespaceNodeLease, n.Name); lease != nil && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(last) {
		last = lease.Spec.RenewTime.Time
	}
	return last
}

// drained says which pods of a cordoned node budgets keep there.
func (l *look) drained(s *state, n *corev1.Node) {
	for _, p := range all[*corev1.Pod](l, "pods", "") {
		if p.Spec.NodeName != n.Name || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if c := metav1.GetControllerOfNoCopy(p); c != nil && c.Kind == "DaemonSet" {
			continue
		}
		for _, b := range all[*policyv1.PodDisruptionBudget](l, "poddisruptionbudgets", p.Namespace) {
			if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(p.Labels)) && b.Status.DisruptionsAllowed == 0 {
				s.because("pod %s/%s cannot be drained: poddisruptionbudget/%s %s", p.Namespace, p.Name, b.Name, budgetText(b))
			}
		}
	}
}

func budgetText(b *policyv1.PodDisruptionBudget) string {
	return "lets none of its pods go: " + healthText(b)
}

func healthText(b *policyv1.PodDisruptionBudget) string {
	healthy := int(b.Status.CurrentHealthy)
	return fmt.Sprintf("%d of %d %s healthy, and %d must be", healthy, b.Status.ExpectedPods, isAre(healthy), b.Status.DesiredHealthy)
}

// budget explains one that lets no pod go.
func (l *look) budget(b *policyv1.PodDisruptionBudget) state {
	if b.Status.ObservedGeneration < b.Generation {
		return ill("has not been looked at yet (generation %d, seen %d)", b.Generation, b.Status.ObservedGeneration)
	}
	if b.Status.DisruptionsAllowed > 0 {
		return well("lets %s go: %s", count(int(b.Status.DisruptionsAllowed), "pod"), healthText(b))
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		selector = labels.Nothing()
	}
	var pods []*corev1.Pod
	for _, p := range all[*corev1.Pod](l, "pods", b.Namespace) {
		if selector.Matches(labels.Set(p.Labels)) {
			pods = append(pods, p)
		}
	}
	s := ill("%s", budgetText(b))
	for _, c := range b.Status.Conditions {
		if c.Type == policyv1.DisruptionAllowedCondition && c.Status != metav1.ConditionTrue && c.Message != "" {
			s.because("%s: %s", c.Reason, oneLine(c.Message))
		}
	}
	switch stuck := l.group(&s.Cause, pods, len(pods)); {
	case len(pods) == 0:
		s.because("no pod matches its selector %s", selector)
	case stuck == 0 && b.Status.DesiredHealthy >= b.Status.ExpectedPods:
		s.because("it asks for all of its pods to stay, so that none may ever be evicted")
		s.advise("To let nodes be drained: allow one pod to be away (maxUnavailable: 1), or have one more replica")
	}
	return s
}
