package agent

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Words of container states that Kubernetes' clients know.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonPull         = "ErrImagePull"
	reasonPullBackOff  = "ImagePullBackOff"
)

// showPull is how long the registry's own words are shown before the status turns to waiting for the next try.
const showPull = time.Second

// keepUp plans what a pod that is to run needs next.
func keepUp(in Input) Plan {
	k := keeper{Input: in, current: in.Seen.Current()}
	k.sandboxes()
	k.volumes()
	if k.initContainers() {
		for i := range in.Pod.Spec.Containers {
			k.keep(&in.Pod.Spec.Containers[i])
		}
	}
	k.forget()
	k.waitForRest()
	return k.plan
}

type keeper struct {
	Input
	current *Sandbox // nil: there is none to start containers in
	plan    Plan
}

// sandboxes sees to it that there is one sandbox, and that nothing runs in any other.
func (k *keeper) sandboxes() {
	busy := false
	for _, c := range k.Seen.Containers {
		if c.State == Running && (k.current == nil || c.Sandbox != k.current.ID) {
			busy = true
			k.plan.stop(k.Input, c, k.Now.Add(graceOf(k.Input)), fmt.Sprintf("Stopping container %s", c.Name))
		}
	}
	for i, s := range k.Seen.Sandboxes {
		if s.Ready && i > 0 {
			k.plan.StopSandboxes = append(k.plan.StopSandboxes, s.ID)
		}
	}
	if k.current != nil || busy {
		return
	}
	if f := k.Work.NoSandbox; f != nil && k.Now.Before(f.Retry) {
		k.plan.wakeAt(f.Retry)
		return
	}
	k.plan.NewSandbox = &NewSandbox{}
	if len(k.Seen.Sandboxes) > 0 {
		k.plan.NewSandbox = &NewSandbox{Attempt: k.Seen.Sandboxes[0].Attempt + 1, Changed: true}
	}
}

func (k *keeper) volumes() {
	if k.Work.Prepared {
		return
	}
	if f := k.Work.Unready; f != nil && k.Now.Before(f.Retry) {
		k.plan.wakeAt(f.Retry)
		return
	}
	k.plan.Prepare = true
}

// here returns the newest container of a name if it is in the current sandbox.
func (k *keeper) here(name string) *Container {
	c := k.Seen.Newest(name)
	if c == nil || k.current == nil || c.Sandbox != k.current.ID {
		return nil
	}
	return c
}

// initContainers keeps the init containers, one after another, and says whether the others may start.
func (k *keeper) initContainers() bool {
	initialized := false
	for i := range k.Pod.Spec.Containers {
		initialized = initialized || k.here(k.Pod.Spec.Containers[i].Name) != nil
	}
	for i := range k.Pod.Spec.InitContainers {
		c := &k.Pod.Spec.InitContainers[i]
		have := k.here(c.Name)
		switch {
		case isSidecar(c):
			k.keep(c)
			if !initialized && (have == nil || have.State != Running || !k.probed(have).Started) {
				return false
			}
		case initialized:
		case have != nil && have.State == Exited && have.ExitCode == 0:
		default:
			k.keep(c)
			return false
		}
	}
	return true
}

