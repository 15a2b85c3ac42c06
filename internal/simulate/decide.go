package simulate

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Words and times of a real node's agent.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrashLoop    = "CrashLoopBackOff"
	firstDelay         = 10 * time.Second // after the second end of a container, doubled with each
	mostDelay          = 5 * time.Minute
	stopped            = 143 // the exit code of a container that ends when it is told to
)

// Away is the last time that a pod's node was not there. The zero value: it never was away.
type Away struct {
	From, Until time.Time
	Crash       bool          // what ran is lost; otherwise it ran on, and was stopped once it might have been made again elsewhere
	Grace       time.Duration // that the control plane waits before it calls a node unreachable
}

// Input is all that a decision rests on.
type Input struct {
	Pod     *corev1.Pod
	Profile *Profile
	Seed    uint64
	HostIP  string
	PodIPs  []corev1.PodIP // for a pod that has none yet
	Away    Away
	Moment  time.Time // when the status was last written, where its whole seconds are too coarse; may be zero
	Now     time.Time
}

// Word is an event to tell.
type Word struct{ Container, Type, Reason, Message string }

// Step is what to do about a pod, as a plain value: nothing has happened yet.
type Step struct {
	Status       *corev1.PodStatus // to write; nil: it stands
	Delete       bool              // the pod has ended, and its object may go
	NeedsAddress bool              // decide again, with PodIPs
	Wake         time.Time         // when to look again, though nothing happens; zero: never
	Events       []Word
}

type decider struct {
	Input
	step    Step
	started bool // some container has been, now or before
}

// Decide says what happens next to one pod on a node that is there. It does no I/O and reads no clock. Once it says nothing, nothing happens until the pod
// changes or Wake comes.
func Decide(in Input) Step {
	d := &decider{Input: in}
	pod := in.Pod
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case pod.DeletionTimestamp != nil:
		d.end(over)
	case over:
	default:
		d.run()
	}
	return d.step
}

func (d *decider) wake(at time.Time) {
	if d.step.Wake.IsZero() || at.Before(d.step.Wake) {
		d.step.Wake = at
	}
}

func (d *decider) say(container, kind, reason, message string) {
	d.step.Events = append(d.step.Events, Word{container, kind, reason, message})
}

// lot draws for the pod by its name, so that a pod of the same name fares the same.
func (d *decider) lot(words ...string) float64 {
	return lot(d.Seed, append([]string{d.Pod.Namespace, d.Pod.Name}, words...)...)
}

// exact is a time of the status, with what is less than a second where that is known.
func (d *decider) exact(t metav1.Time) time.Time {
	if d.Moment.Truncate(time.Second).Equal(t.Time) {
		return d.Moment
	}
	return t.Time
}

// end takes down a pod that is deleted. How its containers ended is told only where somebody holds the pod to hear of it.
func (d *decider) end(over bool) {
	pod := d.Pod
	grace := time.Duration(0)
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	at := pod.DeletionTimestamp.Add(-grace).Add(min(d.Profile.Stop.draw(d.lot("stop")), grace))
	runs := slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
	switch {
	case !over && runs && d.Now.Before(at):
		d.wake(at)
	case !over && len(pod.Finalizers) > 0:
		d.finish("", "")
	default:
		d.step.Delete = true
		d.killing()
	}
}

func (d *decider) killing() {
	for _, c := range d.Pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			d.say(c.Name, corev1.EventTypeNormal, "Killing", "Stopping container "+c.Name)
		}
	}
}

// finish ends all containers, and the pod with them; a reason makes it fail.
func (d *decider) finish(reason, message string) {
	d.killing()
	s := d.Pod.Status.DeepCopy()
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if c := &list[i]; c.State.Running != nil {
				c.State = corev1.ContainerState{Terminated: terminated(c, stopped, "Error", d.Now)}
				c.Ready, c.Started = false, new(bool)
			}
		}
	}
	s.Phase = phaseOf(d.Pod, *s, true)
	if reason != "" || s.Phase != corev1.PodSucceeded {
		s.Phase = corev1.PodFailed
	}
	if reason != "" {
		s.Reason, s.Message = reason, message
	}
	d.write(s)
}

