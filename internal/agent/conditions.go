package agent

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// owned are the conditions that the agent writes; all others are kept as they are.
var owned = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
}

func (s statusOf) setConditions(st *corev1.PodStatus) {
	old := map[corev1.PodConditionType]corev1.PodCondition{}
	var rest []corev1.PodCondition
	for _, c := range st.Conditions {
		old[c.Type] = c
		if !slices.Contains(owned, c.Type) {
			rest = append(rest, c)
		}
	}
	st.Conditions = nil
	containers := s.containersReady(*st)
	for _, c := range []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: truth(s.Seen.Current() != nil)},
		s.initialized(*st),
		s.ready(containers, rest),
		containers,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	} {
		c.ObservedGeneration = s.Pod.Generation
		c.LastTransitionTime = metav1.NewTime(s.Now).Rfc3339Copy()
		if was, ok := old[c.Type]; ok {
			if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
			c.LastProbeTime = was.LastProbeTime
			if c.Type == corev1.PodScheduled {
				c.Reason, c.Message = was.Reason, was.Message
				if c.Status == corev1.ConditionTrue && was.Status != corev1.ConditionTrue {
					c.Reason, c.Message = "", ""
				}
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	st.Conditions = append(st.Conditions, rest...)
}

func truth(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func (s statusOf) initialized(st corev1.PodStatus) corev1.PodCondition {
	done := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if st.Phase == corev1.PodSucceeded {
		done.Reason = "PodCompleted"
		return done
	}
	for _, c := range st.ContainerStatuses { // it was initialized once if any other container has started since
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil && s.here(c.Name) {
			return done
		}
	}
	var incomplete []string
	for i, c := range st.InitContainerStatuses {
		if isSidecar(&s.Pod.Spec.InitContainers[i]) && (c.Started == nil || !*c.Started) || !isSidecar(&s.Pod.Spec.InitContainers[i]) && !c.Ready {
			incomplete = append(incomplete, c.Name)
		}
	}
	if len(incomplete) == 0 {
		return done
	}
	return corev1.PodCondition{
		Type: corev1.PodInitialized, Status: corev1.ConditionFalse, Reason: "ContainersNotInitialized",
		Message: fmt.Sprintf("containers with incomplete status: %s", incomplete),
	}
}

func (s statusOf) here(name string) bool {
	c, current := s.Seen.Newest(name), s.Seen.Current()
	return c != nil && current != nil && c.Sandbox == current.ID
}

func (s statusOf) containersReady(st corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch st.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i, cs := range st.InitContainerStatuses {
		if isSidecar(&s.Pod.Spec.InitContainers[i]) && !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	for _, cs := range st.ContainerStatuses {
		if !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

func (s statusOf) ready(containers corev1.PodCondition, others []corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range s.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(others, func(o corev1.PodCondition) bool { return o.Type == gate.ConditionType })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case others[i].Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf(`the status of pod readiness gate %q is not "True", but %v`, gate.ConditionType, others[i].Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}
