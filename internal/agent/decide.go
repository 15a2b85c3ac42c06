package agent

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Decide says what to do next for one pod. It does no I/O and reads no clock. Repeating decide, apply and observe reaches a
// state in which nothing is to be done.
func Decide(in Input) Plan {
	pod := in.Pod
	switch {
	case pod == nil:
		return takeDown(in, CleanAll, false)
	case pod.DeletionTimestamp != nil:
		if until := servesUntil(in); in.Now.Before(until) {
			p := Plan{Down: true}
			p.wakeAt(until)
			return p
		}
		return takeDown(in, CleanAll, true)
	case in.Work.Rejected != nil:
		p := takeDown(in, CleanAll, false)
		p.Ended, p.Reason = true, in.Work.Rejected
		return p
	case in.Work.Evicted != nil: // all of it goes, also what it wrote to containers that are kept else
		p := takeDown(in, CleanAll, false)
		p.Ended, p.Reason = true, in.Work.Evicted
		return p
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		p := takeDown(in, CleanVolumes, false)
		p.Ended = true
		return p
	}
	if in.Shutdown.takes(pod) {
		p := takeDown(in, CleanNothing, false)
		p.Ended = true
		p.Reason = &Failure{Reason: shutdownReason, Message: shutdownMessage, Disrupted: true}
		return p
	}
	deadline, limited := activeDeadline(pod)
	if limited && !in.Now.Before(deadline) {
		p := takeDown(in, CleanVolumes, false)
		p.Ended = true
		p.Reason = &Failure{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
		return p
	}
	if hasEnded(pod, in.Seen) {
		p := takeDown(in, CleanVolumes, false)
		p.Ended = true
		return p
	}
	if in.Drain || in.Fenced {
		return takeDown(in, CleanNothing, false)
	}
	p := keepUp(in)
	if limited {
		p.wakeAt(deadline)
	}
	return p
}

func activeDeadline(pod *corev1.Pod) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}, false
	}
	return pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

// hasEnded says that no container of the pod runs or will run again.
func hasEnded(pod *corev1.Pod, seen Observed) bool {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if isSidecar(c) {
			continue
		}
		if have := seen.Newest(c.Name); have != nil && have.State == Exited && have.ExitCode != 0 && !restarts(pod, c, have.ExitCode) {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		have := seen.Newest(c.Name)
		if have == nil || have.State != Exited || restarts(pod, c, have.ExitCode) {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

// isSidecar says that an init container goes on running beside the others.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// restarts says whether a container that ended with that code is started again: by the first of its own rules that fits, by its
// own policy, or by the pod's.
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
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// takeDown stops all there is of a pod: containers, then sidecars (the last first), then sandboxes; then cleans up.
func takeDown(in Input, clean Cleaning, remove bool) Plan {
	p := Plan{Down: true}
	since := in.Work.DownSince
	if since.IsZero() {
		since = in.Now
	}
	kill := since.Add(graceOf(in))
	var regular, sidecars []Container
	for _, c := range in.Seen.Containers {
		switch {
		case c.State == Exited:
		case c.State == Created:
			p.Remove = append(p.Remove, c)
		case sidecarIndex(in.Pod, c.Name) >= 0:
			sidecars = append(sidecars, c)
		default:
			regular = append(regular, c)
		}
	}
	if len(regular) == 0 && len(sidecars) > 0 {
		slices.SortStableFunc(sidecars, func(a, b Container) int {
			return sidecarIndex(in.Pod, b.Name) - sidecarIndex(in.Pod, a.Name)
		})
		regular = sidecars[:1]
		// Sidecars that come to their turn late still get a moment.
		if least := in.Now.Add(2 * time.Second); kill.Before(least) && graceOf(in) > 0 {
			if at, stopping := in.Work.Stopping[regular[0].ID]; stopping {
				least = at
			}
			kill = least
		}
	}
	for _, c := range regular {
		p.stop(in, c, kill, fmt.Sprintf("Stopping container %s", c.Name))
	}
	if len(regular) > 0 || len(p.Remove) > 0 {
		return p
	}
	for _, s := range in.Seen.Sandboxes {
		if s.Ready {
			p.StopSandboxes = append(p.StopSandboxes, s.ID)
		}
	}
	switch {
	case len(p.StopSandboxes) > 0:
	case clean > in.Work.Cleaned:
		p.Clean = clean
	case remove:
		p.Delete = true
	}
	return p
}

func sidecarIndex(pod *corev1.Pod, name string) int {
	if pod == nil {
		return -1
	}
	return slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name && isSidecar(&c) })
}

// forcedGrace is how long the containers of a pod may take that the API no longer knows, in seconds: who deleted it by force wants it gone, and "will still
// be given a small grace period before being force killed" (Kubernetes, Pod Lifecycle, Forced Pod termination).
const forcedGrace = 2

// graceOf is how long the pod's containers may take to end.
func graceOf(in Input) time.Duration {
	seconds := min(in.Seen.Grace, forcedGrace)
	if pod := in.Pod; pod != nil {
		switch {
		case pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil:
			seconds = *pod.DeletionGracePeriodSeconds
		case pod.Spec.TerminationGracePeriodSeconds != nil:
			seconds = *pod.Spec.TerminationGracePeriodSeconds
		default:
			seconds = corev1.DefaultTerminationGracePeriodSeconds
		}
	}
	if in.Fenced {
		seconds = min(seconds, fenceKill)
	}
	if in.Work.Evicted != nil {
		seconds = min(seconds, evictionGrace)
	}
	if in.Shutdown.takes(in.Pod) {
		seconds = min(seconds, int64(in.Shutdown.grace/time.Second))
	}
	return time.Duration(max(seconds, 0)) * time.Second
}

// stop plans to stop a container, unless that is under way and will not take longer than wanted.
func (p *Plan) stop(in Input, c Container, kill time.Time, message string) {
	if at, stopping := in.Work.Stopping[c.ID]; stopping && !kill.Before(at) {
		return
	}
	p.Stop = append(p.Stop, Stop{ID: c.ID, Name: c.Name, Kill: kill, Message: message})
}
