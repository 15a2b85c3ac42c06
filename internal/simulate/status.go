package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"sampan.dev/internal/resource/core"
)

func find(all []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// lastEnd is how a container that does not run ended last; nil: it never ran.
func lastEnd(st *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if st.State.Terminated != nil {
		return st.State.Terminated
	}
	if st.State.Waiting != nil && st.ContainerID != "" {
		return st.LastTerminationState.Terminated
	}
	return nil
}

func terminated(st *corev1.ContainerStatus, code int32, reason string, at time.Time) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, ContainerID: st.ContainerID, FinishedAt: metav1.NewTime(at).Rfc3339Copy()}
	if st.State.Running != nil {
		t.StartedAt = st.State.Running.StartedAt
	}
	return t
}

// containerID is of the form that a runtime gives, and says that there is none.
func containerID(pod *corev1.Pod, name string, attempt int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", pod.UID, name, attempt))
	return "simulated://" + hex.EncodeToString(sum[:])
}

func mountsOf(c *corev1.Container) (all []corev1.VolumeMountStatus) {
	for _, m := range c.VolumeMounts {
		mount := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mount.RecursiveReadOnly = new(corev1.RecursiveReadOnlyDisabled)
		}
		all = append(all, mount)
	}
	return all
}

func describe(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// restarts says whether a container that ended with that code is started again: by the first of its own rules that fits, by its own policy, or by the pod's.
func restarts(pod *corev1.Pod, c *corev1.Container, code int32) bool {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		listed := slices.Contains(rule.ExitCodes.Values, code)
		if listed == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return rule.Action == corev1.ContainerRestartRuleActionRestart
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	return policy != corev1.RestartPolicyNever && (policy != corev1.RestartPolicyOnFailure || code != 0)
}

// toleratesUnreachable is for how long a pod tolerates that its node is not reached: the first toleration that matches counts.
func toleratesUnreachable(pod *corev1.Pod) (d time.Duration, forever bool) {
	const longest = 100 * 365 * 24 * time.Hour
	taint := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		switch {
		case !t.ToleratesTaint(klog.Background(), &taint, true):
		case t.TolerationSeconds == nil:
			return 0, true
		default:
			return min(longest, time.Duration(min(max(*t.TolerationSeconds, 0), int64(longest/time.Second)))*time.Second), false
		}
	}
	return 0, false
}

// phaseOf sums up the containers. Ended says that none of them runs again.
func phaseOf(pod *corev1.Pod, s corev1.PodStatus, ended bool) corev1.PodPhase {
	pending := false
	for i := range s.InitContainerStatuses {
		st, c := &s.InitContainerStatuses[i], &pod.Spec.InitContainers[i]
		last := lastEnd(st)
		switch {
		case isSidecar(c):
			pending = pending || st.ContainerID == ""
		case st.Ready:
		case last != nil && last.ExitCode != 0 && (ended || !restarts(pod, c, last.ExitCode)):
			return corev1.PodFailed
		default:
			pending = true
		}
	}
	var running, again, failed bool
	for i := range s.ContainerStatuses {
		st := &s.ContainerStatuses[i]
		last := lastEnd(st)
		switch {
		case st.State.Running != nil:
			running = true
		case last == nil:
			pending = true
		default:
			failed = failed || last.ExitCode != 0
			again = again || restarts(pod, &pod.Spec.Containers[i], last.ExitCode)
		}
	}
	switch {
	case pending:
		return corev1.PodPending
	case running || again && !ended:
		return corev1.PodRunning
	case failed:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

// complete sets what of a status follows from its containers. Conditions of others stay.
func (d *decider) complete(s *corev1.PodStatus) {
	pod := d.Pod
	s.ObservedGeneration = pod.Generation
	if s.QOSClass == "" {
		s.QOSClass = core.QOS(pod)
	}
	over := s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
	ready := readiness(pod, s)
	own := []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: truth(s.PodIP != "" && !over)},
		initialized(pod, s),
		gated(pod, s, ready),
		ready,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	own[3].Type = corev1.ContainersReady
	was := s.Conditions
	s.Conditions = nil
	for _, c := range own {
		c.ObservedGeneration, c.LastTransitionTime = pod.Generation, metav1.NewTime(d.Now).Rfc3339Copy()
		if i := slices.IndexFunc(was, func(o corev1.PodCondition) bool { return o.Type == c.Type }); i >= 0 {
			if was[i].Status == c.Status {
				c.LastTransitionTime = was[i].LastTransitionTime
			}
			c.LastProbeTime = was[i].LastProbeTime
		}
		s.Conditions = append(s.Conditions, c)
	}
	for _, c := range was {
		if !slices.ContainsFunc(own, func(o corev1.PodCondition) bool { return o.Type == c.Type }) {
			s.Conditions = append(s.Conditions, c)
		}
	}
}

func truth(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func initialized(pod *corev1.Pod, s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if s.Phase == corev1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	if slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.ContainerID != "" }) {
		return c
	}
	var incomplete []string
	for i, st := range s.InitContainerStatuses {
		if sidecar := isSidecar(&pod.Spec.InitContainers[i]); sidecar && !*st.Started || !sidecar && !st.Ready {
			incomplete = append(incomplete, st.Name)
		}
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

func readiness(pod *corev1.Pod, s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch s.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i, st := range s.InitContainerStatuses {
		if isSidecar(&pod.Spec.InitContainers[i]) && !st.Ready {
			unready = append(unready, st.Name)
		}
	}
	for _, st := range s.ContainerStatuses {
		if !st.Ready {
			unready = append(unready, st.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

// gated is whether the pod is ready, its gates included.
func gated(pod *corev1.Pod, s *corev1.PodStatus, containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range pod.Spec.ReadinessGates {
		i := slices.IndexFunc(s.Conditions, func(o corev1.PodCondition) bool { return o.Type == gate.ConditionType })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case s.Conditions[i].Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf(`the status of pod readiness gate %q is not "True", but %v`, gate.ConditionType, s.Conditions[i].Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}