// keep plans for one container whose turn it is.
func (k *keeper) keep(c *corev1.Container) {
	have := k.here(c.Name)
	if have == nil {
		if last := k.Seen.Newest(c.Name); last != nil && (last.State == Running || last.State == Exited && !k.isInit(c) && !restarts(k.Pod, c, last.ExitCode)) {
			return // it runs in another sandbox, being stopped, or has done its work there
		}
		k.start(c, 0)
		return
	}
	switch have.State {
	case Running, Unknown:
		if have.Hash != "" && have.Hash != hashOf(c) {
			k.plan.stop(k.Input, *have, k.Now.Add(graceOf(k.Input)), fmt.Sprintf("Container %s definition changed, will be restarted", c.Name))
		}
		k.unwell(c, have)
	case Created:
		if f, failed := k.Work.Failed[c.Name]; failed && k.Now.Before(f.Retry) {
			k.hold(c, f)
			return
		}
		k.plan.Remove = append(k.plan.Remove, *have) // it was never started, and its number is used again
		k.plan.wait(c.Name, reasonCreating, "")
	case Exited:
		if !restarts(k.Pod, c, have.ExitCode) {
			return
		}
		ranLong := have.Finished.Sub(have.Created) > 2*k.MaxDelay
		again := have.Finished.Add(have.Delay)
		if !ranLong && k.Now.Before(again) {
			k.plan.wait(c.Name, reasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", have.Delay, c.Name, describe(k.Pod)))
			k.plan.wakeAt(again)
			return
		}
		next := k.Delay
		if !ranLong && have.Delay > 0 {
			next = min(2*have.Delay, k.MaxDelay)
		}
		k.start(c, next)
	}
}

func (k *keeper) isInit(c *corev1.Container) bool {
	for i := range k.Pod.Spec.InitContainers {
		if k.Pod.Spec.InitContainers[i].Name == c.Name {
			return true
		}
	}
	return false
}

// start plans to start a container, or what that needs first.
func (k *keeper) start(c *corev1.Container, delay time.Duration) {
	if f, failed := k.Work.Failed[c.Name]; failed && k.Now.Before(f.Retry) {
		k.hold(c, f)
		return
	}
	image := k.Work.Images[c.Name]
	switch f := image.Failure; {
	case image.Ref != "":
		if k.current != nil && k.Work.Prepared {
			k.plan.Start = append(k.plan.Start, Start{Name: c.Name, Attempt: k.attempt(c.Name), Delay: delay, Image: image.Ref})
		}
	case image.Pulling:
	case f == nil || !k.Now.Before(f.Retry):
		k.plan.Images = append(k.plan.Images, c.Name)
	case f.Reason == reasonPull && !k.Now.Before(f.At.Add(showPull)):
		k.plan.wait(c.Name, reasonPullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, f.Reason, f.Message))
		k.plan.wakeAt(f.Retry)
	default:
		k.plan.wait(c.Name, f.Reason, f.Message)
		k.plan.wakeAt(f.Retry)
		if f.Reason == reasonPull {
			k.plan.wakeAt(f.At.Add(showPull))
		}
	}
	if f := image.Failure; f != nil && image.Pulling { // while it is tried again, what it said last is still shown
		k.plan.wait(c.Name, f.Reason, f.Message)
	}
}

func (k *keeper) hold(c *corev1.Container, f Failure) {
	k.plan.wait(c.Name, f.Reason, f.Message)
	k.plan.wakeAt(f.Retry)
}

// attempt numbers the next container of a name: one more than the last the runtime knows, or else the API.
func (k *keeper) attempt(name string) uint32 {
	if last := k.Seen.Newest(name); last != nil {
		return last.Attempt + 1
	}
	for _, list := range [][]corev1.ContainerStatus{k.Pod.Status.ContainerStatuses, k.Pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name && list[i].ContainerID != "" {
				return uint32(list[i].RestartCount) + 1
			}
		}
	}
	return 0
}

// forget removes dead containers: one is kept beside the newest, for its log. Sandboxes go when nothing of them is left.
func (k *keeper) forget() {
	count := map[string]int{}
	kept := map[string]bool{}
	for _, c := range k.Seen.Containers {
		count[c.Name]++
		if count[c.Name] > 2 && c.State == Exited {
			k.plan.Remove = append(k.plan.Remove, c)
		} else {
			kept[c.Sandbox] = true
		}
	}
	for i, s := range k.Seen.Sandboxes {
		if i > 0 && !s.Ready && !kept[s.ID] {
			k.plan.RemoveSandboxes = append(k.plan.RemoveSandboxes, s.ID)
		}
	}
}

// waitForRest gives a reason to each container that does not run and has none yet.
func (k *keeper) waitForRest() {
	say := func(c *corev1.Container, reason string) {
		if _, said := k.plan.Waiting[c.Name]; said {
			return
		}
		if have := k.Seen.Newest(c.Name); have == nil || have.State == Created {
			k.plan.wait(c.Name, reason, "")
		}
	}
	for i := range k.Pod.Spec.InitContainers {
		say(&k.Pod.Spec.InitContainers[i], reasonInitializing)
	}
	for i := range k.Pod.Spec.Containers {
		if len(k.Pod.Spec.InitContainers) > 0 {
			say(&k.Pod.Spec.Containers[i], reasonInitializing)
		} else {
			say(&k.Pod.Spec.Containers[i], reasonCreating)
		}
	}
}

// describe names a pod as Kubernetes does in its messages.
func describe(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// hashOf is of that part of a container's spec whose change restarts it.
func hashOf(c *corev1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