// run brings the containers of a pod that is to run to where they are by now.
func (d *decider) run() {
	pod := d.Pod
	if s := pod.Spec.ActiveDeadlineSeconds; s != nil && pod.Status.StartTime != nil {
		deadline := pod.Status.StartTime.Add(time.Duration(*s) * time.Second)
		if !d.Now.Before(deadline) {
			d.finish("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
			return
		}
		d.wake(deadline)
	}
	s := pod.Status.DeepCopy()
	if s.StartTime == nil {
		s.StartTime = new(metav1.NewTime(d.Now).Rfc3339Copy())
		d.Moment = d.Now
	}
	begin := d.exact(*s.StartTime).Add(d.Profile.Start.draw(d.lot("start")))
	may := true // the next container may start
	s.InitContainerStatuses, may = d.inits(s.InitContainerStatuses, begin)
	was := s.ContainerStatuses
	s.ContainerStatuses = nil
	for i := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, d.advance(&pod.Spec.Containers[i], find(was, pod.Spec.Containers[i].Name), regular, may, begin))
	}
	if d.started && s.PodIP == "" {
		switch {
		case pod.Spec.HostNetwork:
			s.PodIP, s.PodIPs = d.HostIP, []corev1.PodIP{{IP: d.HostIP}}
		case len(d.PodIPs) == 0:
			d.step = Step{NeedsAddress: true}
			return
		default:
			s.PodIP, s.PodIPs = d.PodIPs[0].IP, d.PodIPs
		}
	}
	s.HostIP, s.HostIPs = d.HostIP, []corev1.HostIP{{IP: d.HostIP}}
	s.Phase = phaseOf(pod, *s, false)
	d.write(s)
}

// write has the status written if it is another than the pod's.
func (d *decider) write(s *corev1.PodStatus) {
	d.complete(s)
	if !equality.Semantic.DeepEqual(*s, d.Pod.Status) {
		d.step.Status = s
	}
	if s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed {
		d.step.Wake = time.Time{}
	}
}

// inits advances the init containers, one after another, and says whether the others may start.
func (d *decider) inits(was []corev1.ContainerStatus, begin time.Time) (all []corev1.ContainerStatus, may bool) {
	may = true
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		kind := initial
		if isSidecar(c) {
			kind = sidecar
		}
		st := d.advance(c, find(was, c.Name), kind, may, begin)
		if kind == sidecar {
			may = may && st.State.Running != nil
		} else {
			may = may && st.Ready
		}
		all = append(all, st)
	}
	return all, may
}

type containerKind int

const (
	regular containerKind = iota
	initial
	sidecar
)

// advance brings a container to where it is by now. May says that its turn has come.
func (d *decider) advance(c *corev1.Container, old *corev1.ContainerStatus, kind containerKind, may bool, begin time.Time) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mountsOf(c)}
	if old != nil {
		st.State, st.LastTerminationState = old.State, old.LastTerminationState
		st.RestartCount, st.ContainerID, st.ImageID = old.RestartCount, old.ContainerID, old.ImageID
	}
	if st.ContainerID == "" { // never started
		switch {
		case may && !d.Now.Before(begin):
			d.start(&st, c, 0)
		case may:
			d.wake(begin)
			fallthrough
		default:
			reason := reasonCreating
			if len(d.Pod.Spec.InitContainers) > 0 {
				reason = reasonInitializing
			}
			st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
		}
	}
	if r := st.State.Running; r != nil {
		d.live(&st, c, kind)
	}
	d.started = d.started || st.ContainerID != ""
	if last := lastEnd(&st); last != nil && st.State.Running == nil && d.again(c, kind, last.ExitCode) {
		d.restart(&st, c, kind, last)
	}
	if running := st.State.Running; running != nil {
		st.Resources = c.Resources.DeepCopy()
		st.AllocatedResources = st.Resources.Requests
		ready := d.exact(running.StartedAt).Add(d.Profile.Ready.draw(d.lot(c.Name, strconv.Itoa(int(st.RestartCount)), "ready")))
		st.Started = new(kind != initial)
		st.Ready = kind != initial && !d.Now.Before(ready)
		if kind != initial && !st.Ready {
			d.wake(ready)
		}
		if at, _, ends := d.fate(c, kind, int(st.RestartCount), d.exact(running.StartedAt)); ends {
			d.wake(at)
		}
		return st
	}
	st.Started = new(bool)
	st.Ready = kind == initial && st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
	return st
}

func (d *decider) start(st *corev1.ContainerStatus, c *corev1.Container, attempt int32) {
	st.RestartCount = attempt
	st.ContainerID = containerID(d.Pod, c.Name, attempt)
	st.ImageID = "simulated://" + c.Image
	st.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(d.Now).Rfc3339Copy()}}
	d.Moment = d.Now
	d.say(c.Name, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
	d.say(c.Name, corev1.EventTypeNormal, "Created", "Container created")
	d.say(c.Name, corev1.EventTypeNormal, "Started", "Container started")
}

