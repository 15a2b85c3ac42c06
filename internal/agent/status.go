package agent

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statusOf is what a pod's status is made of beside the input of the decision and the plan.
type statusOf struct {
	Input
	Plan    Plan
	HostIP  string
	HostIP6 string // "" if the node has none
	Runtime string // the runtime's name, before the ids of its containers
}

// status is the pod's status as it now is. What others own of it stays; the order of phases never goes backwards.
func (s statusOf) status() corev1.PodStatus {
	pod := s.Pod
	st := *pod.Status.DeepCopy()
	st.ObservedGeneration = pod.Generation
	if st.QOSClass == "" {
		st.QOSClass = qosOf(pod)
	}
	if st.StartTime == nil {
		now := metav1.NewTime(s.Now).Rfc3339Copy()
		st.StartTime = &now
	}
	if s.Work.Rejected != nil {
		st.Phase, st.Reason, st.Message = corev1.PodFailed, s.Work.Rejected.Reason, s.Work.Rejected.Message
		return st
	}
	st.HostIP, st.HostIPs = s.HostIP, []corev1.HostIP{{IP: s.HostIP}}
	if s.HostIP6 != "" {
		st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: s.HostIP6})
	}
	s.setPodIPs(&st)
	st.InitContainerStatuses = s.containers(pod.Spec.InitContainers, pod.Status.InitContainerStatuses, true)
	st.ContainerStatuses = s.containers(pod.Spec.Containers, pod.Status.ContainerStatuses, false)
	was := pod.Status.Phase
	if was != corev1.PodSucceeded && was != corev1.PodFailed {
		ended := s.Plan.Ended || pod.DeletionTimestamp != nil
		st.Phase = phaseOf(pod, st, ended)
		if s.Plan.Reason != nil {
			st.Phase, st.Reason, st.Message = corev1.PodFailed, s.Plan.Reason.Reason, s.Plan.Reason.Message
		}
		if terminal(st.Phase) && s.anyRunning() { // it is over only once nothing runs any more
			st.Phase, st.Reason, st.Message = was, pod.Status.Reason, pod.Status.Message
			if was == "" {
				st.Phase = corev1.PodPending
			}
		}
	}
	s.setConditions(&st)
	if s.Plan.Reason != nil && s.Plan.Reason.Disrupted {
		markDisrupted(&st, s.Plan.Reason.Message, s.Now)
	}
	return st
}

// markDisrupted says that the pod ends for a reason that is not its own (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
func markDisrupted(st *corev1.PodStatus, why string, now time.Time) {
	c := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: why,
		LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(), ObservedGeneration: st.ObservedGeneration,
	}
	for i := range st.Conditions {
		if st.Conditions[i].Type == c.Type {
			if st.Conditions[i].Status != c.Status {
				st.Conditions[i] = c
			}
			return
		}
	}
	st.Conditions = append(st.Conditions, c)
}

func terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func (s statusOf) anyRunning() bool {
	return slices.ContainsFunc(s.Seen.Containers, func(c Container) bool { return c.State == Running || c.State == Unknown })
}

// setPodIPs keeps the last known addresses of a pod that has no sandbox any more.
func (s statusOf) setPodIPs(st *corev1.PodStatus) {
	current := s.Seen.Current()
	switch {
	case s.Pod.Spec.HostNetwork:
		if current != nil {
			st.PodIP, st.PodIPs = s.HostIP, []corev1.PodIP{{IP: s.HostIP}}
			if s.HostIP6 != "" {
				st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: s.HostIP6})
			}
		}
	case current != nil && len(current.IPs) > 0:
		st.PodIP, st.PodIPs = current.IPs[0], nil
		for _, ip := range current.IPs {
			st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
		}
	case current == nil && !s.Plan.Ended && s.Pod.DeletionTimestamp == nil:
		st.PodIP, st.PodIPs = "", nil // another sandbox will have another address
	}
}

func (s statusOf) containers(specs []corev1.Container, before []corev1.ContainerStatus, init bool) []corev1.ContainerStatus {
	if len(specs) == 0 {
		return nil
	}
	all := make([]corev1.ContainerStatus, 0, len(specs))
	for i := range specs {
		c := &specs[i]
		var old *corev1.ContainerStatus
		for j := range before {
			if before[j].Name == c.Name {
				old = &before[j]
			}
		}
		all = append(all, s.container(c, old, init))
	}
	return all
}

