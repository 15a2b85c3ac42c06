package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// heard are the conditions of which only the node itself can know.
var heard = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// Unknown are the conditions of a node that nobody hears of.
func Unknown(conditions []corev1.NodeCondition, created metav1.Time, now time.Time) []corev1.NodeCondition {
	conditions = slices.Clone(conditions)
	for _, kind := range heard {
		c := condition(conditions, kind)
		if c == nil {
			conditions = append(conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: created, LastTransitionTime: metav1.NewTime(now),
			})
			continue
		}
		if c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	return conditions
}

// lost says that the node's conditions say already that nobody hears of it.
func lost(node *corev1.Node) bool {
	return !slices.ContainsFunc(heard, func(kind corev1.NodeConditionType) bool {
		c := condition(node.Status.Conditions, kind)
		return c == nil || c.Status != corev1.ConditionUnknown
	})
}

// condition points into the list.
func condition(list []corev1.NodeCondition, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

// Rule says what is to be done about the taint by which pods are evicted.
type Rule int

// The rules. A node that is ready has no such taint under any.
const (
	Keep  Rule = iota // it stays if it is there
	Evict             // it is to be there
	Spare             // it is not to be there
)

// causes are the taints that follow from conditions.
var causes = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
}

// Taints are those that a node is to have: those of others as they are, and ours.
func Taints(node *corev1.Node, rule Rule, now time.Time) []corev1.Taint {
	want := map[corev1.Taint]bool{} // by key and effect
	add := func(key string, effect corev1.TaintEffect) { want[corev1.Taint{Key: key, Effect: effect}] = true }
	for _, cause := range causes {
		if c := condition(node.Status.Conditions, cause.condition); c != nil && c.Status == cause.status {
			add(cause.key, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	if key := executing(node); key != "" && rule != Spare {
		other := corev1.TaintNodeNotReady
		if key == other {
			other = corev1.TaintNodeUnreachable
		}
		// A node that becomes unreachable when it was not ready, or the other way round, changes its taint without a new leave.
		if rule == Evict || has(node.Spec.Taints, key, corev1.TaintEffectNoExecute) || has(node.Spec.Taints, other, corev1.TaintEffectNoExecute) {
			add(key, corev1.TaintEffectNoExecute)
		}
	}
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(id) || want[id] {
			taints = append(taints, t)
			delete(want, id)
		}
	}
	at := metav1.NewTime(now).Rfc3339Copy()
	for _, id := range order {
		if want[id] {
			id.TimeAdded = &at
			taints = append(taints, id)
		}
	}
	return taints
}

// order are all taints that this controller gives and takes.
var order = func() (all []corev1.Taint) {
	for _, c := range causes {
		all = append(all, corev1.Taint{Key: c.key, Effect: corev1.TaintEffectNoSchedule})
	}
	return append(all, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
		corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
		corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
}()

func ours(id corev1.Taint) bool { return slices.Contains(order, id) }

// executing is the taint by which the node's pods are evicted, if any is due.
func executing(node *corev1.Node) string {
	c := condition(node.Status.Conditions, corev1.NodeReady)
	switch {
	case c == nil || c.Status == corev1.ConditionTrue:
		return ""
	case c.Status == corev1.ConditionFalse:
		return corev1.TaintNodeNotReady
	}
	return corev1.TaintNodeUnreachable
}

// evicting says that the node has a taint by which pods are evicted.
func evicting(node *corev1.Node) bool {
	return has(node.Spec.Taints, corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute) || has(node.Spec.Taints, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
}

func has(taints []corev1.Taint, key string, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value })
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func unready(s *corev1.PodStatus, generation int64, now time.Time) {
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			c.Status, c.LastTransitionTime, c.ObservedGeneration = corev1.ConditionFalse, metav1.NewTime(now), generation
		}
	}
}