// live ends a running container if its time has come, or if its node's absence has ended it.
func (d *decider) live(st *corev1.ContainerStatus, c *corev1.Container, kind containerKind) {
	began := d.exact(st.State.Running.StartedAt)
	at, code, ends := d.fate(c, kind, int(st.RestartCount), began)
	ends = ends && !d.Now.Before(at)
	lost, cut := d.lost(began)
	switch {
	case cut && (!ends || lost.Before(at)) && d.Away.Crash:
		st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: st.ContainerID, StartedAt: st.State.Running.StartedAt,
			Message: "The container could not be located when the pod was deleted.  The container used to be Running",
		}}
	case cut && (!ends || lost.Before(at)):
		st.State = corev1.ContainerState{Terminated: terminated(st, stopped, "Error", lost)}
	case ends && code == 0:
		st.State = corev1.ContainerState{Terminated: terminated(st, 0, "Completed", at)}
	case ends:
		st.State = corev1.ContainerState{Terminated: terminated(st, code, "Error", at)}
	}
}

// lost says when a container that began then was ended by its node's absence, if it was.
func (d *decider) lost(began time.Time) (at time.Time, is bool) {
	a := d.Away
	if a.Until.IsZero() || !began.Before(a.From) {
		return time.Time{}, false
	}
	if a.Crash {
		return a.From, true
	}
	tolerates, forever := toleratesUnreachable(d.Pod)
	at = a.From.Add(a.Grace + tolerates)
	return at, !forever && !at.After(a.Until)
}

// fate is when and how a container ends that began then, if it does by itself.
func (d *decider) fate(c *corev1.Container, kind containerKind, attempt int, began time.Time) (at time.Time, code int32, ends bool) {
	number := strconv.Itoa(attempt)
	switch kind {
	case sidecar:
		return time.Time{}, 0, false
	case initial:
		return began.Add(d.Profile.Init.draw(d.lot(c.Name, number, "init"))), 0, true
	}
	runs, code, ends := d.runs(c.Name, attempt)
	return began.Add(runs), code, ends
}

// runs is for how long a container runs, at that attempt.
func (d *decider) runs(name string, attempt int) (length time.Duration, code int32, ends bool) {
	number := strconv.Itoa(attempt)
	fails := d.lot(name, number, "fail") < *d.Profile.Fail
	if fails {
		code = 1
	}
	switch {
	case d.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever, d.Pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure:
		return d.Profile.Run.draw(d.lot(name, number, "run")), code, true
	case fails:
		return d.Profile.Crash.draw(d.lot(name, number, "crash")), code, true
	}
	return 0, 0, false
}

// delay is how long it takes from the end of an attempt to the next: doubled with each that follows soon, begun anew by one that ran long.
func (d *decider) delay(name string, attempt int) time.Duration {
	long := func(n int) bool {
		length, _, ends := d.runs(name, n)
		return !ends || length > 2*mostDelay
	}
	if attempt == 0 || long(attempt) {
		return 0
	}
	wait := firstDelay
	for n := attempt; n > 1 && wait < mostDelay && !long(n-1); n-- {
		wait *= 2
	}
	return min(wait, mostDelay)
}

// again says whether a container that ended with that code is started again.
func (d *decider) again(c *corev1.Container, kind containerKind, code int32) bool {
	return !(kind == initial && code == 0) && restarts(d.Pod, c, code)
}

// restart starts an ended container again, or has it wait for that.
func (d *decider) restart(st *corev1.ContainerStatus, c *corev1.Container, kind containerKind, last *corev1.ContainerStateTerminated) {
	delay := time.Duration(0)
	if kind == regular {
		delay = d.delay(c.Name, int(st.RestartCount))
	}
	crashed := last.FinishedAt.Add(delay)
	if delay > 0 && last.ExitCode == 1 && d.Now.Before(crashed) {
		if st.State.Waiting == nil {
			d.say(c.Name, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, describe(d.Pod)))
		}
		st.LastTerminationState = corev1.ContainerState{Terminated: last}
		st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: reasonCrashLoop, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, describe(d.Pod)),
		}}
		d.wake(crashed)
		return
	}
	st.LastTerminationState = corev1.ContainerState{Terminated: last}
	d.start(st, c, st.RestartCount+1)
}
