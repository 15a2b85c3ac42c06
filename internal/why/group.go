package why

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// group explains pods of one owner: each distinct cause once, with how many pods it holds up. It returns how many are not well.
func (l *look) group(c *Cause, pods []*corev1.Pod, most int) (stuck int) {
	type alike struct {
		first *corev1.Pod
		state state
		count int
	}
	var list []*alike
	byLook := map[string]*alike{}
	for _, p := range pods {
		key := lookOf(p)
		if a := byLook[key]; a != nil {
			a.count++
			continue
		}
		a := &alike{first: p, state: l.pod(p), count: 1}
		byLook[key] = a
		list = append(list, a)
	}
	for _, a := range list {
		if a.state.well {
			continue
		}
		stuck += a.count
		below := a.state.Cause
		switch {
		case most == 1:
			below.Text = fmt.Sprintf("its only pod, pod/%s, %s", a.first.Name, a.state.Text)
		case a.count == 1:
			below.Text = fmt.Sprintf("%d of %d pods (pod/%s) %s", a.count, most, a.first.Name, a.state.Text)
		default:
			below.Text = fmt.Sprintf("%d of %d pods are like pod/%s, which %s", a.count, most, a.first.Name, a.state.Text)
		}
		c.Causes = append(c.Causes, &below)
	}
	return stuck
}

// lookOf is what pods have in common that stand still for one reason. What names the pod itself is left out.
func lookOf(p *corev1.Pod) string {
	var b strings.Builder
	say := func(words ...any) { fmt.Fprint(&b, append(words, "\x00")...) }
	say(p.Status.Phase, p.Status.Reason, p.DeletionTimestamp != nil, p.Spec.SchedulerName, p.Status.NominatedNodeName, len(p.Spec.SchedulingGates), p.Spec.NodeName == "")
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodScheduled:
			say(c.Status, c.Message)
		case c.Type == corev1.PodReady:
			say(c.Status, c.Reason, c.Message)
		}
	}
	if p.DeletionTimestamp != nil {
		say(p.Finalizers, p.Spec.NodeName)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			say(c.Name, c.Ready, c.State.Running != nil)
			if w := c.State.Waiting; w != nil {
				say(w.Reason)
				if w.Reason != "CrashLoopBackOff" {
					say(w.Message)
				}
			}
			if t := c.LastTerminationState.Terminated; t != nil && !c.Ready {
				say(t.ExitCode, t.Reason)
			}
			if t := c.State.Terminated; t != nil {
				say(t.ExitCode, t.Reason)
			}
		}
	}
	return b.String()
}

// owned are the pods that the object controls.
func (l *look) owned(o Object) (list []*corev1.Pod) {
	for _, p := range all[*corev1.Pod](l, "pods", o.GetNamespace()) {
		if ownedBy(p, o) {
			list = append(list, p)
		}
	}
	return list
}

var noAccount = regexp.MustCompile(`serviceaccount "([^"]+)" not found`)

// refused says why an owner cannot create its pods, in the words of the one that refused it. True: it is so.
func (l *look) refused(c *Cause, o Object, message string) bool {
	e := l.lastEvent(o, nil, "FailedCreate")
	if e != nil {
		message = e.Message
	}
	if message == "" {
		return false
	}
	when := ""
	if e != nil {
		when = ", " + l.times(e)
	}
	message = strings.TrimPrefix(message, "(combined from similar events): ")
	below := c.because("its pods are refused%s: %s", when, oneLine(message))
	lower := strings.ToLower(message)
	switch {
	case strings.Contains(lower, "exceeded quota"):
		c.advise("To let them be made: raise the quota or ask for less; %s shows what is used", kubectl(o.GetNamespace(), "describe resourcequota"))
	case strings.Contains(lower, "limitrange") || strings.Contains(lower, "usage per"):
		c.advise("To let them be made: keep to the namespace's LimitRange (%s)", kubectl(o.GetNamespace(), "describe limitrange"))
	case strings.Contains(lower, "serviceaccount") && strings.Contains(lower, "not found"):
		name := "NAME"
		if m := noAccount.FindStringSubmatch(message); m != nil {
			name = m[1]
		}
		c.advise("To let them be made: create that service account (%s)", kubectl(o.GetNamespace(), "create serviceaccount "+name))
	case strings.Contains(lower, "violates podsecurity"):
		c.advise("To let them be made: change the template so that it keeps to the namespace's Pod Security Standard, or the label pod-security.kubernetes.io/enforce of namespace %s", o.GetNamespace())
	case strings.Contains(lower, "priorityclass") && strings.Contains(lower, "no priorityclass"):
		c.advise("To let them be made: create that PriorityClass, or name one that is there (`kubectl get priorityclasses`)")
	case strings.Contains(lower, "admission webhook"):
		below.because("an admission webhook of this cluster said so")
	}
	return true
}
