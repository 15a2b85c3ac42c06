package agent

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// shortageWords are the words of the conditions by which a node says that something runs short: those when it does, and those when it does not.
var shortageWords = []struct {
	kind                corev1.NodeConditionType
	isReason, isWords   string
	notReason, notWords string
	is, not             string // reasons of events
}{
	{
		corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasInsufficientMemory", "NodeHasSufficientMemory",
	},
	{
		corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure",
	},
	{
		corev1.NodePIDPressure, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasInsufficientPID", "NodeHasSufficientPID",
	},
}

// shortages are the conditions of a node that is short of these.
func shortages(short []corev1.NodeConditionType) (all []corev1.NodeCondition) {
	for _, w := range shortageWords {
		c := corev1.NodeCondition{Type: w.kind, Status: corev1.ConditionFalse, Reason: w.notReason, Message: w.notWords}
		if slices.Contains(short, w.kind) {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, w.isReason, w.isWords
		}
		all = append(all, c)
	}
	return all
}

// told is what events have said of the node since the agent's start.
type told struct {
	status        map[corev1.NodeConditionType]corev1.ConditionStatus
	unschedulable bool
	enforced      bool
	fresh         bool // the node has been made, and is not known to be ready yet
}

// tell says by events what has changed about the node; each start tells of all that it can be short of. was is the node as others knew it.
func (k *nodeKeeper) tell(was, is *corev1.Node) {
	say := func(reason string) {
		k.agent.cfg.Events.Record(k.ref(), corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", k.agent.cfg.NodeName, reason))
	}
	if k.told.status == nil {
		k.told.status = map[corev1.NodeConditionType]corev1.ConditionStatus{}
	}
	for _, w := range shortageWords {
		for _, c := range is.Status.Conditions {
			if c.Type != w.kind || k.told.status[c.Type] == c.Status {
				continue
			}
			k.told.status[c.Type] = c.Status
			if c.Status == corev1.ConditionTrue {
				say(w.is)
			} else {
				say(w.not)
			}
		}
	}
	if !k.told.enforced && k.agent.enforced.Load() { // after the node is there: the cluster itself may be new
		k.told.enforced = true
		k.agent.cfg.Events.Record(k.ref(), corev1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
	}
	if ready := readiness(is); ready != (readiness(was) && !k.told.fresh) {
		k.told.fresh = false
		if ready {
			say("NodeReady")
		} else {
			say("NodeNotReady")
		}
	}
	if is.Spec.Unschedulable != k.told.unschedulable {
		k.told.unschedulable = is.Spec.Unschedulable
		if k.told.unschedulable {
			say("NodeNotSchedulable")
		} else {
			say("NodeSchedulable")
		}
	}
}
