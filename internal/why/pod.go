package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// pod explains a pod, from what stands first in its way.
func (l *look) pod(p *corev1.Pod) state {
	switch {
	case p.DeletionTimestamp != nil:
		return l.ending(p)
	case p.Status.Phase == corev1.PodSucceeded:
		return well("has completed")
	case p.Status.Phase == corev1.PodFailed:
		return l.hasFailed(p)
	case p.Spec.NodeName == "":
		return l.pending(p)
	}
	if s, lost := l.nodeLost(p); lost {
		return s
	}
	if s, stuck := l.containers(p); stuck {
		return s
	}
	if s, stuck := l.notBegun(p); stuck {
		return s
	}
	if ready := conditionOf(p, corev1.PodReady); ready == nil || ready.Status != corev1.ConditionTrue {
		return l.notReady(p, ready)
	}
	s := well("is running and ready")
	for _, c := range p.Status.ContainerStatuses {
		if ended := c.LastTerminationState.Terminated; c.RestartCount > 0 && ended != nil {
			s.because("container %s has been restarted %s: it %s, %s", c.Name, times(c.RestartCount), howEnded(p, c.Name, ended), l.ago(ended.FinishedAt.Time))
		}
	}
	return s
}

func times(n int32) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func conditionOf(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// nodeLost explains a pod whose node is gone, or of which nothing is heard.
func (l *look) nodeLost(p *corev1.Pod) (state, bool) {
	n := one[*corev1.Node](l, "nodes", "", p.Spec.NodeName)
	if n == nil {
		if len(l.unread) > 0 {
			return state{}, false
		}
		s := ill("is on node %s, which does not exist", p.Spec.NodeName)
		s.because("nobody runs the pod, or says how it is")
		s.advise("It is deleted by itself if its node was removed; to have it gone now: %s", kubectl(p.Namespace, "delete pod "+p.Name+" --force --grace-period=0"))
		return s, true
	}
	ready := nodeCondition(n, corev1.NodeReady)
	if ready == nil || ready.Status == corev1.ConditionTrue {
		return state{}, false
	}
	s := ill("cannot be relied on: its node %s is not ready", n.Name)
	of := l.node(n)
	s.because("node/%s %s", n.Name, of.Text).Causes = of.Causes
	for _, t := range p.Spec.Tolerations {
		if t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeUnreachable || t.Key == "") && ready.Status == corev1.ConditionUnknown {
			if t.TolerationSeconds == nil {
				s.because("the pod tolerates that for as long as it lasts, so that it is not made again elsewhere")
			} else {
				s.because("the pod tolerates that for %d s, and is deleted then, to be made again elsewhere by its owner", *t.TolerationSeconds)
			}
			break
		}
	}
	s.Advice = of.Advice
	return s, true
}

// ending explains a pod that is told to go and is still there.
func (l *look) ending(p *corev1.Pod) state {
	if p.DeletionTimestamp == nil {
		return ill("is not told to go")
	}
	end := p.DeletionTimestamp.Time
	begun := end
	if p.DeletionGracePeriodSeconds != nil {
		begun = end.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
	}
	s := ill("has been Terminating %s", l.since(begun))
	if p.Spec.NodeName != "" {
		n := one[*corev1.Node](l, "nodes", "", p.Spec.NodeName)
		switch {
		case n == nil && len(l.unread) == 0:
			s.because("its node %s does not exist any more, so that nobody confirms that its containers have ended", p.Spec.NodeName)
			s.advise("To have it gone now: %s", kubectl(p.Namespace, "delete pod "+p.Name+" --force --grace-period=0"))
			return s
		case n != nil && !nodeReady(n):
			c := s.because("its node %s does not answer, so that nobody confirms that its containers have ended", n.Name)
			c.Causes = append(c.Causes, l.node(n).Causes...)
			s.advise("If that machine is off for sure: `kubectl taint node %s node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`, and its pods are let go", n.Name)
			return s
		}
	}
	var running []string
	for _, c := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
		if c.State.Running != nil {
			running = append(running, c.Name)
		}
	}
	if len(running) > 0 {
		if l.now.Before(end) {
			s.because("container %s was told to end, and has %s left of its grace of %s", some(running), shortly(end.Sub(l.now)), shortly(end.Sub(begun)))
		} else {
			s.because("container %s still runs, though its grace of %s ended %s", some(running), shortly(end.Sub(begun)), l.ago(end))
			s.advise("To see what node %s runs into: `kubectl describe node %s`, and its agent's log; a process that waits for a disk or a network file system cannot be killed", p.Spec.NodeName, p.Spec.NodeName)
		}
		if e := l.lastEvent(p, nil, "FailedKillPod", "FailedPreStopHook"); e != nil {
			s.Causes[0].because("%s: %s", e.Reason, oneLine(e.Message))
		}
	}
	if len(p.Finalizers) > 0 {
		s.because("finalizers hold it: %s", strings.Join(p.Finalizers, ", "))
		s.advise("To let it go: see what runs that takes these finalizers off, and does not; only if it is gone for good: %s", unfinalize(p.Namespace, "pod", p.Name))
	}
	if len(s.Causes) == 0 {
		s.because("its containers have ended; its node cleans up after it")
	}
	return s
}

