package why

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// logLines is how much of a log is shown.
const logLines = 5

// containers explains a pod by the first container that cannot run. Init containers come first, since the others wait for them.
func (l *look) containers(p *corev1.Pod) (state, bool) {
	for _, c := range p.Status.InitContainerStatuses {
		if s, stuck := l.container(p, c, "init container"); stuck {
			s.because("the containers after it wait for it: %s", some(after(p, c.Name)))
			return s, true
		}
	}
	for i, c := range p.Status.InitContainerStatuses {
		spec := containerOf(p, c.Name)
		sidecar := spec != nil && spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if c.State.Running == nil || sidecar && c.Started != nil && *c.Started || conditionTrue(p, corev1.PodInitialized) {
			continue
		}
		s := ill("is initializing: %d of %d init containers are through", i, len(p.Status.InitContainerStatuses))
		on := s.because("init container %s has run %s; the containers after it wait for it to end", c.Name, l.since(c.State.Running.StartedAt.Time))
		if sidecar {
			on.Text = fmt.Sprintf("sidecar %s has run %s, and its startup probe has not succeeded; the containers after it wait for that", c.Name, l.since(c.State.Running.StartedAt.Time))
			l.probed(on, p, c.Name)
		}
		l.tail(on, p, c.Name, false)
		return s, true
	}
	for _, c := range p.Status.ContainerStatuses {
		if s, stuck := l.container(p, c, "container"); stuck {
			return s, true
		}
	}
	return state{}, false
}