func (s statusOf) container(c *corev1.Container, old *corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
	var cur, prev *Container
	for i := range s.Seen.Containers {
		if have := &s.Seen.Containers[i]; have.Name == c.Name {
			if cur == nil {
				cur = have
			} else if prev == nil && have.State == Exited {
				prev = have
			}
		}
	}
	started := false
	waiting, isWaiting := s.Plan.Waiting[c.Name]
	switch {
	case cur == nil:
		s.notThere(&st, c, old, waiting, isWaiting)
	default:
		s.identify(&st, c, cur)
		if prev != nil {
			st.LastTerminationState.Terminated = s.terminated(prev)
		}
		switch cur.State {
		case Created:
			if !isWaiting {
				waiting.Reason = reasonCreating
			}
			st.State.Waiting = &waiting
		case Running:
			st.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(cur.Started).Rfc3339Copy()}
			v := s.probed(cur)
			started = v.Started
			st.Ready = started && v.Ready
		case Exited:
			if isWaiting {
				st.State.Waiting, st.LastTerminationState.Terminated = &waiting, s.terminated(cur)
			} else {
				st.State.Terminated = s.terminated(cur)
			}
		case Unknown:
			st.State.Terminated = &corev1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: s.id(cur),
				Message: "The container could not be located when the pod was terminated",
			}
		}
	}
	if init && !isSidecar(c) {
		started = false
		st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
	}
	st.Started = &started
	for _, m := range c.VolumeMounts {
		mount := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			disabled := corev1.RecursiveReadOnlyDisabled
			mount.RecursiveReadOnly = &disabled
		}
		st.VolumeMounts = append(st.VolumeMounts, mount)
	}
	return st
}

// notThere is a container that the runtime does not know: not yet, or no more (after a reboot, or removed by hand).
func (s statusOf) notThere(st *corev1.ContainerStatus, c *corev1.Container, old *corev1.ContainerStatus, waiting corev1.ContainerStateWaiting, isWaiting bool) {
	if !isWaiting {
		waiting.Reason = reasonCreating
		if len(s.Pod.Spec.InitContainers) > 0 {
			waiting.Reason = reasonInitializing
		}
	}
	st.State.Waiting = &waiting
	if old == nil {
		return
	}
	st.RestartCount = old.RestartCount
	st.LastTerminationState = old.LastTerminationState
	switch {
	case old.State.Terminated != nil && (s.Plan.Ended || s.Pod.DeletionTimestamp != nil || isDone(s.Pod, c, old)):
		st.State = old.State // what has ended stays ended
		st.ContainerID, st.ImageID, st.Image = old.ContainerID, old.ImageID, old.Image
	case old.State.Terminated != nil:
		st.LastTerminationState = old.State
	case old.State.Running != nil:
		st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID, StartedAt: old.State.Running.StartedAt,
			Message: "The container could not be located when the pod was deleted.  The container used to be Running",
		}
		if s.Plan.Ended || s.Pod.DeletionTimestamp != nil {
			st.State, st.LastTerminationState = st.LastTerminationState, corev1.ContainerState{}
			st.State.Waiting = nil
		}
	}
}

func isDone(pod *corev1.Pod, c *corev1.Container, old *corev1.ContainerStatus) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return old.State.Terminated.ExitCode == 0
		}
	}
	return !restarts(pod, c, old.State.Terminated.ExitCode)
}

func (s statusOf) identify(st *corev1.ContainerStatus, c *corev1.Container, cur *Container) {
	st.ContainerID = s.id(cur)
	st.RestartCount = int32(cur.Attempt)
	st.ImageID = cur.ImageID
	if cur.Image != "" {
		st.Image = cur.Image
	}
	st.User = cur.User
	if cur.State == Running {
		st.Resources = c.Resources.DeepCopy()
		st.AllocatedResources = st.Resources.Requests
	}
}

func (s statusOf) id(c *Container) string { return s.Runtime + "://" + c.ID }

func (s statusOf) terminated(c *Container) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: s.id(c),
		StartedAt: metav1.NewTime(c.Started).Rfc3339Copy(), FinishedAt: metav1.NewTime(c.Finished).Rfc3339Copy(),
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if c.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	return t
}

// phaseOf sums up the containers. A pod that has ended runs nothing again, whatever its restart policy.
func phaseOf(pod *corev1.Pod, st corev1.PodStatus, ended bool) corev1.PodPhase {
	var pending, failedInit int
	for i, s := range st.InitContainerStatuses {
		c := &pod.Spec.InitContainers[i]
		t := s.State.Terminated
		if t == nil && s.State.Waiting != nil {
			t = s.LastTerminationState.Terminated
		}
		switch {
		case isSidecar(c):
			if s.State.Running == nil && s.LastTerminationState.Terminated == nil && s.State.Terminated == nil {
				pending++
			}
		case t == nil:
			pending++
		case t.ExitCode != 0 && (ended || !restarts(pod, c, t.ExitCode)):
			failedInit++
		case t.ExitCode != 0:
			pending++
		}
	}
	if failedInit > 0 {
		return corev1.PodFailed
	}
	var running, waiting, stopped, failed, again int
	for i, s := range st.ContainerStatuses {
		t := s.State.Terminated
		switch {
		case s.State.Running != nil:
			running++
			continue
		case t == nil:
			t = s.LastTerminationState.Terminated
		}
		if t == nil {
			waiting++
			continue
		}
		stopped++
		if t.ExitCode != 0 {
			failed++
		}
		if restarts(pod, &pod.Spec.Containers[i], t.ExitCode) {
			again++
		}
	}
	switch {
	case pending > 0 && running == 0 && !(ended && stopped > 0):
		return corev1.PodPending
	case waiting > 0 && !(ended && running == 0 && stopped > 0):
		return corev1.PodPending
	case running > 0 || again > 0 && !ended:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

// text is an address as objects say it; "" for none.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