func unfinalize(namespace, kind, name string) string {
	return kubectl(namespace, "patch "+kind+" "+name+` --type=merge -p '{"metadata":{"finalizers":null}}'`)
}

func shortly(d time.Duration) string { return max(d, 0).Truncate(time.Second).String() }

// hasFailed explains a pod that is over and did not do its work.
func (l *look) hasFailed(p *corev1.Pod) state {
	var s state
	switch p.Status.Reason {
	case "":
		s = ill("has failed")
	case "Evicted":
		s = ill("was evicted from node %s", p.Spec.NodeName)
	default:
		s = ill("has failed: %s", p.Status.Reason)
	}
	if p.Status.Message != "" {
		s.because("%s", oneLine(p.Status.Message))
	}
	if c := conditionOf(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		s.because("%s: %s", c.Reason, oneLine(c.Message))
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			of := s.because("container %s %s, %s", c.Name, howEnded(p, c.Name, t), l.ago(t.FinishedAt.Time))
			l.lastLines(of, p, c.Name, t, false)
		}
	}
	switch {
	case p.Status.Reason == "Evicted":
		s.advise("It does not come back by itself; its owner makes another. To keep that one: ask for what it uses (resources.requests), or free the node of what it is short of")
	case len(p.OwnerReferences) == 0:
		s.advise("It does not run again: restartPolicy is %s. To try again: delete it, and create it anew", p.Spec.RestartPolicy)
	}
	return s
}

// notBegun explains a pod of which no container has come to anything, by what its node has told of it.
func (l *look) notBegun(p *corev1.Pod) (state, bool) {
	creating := len(p.Status.ContainerStatuses) == 0 && p.Status.Phase != corev1.PodRunning
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		creating = creating || c.State.Waiting != nil && (c.State.Waiting.Reason == "ContainerCreating" || c.State.Waiting.Reason == "PodInitializing")
		if c.State.Running != nil || c.State.Terminated != nil {
			return state{}, false
		}
	}
	if !creating {
		return state{}, false
	}
	e := l.lastEvent(p, nil, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedSync", "NetworkNotReady", "FailedCreatePodContainer")
	if e == nil {
		s := ill("is being started by node %s, %s", p.Spec.NodeName, l.since(started(p)))
		if pulling := l.lastEvent(p, nil, "Pulling", "Pulled", "Created", "Started"); pulling != nil {
			s.because("the last it was heard of, %s: %s", l.ago(happened(pulling)), oneLine(pulling.Message))
		}
		return s, true
	}
	what := map[string]string{
		"FailedMount": "a volume cannot be mounted", "FailedAttachVolume": "a volume cannot be attached",
		"FailedCreatePodSandBox": "its sandbox cannot be made", "NetworkNotReady": "the node's network is not ready",
	}[e.Reason]
	if what == "" {
		what = "its node cannot start it"
	}
	s := ill("does not start: %s", what)
	c := s.because("node %s says, %s: %s", p.Spec.NodeName, l.times(e), oneLine(e.Message))
	l.missing(&s.Cause, c, p, e.Message)
	return s, true
}

func started(p *corev1.Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return p.CreationTimestamp.Time
}

// times is how often something was said, and when last.
func (l *look) times(e *corev1.Event) string {
	n := e.Count
	if e.Series != nil {
		n = e.Series.Count
	}
	if n > 1 {
		return fmt.Sprintf("%d times, last %s", n, l.ago(happened(e)))
	}
	return l.ago(happened(e))
}

// notReady explains a pod whose containers run but that is not ready.
func (l *look) notReady(p *corev1.Pod, ready *corev1.PodCondition) state {
	var unready []string
	for _, c := range p.Status.ContainerStatuses {
		if !c.Ready && c.State.Running != nil {
			unready = append(unready, c.Name)
		}
	}
	s := ill("runs, but is not ready")
	for _, name := range unready {
		l.unreadyContainer(&s, p, name)
	}
	for _, gate := range p.Spec.ReadinessGates {
		c := conditionOf(p, gate.ConditionType)
		switch {
		case c == nil:
			s.because("readiness gate %s: nobody has set that condition", gate.ConditionType)
		case c.Status != corev1.ConditionTrue:
			s.because("readiness gate %s is %s: %s", gate.ConditionType, c.Status, oneLine(orNothing(strings.TrimSpace(c.Reason+" "+c.Message))))
		default:
			continue
		}
		s.advise("To make it ready: whoever serves the readiness gate %s has to set that condition of the pod to True", gate.ConditionType)
	}
	if len(s.Causes) == 0 && ready != nil {
		s.because("%s", oneLine(strings.TrimSpace(ready.Reason+" "+ready.Message)))
	}
	if len(s.Causes) == 0 {
		s.because("its node has not said anything of it yet")
	}
	return s
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), " / ")
}