func conditionTrue(p *corev1.Pod, kind corev1.PodConditionType) bool {
	c := conditionOf(p, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// after are the containers that wait for an init container.
func after(p *corev1.Pod, name string) (names []string) {
	seen := false
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if seen {
			names = append(names, c.Name)
		}
		seen = seen || c.Name == name
	}
	return names
}

func containerOf(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// container explains one that waits for something that does not come by itself, or has ended badly.
func (l *look) container(p *corev1.Pod, c corev1.ContainerStatus, what string) (state, bool) {
	w := c.State.Waiting
	if w == nil {
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return l.crashes(p, c, what, t, false), true
		}
		return state{}, false
	}
	switch w.Reason {
	case "", "ContainerCreating", "PodInitializing":
		return state{}, false
	case "CrashLoopBackOff":
		if t := c.LastTerminationState.Terminated; t != nil {
			return l.crashes(p, c, what, t, true), true
		}
	case "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return l.noImage(p, c, what, w), true
	case "CreateContainerConfigError":
		s := ill("cannot start %s %s: its configuration is incomplete", what, c.Name)
		below := s.because("%s", oneLine(w.Message))
		l.missing(&s.Cause, below, p, w.Message)
		return s, true
	}
	s := ill("cannot start %s %s: %s", what, c.Name, w.Reason)
	if w.Message != "" {
		s.because("node %s says: %s", p.Spec.NodeName, oneLine(w.Message))
	}
	if t := c.LastTerminationState.Terminated; t != nil {
		l.lastLines(s.because("before that it %s", howEnded(p, c.Name, t)), p, c.Name, t, true)
	}
	if noProgram(w.Message) {
		s.advise("To mend it: see that command and args of container %s name a program that is in the image %s", c.Name, c.Image)
	}
	return s, true
}

// noProgram says whether these are a runtime's words for a program that is not there.
func noProgram(message string) bool {
	return strings.Contains(message, "executable file not found") || strings.Contains(message, "no such file or directory")
}

// crashes explains a container that ended and should not have.
func (l *look) crashes(p *corev1.Pod, c corev1.ContainerStatus, what string, t *corev1.ContainerStateTerminated, waits bool) state {
	unhealthy := l.lastEvent(p, aboutContainer(c.Name), "Unhealthy")
	if unhealthy != nil && l.lastEvent(p, killedByProbe(c.Name), "Killing") == nil {
		unhealthy = nil
	}
	s := ill("crashes: %s %s %s", what, c.Name, howEnded(p, c.Name, t))
	switch {
	case unhealthy != nil:
		s = ill("is restarted again and again: %s %s fails its probe", what, c.Name)
	case t.ExitCode == 0:
		s = ill("does not keep running: %s %s %s", what, c.Name, howEnded(p, c.Name, t))
	}
	text := "it ended " + l.ago(t.FinishedAt.Time)
	if c.RestartCount > 0 {
		text = fmt.Sprintf("it has been restarted %s, and ended last %s", times(c.RestartCount), l.ago(t.FinishedAt.Time))
	}
	if t.StartedAt.Unix() > 0 { // what was never started began in 1970
		text += " after running for " + shortly(t.FinishedAt.Sub(t.StartedAt.Time))
	}
	if waits {
		if next, known := nextStart(c); known && next.After(l.now) {
			text += "; the next start is " + l.in(next)
		} else {
			text += "; the next start is due"
		}
	}
	s.because("%s", text)
	if unhealthy != nil {
		s.because("the last answer, %s: %s", l.times(unhealthy), oneLine(unhealthy.Message))
		s.because("its node stopped it for that, and it %s", howEnded(p, c.Name, t))
	}
	l.lastLines(&s.Cause, p, c.Name, t, waits)
	switch code := t.ExitCode; {
	case t.Reason == "OOMKilled" || strings.Contains(t.Message, "OOM-killed"):
		s.advise("To mend it: give container %s more memory than %s (resources.limits.memory), or have it use less", c.Name, limitOf(p, c.Name))
	case unhealthy == nil && code == 0:
		s.advise("To mend it: a container must run for as long as the pod does; what does its work and ends belongs in a Job (restartPolicy %s starts it again)", orAlways(p.Spec.RestartPolicy))
	case unhealthy != nil:
		s.advise("To mend it: have the program answer that probe, or give it more time (the probe's failureThreshold and timeoutSeconds, or a startupProbe)")
	case code == 126:
		s.advise("To mend it: what command of container %s names cannot be executed (mode, or made for another architecture)", c.Name)
	case code == 127 || noProgram(t.Message):
		s.advise("To mend it: see that command and args of container %s name a program that is in the image %s", c.Name, c.Image)
	default:
		flag := ""
		if waits {
			flag = " --previous"
		}
		s.advise("To see more: %s", kubectl(p.Namespace, "logs "+p.Name+" -c "+c.Name+flag))
	}
	return s
}

func orAlways(r corev1.RestartPolicy) corev1.RestartPolicy {
	if r == "" {
		return corev1.RestartPolicyAlways
	}
	return r
}

// howEnded says how a container's run went: "ended with exit code 3".
func howEnded(p *corev1.Pod, name string, t *corev1.ContainerStateTerminated) string {
	signal := syscall.Signal(t.Signal)
	if signal == 0 && t.ExitCode > 128 && t.ExitCode < 128+65 {
		signal = syscall.Signal(t.ExitCode - 128)
	}
	switch {
	case t.Reason == "OOMKilled":
		return fmt.Sprintf("was killed for using more memory than it may: its limit is %s (OOMKilled, exit code %d)", limitOf(p, name), t.ExitCode)
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		return fmt.Sprintf("could not be started (%s, exit code %d)", t.Reason, t.ExitCode)
	case signal != 0 && unix.SignalName(signal) != "":
		return fmt.Sprintf("was ended by signal %d, %s (exit code %d)", signal, unix.SignalName(signal), t.ExitCode)
	}
	return fmt.Sprintf("ended with exit code %d", t.ExitCode)
}

func limitOf(p *corev1.Pod, name string) string {
	if c := containerOf(p, name); c != nil {
		if q, has := c.Resources.Limits[corev1.ResourceMemory]; has {
			return q.String()
		}
	}
	if p.Spec.Resources != nil {
		if q, has := p.Spec.Resources.Limits[corev1.ResourceMemory]; has {
			return q.String() + " for the whole pod"
		}
	}
	return "what the node has"
}

var backOff = regexp.MustCompile(`^back-off (\S+) restarting`)

// nextStart is when a container that waits after a crash is started again.
func nextStart(c corev1.ContainerStatus) (time.Time, bool) {
	m := backOff.FindStringSubmatch(c.State.Waiting.Message)
	if m == nil || c.LastTerminationState.Terminated == nil {
		return time.Time{}, false
	}
	d, err := time.ParseDuration(m[1])
	return c.LastTerminationState.Terminated.FinishedAt.Add(d), err == nil
}

// aboutContainer keeps events of one container of a pod: those of a pod name no part of it.
func aboutContainer(name string) func(*corev1.Event) bool {
	return func(e *corev1.Event) bool {
		return e.InvolvedObject.FieldPath == "" || strings.Contains(e.InvolvedObject.FieldPath, "{"+name+"}")
	}
}

func killedByProbe(name string) func(*corev1.Event) bool {
	return func(e *corev1.Event) bool {
		return aboutContainer(name)(e) && strings.Contains(e.Message, " probe, will be restarted")
	}
}

// lastLines shows what a run of a container wrote in the end: what its own last words say, and its log.
func (l *look) lastLines(c *Cause, p *corev1.Pod, name string, t *corev1.ContainerStateTerminated, previous bool) {
	if m := strings.TrimSpace(t.Message); m != "" {
		lines := strings.Split(m, "\n")
		below := c.because("its last words:")
		below.Said = lines[max(0, len(lines)-logLines):]
		if t.Reason == "StartError" || t.Reason == "ContainerCannotRun" {
			below.Text = "the runtime says:"
			return
		}
	}
	l.tail(c, p, name, previous)
}

func (l *look) tail(c *Cause, p *corev1.Pod, name string, previous bool) {
	lines, err := l.w.Log(p.Namespace, p.Name, name, previous, logLines)
	switch {
	case err != nil:
		c.because("its log cannot be read: %v", err)
	case len(lines) == 0:
		c.because("it wrote nothing")
	default:
		c.because("the last that it wrote:").Said = lines
	}
}

// unreadyContainer explains one that runs and is not ready.
func (l *look) unreadyContainer(s *state, p *corev1.Pod, name string) {
	c := s.because("container %s runs, and is not ready", name)
	for _, status := range p.Status.ContainerStatuses {
		if status.Name == name && status.State.Running != nil {
			c.Text = fmt.Sprintf("container %s has run %s, and is not ready", name, l.since(status.State.Running.StartedAt.Time))
		}
	}
	if l.probed(c, p, name) {
		s.advise("To see what the program is doing: %s", kubectl(p.Namespace, "logs "+p.Name+" -c "+name))
	}
}

// probed says what a container's probes are, and what the last one was answered. False: it has none.
func (l *look) probed(c *Cause, p *corev1.Pod, name string) bool {
	spec := containerOf(p, name)
	if spec == nil {
		return false
	}
	has := false
	for _, probe := range []struct {
		what string
		of   *corev1.Probe
	}{{"startup", spec.StartupProbe}, {"readiness", spec.ReadinessProbe}} {
		if probe.of == nil {
			continue
		}
		has = true
		said := l.lastEvent(p, func(e *corev1.Event) bool {
			return aboutContainer(name)(e) && strings.HasPrefix(strings.ToLower(e.Message), probe.what)
		}, "Unhealthy", "ProbeWarning")
		if said == nil && probe.what == "readiness" && spec.StartupProbe != nil {
			continue // it is not asked before the other has succeeded
		}
		below := c.because("its %s probe asks %s", probe.what, probeText(probe.of))
		if said != nil {
			below.because("the last answer, %s: %s", l.times(said), oneLine(said.Message))
		} else {
			below.because("it has not succeeded yet, nor is a failure known")
		}
	}
	return has
}

func probeText(p *corev1.Probe) string {
	every := fmt.Sprintf(", every %d s", max(p.PeriodSeconds, 1))
	if p.InitialDelaySeconds > 0 {
		every = fmt.Sprintf(", first after %d s and then every %d s", p.InitialDelaySeconds, max(p.PeriodSeconds, 1))
	}
	switch {
	case p.HTTPGet != nil:
		scheme := strings.ToLower(string(p.HTTPGet.Scheme))
		if scheme == "" {
			scheme = "http"
		}
		return fmt.Sprintf("%s GET %s on port %s", strings.ToUpper(scheme), p.HTTPGet.Path, p.HTTPGet.Port.String()) + every
	case p.TCPSocket != nil:
		return fmt.Sprintf("for a connection to TCP port %s", p.TCPSocket.Port.String()) + every
	case p.GRPC != nil:
		return fmt.Sprintf("gRPC's health service on port %d", p.GRPC.Port) + every
	case p.Exec != nil:
		return fmt.Sprintf("the command %q", strings.Join(p.Exec.Command, " ")) + every
	}
	return "nothing"
}
