package agent

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// said puts a plan into words, so that a table can be read.
func said(p Plan) string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if p.Prepare {
		say("prepare")
	}
	if p.NewSandbox != nil {
		say("sandbox %d", p.NewSandbox.Attempt)
	}
	for _, n := range p.Images {
		say("image %s", n)
	}
	for _, s := range p.Start {
		say("start %s %d", s.Name, s.Attempt)
		if s.Delay > 0 {
			all[len(all)-1] += fmt.Sprintf(" then %v", s.Delay)
		}
	}
	for _, s := range p.Stop {
		say("stop %s in %v", s.Name, s.Kill.Sub(now))
	}
	for _, id := range p.StopSandboxes {
		say("stop sandbox %s", id)
	}
	for _, c := range p.Remove {
		say("remove %s", c.ID)
	}
	for _, id := range p.RemoveSandboxes {
		say("remove sandbox %s", id)
	}
	switch p.Clean {
	case CleanVolumes:
		say("clean volumes")
	case CleanAll:
		say("clean all")
	}
	if p.Delete {
		say("delete")
	}
	if !p.Wake.IsZero() {
		say("wake in %v", p.Wake.Sub(now))
	}
	return strings.Join(all, ", ")
}

// Parts of inputs.
var (
	sandbox0 = Sandbox{ID: "s0", Ready: true, IPs: []string{"10.244.0.5"}}
	sandbox1 = Sandbox{ID: "s1", Attempt: 1, Ready: true, IPs: []string{"10.244.0.6"}}
	dead0    = Sandbox{ID: "s0"}
)

func running(name string) Container {
	return Container{ID: name + "0", Sandbox: "s0", Name: name, State: Running, Created: ago(time.Hour), Started: ago(time.Hour)}
}

func exited(name string, code int32) Container {
	return Container{ID: name + "0", Sandbox: "s0", Name: name, State: Exited, ExitCode: code, Created: ago(time.Minute), Started: ago(time.Minute), Finished: ago(time.Second)}
}

func with(c Container, change func(*Container)) Container { change(&c); return c }

func named(name string) corev1.Container {
	return corev1.Container{Name: name, Image: name + ":1", ImagePullPolicy: corev1.PullIfNotPresent}
}

func sidecar(name string) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := named(name)
	c.RestartPolicy = &always
	return c
}

func deleted(grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		at := metav1.NewTime(now.Add(time.Duration(grace) * time.Second))
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	}
}

func policy(p corev1.RestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.RestartPolicy = p }
}

func inits(list ...corev1.Container) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.InitContainers = list }
}

func images(names ...string) map[string]Image {
	m := map[string]Image{}
	for _, n := range names {
		m[n] = Image{Ref: "sha256:" + n}
	}
	return m
}

func TestDecide(t *testing.T) {
	type pods []func(*corev1.Pod)
	type seen struct {
		s []Sandbox
		c []Container
	}
	prepared := Work{Prepared: true}
	for name, c := range map[string]struct {
		pod     pods
		seen    seen
		work    Work
		drain   bool
		unknown bool // the API has no such pod
		want    string
		waits   string
	}{
		"a new pod: volumes, sandbox and image are seen to at once": {
			want: "prepare, sandbox 0, image c", waits: "ContainerCreating",
		},
		"the image is being pulled: nothing is to be done but wait": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: map[string]Image{"c": {Pulling: true}}}, want: "", waits: "ContainerCreating",
		},
		"all is there: the container is started": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 0",
		},
		"the image is there but volumes are not: nothing is started": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Images: images("c")}, want: "prepare",
		},
		"volumes failed a moment ago: they are tried again later": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Images: images("c"), Unready: &Failure{Retry: now.Add(9 * time.Second)}}, want: "wake in 9s",
		},
		"the sandbox failed a moment ago: it is tried again later": {
			work: Work{Prepared: true, Images: images("c"), NoSandbox: &Failure{Retry: now.Add(9 * time.Second)}}, want: "wake in 9s",
		},
		"it runs: nothing is to be done": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "",
		},
		"it was created and never started: it is removed, to be made again under its number": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(running("c"), func(c *Container) { c.State = Created })}}, work: prepared, want: "remove c0",
		},
		"its first end is followed by a start at once, the next only after the first delay": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 1)}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 10s",
		},
		"it ended, and its delay is not over": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(exited("c", 1), func(c *Container) { c.Delay = 20 * time.Second })}}, work: prepared,
			want: "wake in 19s", waits: "CrashLoopBackOff: back-off 20s restarting failed container=c pod=p_ns(uid)",
		},
		"its delay is over: it is started, and the next one is twice as long": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(exited("c", 1), func(c *Container) { c.Delay, c.Finished = 20*time.Second, ago(time.Minute) })}},
			work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 40s",
		},
		"delays end at five minutes": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(exited("c", 1), func(c *Container) {
				c.Delay, c.Finished, c.Created = 200*time.Second, ago(time.Hour), ago(61*time.Minute)
			})}},
			work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 5m0s",
		},
		"it ran for more than ten minutes: it counts as the first end": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(exited("c", 1), func(c *Container) { c.Delay, c.Created = 5*time.Minute, ago(time.Hour) })}},
			work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 10s",
		},
		"the image has to be looked for again before a restart": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 1)}}, work: prepared, want: "image c",
		},
		"older dead containers than the last are removed": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{
				with(running("c"), func(c *Container) { c.ID, c.Attempt = "c2", 2 }), with(exited("c", 1), func(c *Container) { c.ID, c.Attempt = "c1", 1 }), exited("c", 1),
			}}, work: prepared, want: "remove c0",
		},
		"restart policy never: the end is the end, and volumes are not needed any more": {
			pod: pods{policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 1)}}, work: prepared, want: "stop sandbox s0",
		},
		"a pod that has ended is cleaned up once its sandbox is down": {
			pod: pods{policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 1)}}, work: prepared, want: "clean volumes",
		},
		"a pod that has ended and is cleaned up rests": {
			pod: pods{policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 1)}}, work: Work{Cleaned: CleanVolumes}, want: "",
		},
		"restart policy on failure: success is the end": {
			pod: pods{policy(corev1.RestartPolicyOnFailure)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 0)}}, work: prepared, want: "stop sandbox s0",
		},
		"restart policy on failure: a failure is not": {
			pod: pods{policy(corev1.RestartPolicyOnFailure)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 2)}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 10s",
		},
		"a container's own rule is heard before the pod's policy": {
			pod: pods{policy(corev1.RestartPolicyNever), func(p *corev1.Pod) {
				p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
					Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
				}}
			}},
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 42)}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 1 then 10s",
		},
		"the sandbox died, and its container ended: another is made, with the next number": {
			seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 137)}}, work: prepared, want: "sandbox 1, image c",
		},
		"the sandbox died, and its container runs on: it is stopped first": {
			seen: seen{s: []Sandbox{dead0}, c: []Container{running("c")}}, work: prepared, want: "stop c in 30s",
		},
		"in a new sandbox a container starts at once, whatever it did in the old one": {
			seen: seen{s: []Sandbox{sandbox1, dead0}, c: []Container{with(exited("c", 1), func(c *Container) { c.Delay = 5 * time.Minute })}},
			work: Work{Prepared: true, Images: images("c")}, want: "start c 1",
		},
		"two sandboxes are ready: the older is stopped": {
			seen: seen{s: []Sandbox{sandbox1, sandbox0}, c: []Container{with(running("c"), func(c *Container) { c.Sandbox = "s1" })}}, work: prepared, want: "stop sandbox s0",
		},
		"an old sandbox of which nothing is left is removed": {
			seen: seen{s: []Sandbox{sandbox1, dead0}, c: []Container{with(running("c"), func(c *Container) { c.Sandbox = "s1" })}}, work: prepared, want: "remove sandbox s0",
		},
		"the runtime forgot all, the API did not: the number goes on": {
			pod: pods{func(p *corev1.Pod) {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "x", RestartCount: 4}}
			}},
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 5",
		},
		"the image was changed: the container is stopped, to be started with the new one": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(running("c"), func(c *Container) { c.Hash = "other" })}}, work: prepared, want: "stop c in 30s",
		},

		"init containers come first": {
			pod: pods{inits(named("i"), named("j"))}, seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: images("i", "j", "c")}, want: "start i 0",
		},
		"the first init container is done: the second starts": {
			pod: pods{inits(named("i"), named("j"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("i", 0)}}, work: Work{Prepared: true, Images: images("i", "j", "c")}, want: "start j 0",
		},
		"an init container runs: all others wait": {
			pod: pods{inits(named("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i")}}, work: Work{Prepared: true, Images: images("c")}, want: "", waits: "PodInitializing",
		},
		"an init container failed: it is tried again": {
			pod: pods{inits(named("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("i", 1)}}, work: Work{Prepared: true, Images: images("i", "c")}, want: "start i 1 then 10s",
		},
		"an init container failed, and the pod never restarts: that is the end": {
			pod: pods{inits(named("i")), policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("i", 1)}}, work: prepared, want: "stop sandbox s0",
		},
		"all init containers are done: the others start": {
			pod: pods{inits(named("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("i", 0)}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 0",
		},
		"after a reboot init containers run again": {
			pod: pods{inits(named("i"))}, seen: seen{s: []Sandbox{sandbox1, dead0}, c: []Container{exited("i", 0), exited("c", 137)}}, work: Work{Prepared: true, Images: images("i", "c")}, want: "start i 1",
		},
		"a container that was started says that init is over, though its init container was removed": {
			pod: pods{inits(named("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "",
		},
		"a sidecar that does not run holds up those after it": {
			pod: pods{inits(sidecar("i"))}, seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: images("i", "c")}, want: "start i 0",
		},
		"a sidecar runs: those after it start": {
			pod: pods{inits(sidecar("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i")}}, work: Work{Prepared: true, Images: images("c")}, want: "start c 0",
		},
		"a sidecar ended: it is started again, also if the pod never restarts": {
			pod: pods{inits(sidecar("i")), policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("i", 0), running("c")}},
			work: Work{Prepared: true, Images: images("i")}, want: "start i 1 then 10s",
		},
		"only sidecars are left: they are stopped": {
			pod: pods{inits(sidecar("i")), policy(corev1.RestartPolicyNever)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i"), exited("c", 0)}}, work: prepared, want: "stop i in 30s",
		},

		"a pull failed: the registry's words are shown first": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: map[string]Image{"c": {Failure: &Failure{Reason: "ErrImagePull", Message: "denied", At: now, Retry: now.Add(10 * time.Second)}}}},
			want: "wake in 1s", waits: "ErrImagePull: denied",
		},
		"a pull failed a while ago: it backs off": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: map[string]Image{"c": {Failure: &Failure{Reason: "ErrImagePull", Message: "denied", At: ago(2 * time.Second), Retry: now.Add(8 * time.Second)}}}},
			want: "wake in 8s", waits: `ImagePullBackOff: Back-off pulling image "img:1": ErrImagePull: denied`,
		},
		"a pull is due again": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: map[string]Image{"c": {Failure: &Failure{Reason: "ErrImagePull", At: ago(time.Minute), Retry: now}}}}, want: "image c",
		},
		"creating failed a moment ago: it is tried again later": {
			seen: seen{s: []Sandbox{sandbox0}}, work: Work{Prepared: true, Images: images("c"), Failed: map[string]Failure{"c": {Reason: "CreateContainerError", Message: "no", Retry: now.Add(7 * time.Second)}}},
			want: "wake in 7s", waits: "CreateContainerError: no",
		},

		"a deleted pod is stopped with its grace": {
			pod: pods{deleted(12)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "stop c in 12s",
		},
		"it is being stopped: nothing is to be done": {
			pod: pods{deleted(12)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: Work{DownSince: ago(time.Second), Stopping: map[string]time.Time{"c0": now.Add(11 * time.Second)}}, want: "",
		},
		"a second delete with a shorter grace stops it sooner": {
			pod: pods{deleted(1)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: Work{DownSince: now, Stopping: map[string]time.Time{"c0": now.Add(11 * time.Second)}}, want: "stop c in 1s",
		},
		"containers are down: the sandbox goes": {
			pod: pods{deleted(12)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{exited("c", 0)}}, want: "stop sandbox s0",
		},
		"the sandbox is down: all goes": {
			pod: pods{deleted(12)}, seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 0)}}, want: "clean all",
		},
		"all is gone: the API may forget it": {
			pod: pods{deleted(12)}, work: Work{Cleaned: CleanAll}, want: "delete",
		},
		"a deleted pod of which nothing was ever made is cleaned up all the same": {
			pod: pods{deleted(12)}, want: "clean all",
		},
		"it ended before it was deleted: what was kept of it goes too": {
			pod: pods{deleted(12), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }}, work: Work{Cleaned: CleanVolumes}, want: "clean all",
		},
		"sidecars are stopped after the others, the last first": {
			pod: pods{deleted(12), inits(sidecar("i"), sidecar("j"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i"), running("j"), exited("c", 0)}}, want: "stop j in 12s",
		},
		"sidecars wait for the others": {
			pod: pods{deleted(12), inits(sidecar("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i"), running("c")}}, want: "stop c in 12s",
		},
		"a sidecar whose turn comes after the grace still gets a moment": {
			pod: pods{deleted(12), inits(sidecar("i"))}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("i")}}, work: Work{DownSince: ago(time.Minute)}, want: "stop i in 2s",
		},
		"a container that was never started is removed": {
			pod: pods{deleted(12)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{with(running("c"), func(c *Container) { c.State = Created })}}, want: "remove c0",
		},

		"a pod that the API does not know was deleted by force: it gets a small grace, not the one it was made with": {
			unknown: true, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, want: "stop c in 2s",
		},
		"what is left of such a pod goes, and the API is asked nothing": {
			unknown: true, seen: seen{s: []Sandbox{dead0}}, want: "clean all",
		},
		"nothing is left of it": {
			unknown: true, work: Work{Cleaned: CleanAll}, want: "",
		},
		"a pod that was rejected runs nothing": {
			work: Work{Rejected: &Failure{Reason: "OutOfcpu"}, Cleaned: CleanAll}, want: "",
		},
		"a pod that is evicted ends at once": {
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: Work{Prepared: true, Evicted: &Failure{Reason: "Evicted"}}, want: "stop c in 1s",
		},
		"and nothing stays of it": {
			seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 137)}}, work: Work{Evicted: &Failure{Reason: "Evicted"}}, want: "clean all",
		},
		"also when it counts as failed already": {
			pod: pods{func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }}, work: Work{Evicted: &Failure{Reason: "Evicted"}, Cleaned: CleanVolumes}, want: "clean all",
		},
		"one that is deleted meanwhile ends as fast, and the API forgets it": {
			pod: pods{deleted(600)}, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: Work{Evicted: &Failure{Reason: "Evicted"}}, want: "stop c in 1s",
		},
		"its time is over": {
			pod: pods{func(p *corev1.Pod) {
				p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = new(int64(60)), &metav1.Time{Time: ago(time.Minute)}
			}},
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "stop c in 30s",
		},
		"its time will be over": {
			pod: pods{func(p *corev1.Pod) {
				p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = new(int64(90)), &metav1.Time{Time: ago(time.Minute)}
			}},
			seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "wake in 30s",
		},
		"the node is being stopped: its pods are too": {
			drain: true, seen: seen{s: []Sandbox{sandbox0}, c: []Container{running("c")}}, work: prepared, want: "stop c in 30s",
		},
		"the node is being stopped: what is down stays, for the next start": {
			drain: true, seen: seen{s: []Sandbox{dead0}, c: []Container{exited("c", 143)}}, work: prepared, want: "",
		},
		"the node is being stopped: nothing new is made": {drain: true, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Pod: newPod(c.pod...), Seen: Observed{Sandboxes: c.seen.s, Containers: c.seen.c, Grace: 7}, Work: c.work, Drain: c.drain, Now: now, Delay: 10 * time.Second, MaxDelay: 5 * time.Minute}
			if c.unknown {
				in.Pod = nil
			}
			plan := Decide(in)
			if got := said(plan); got != c.want {
				t.Errorf("planned: %s\nwant:    %s", got, c.want)
			}
			w := plan.Waiting["c"]
			got := w.Reason
			if w.Message != "" {
				got += ": " + w.Message
			}
			if c.waits != "" && got != c.waits {
				t.Errorf("waits: %s\nwant:  %s", got, c.waits)
			}
		})
	}
}

// machine does what a plan says to values, as the worker and a runtime would, with containers that end as chance has it.
type machine struct {
	in   Input
	rand *rand.Rand
	n    int
	gone bool
}

func (m *machine) apply(p Plan) {
	in := &m.in
	if in.Work.Images == nil {
		in.Work.Images = map[string]Image{}
	}
	if p.Prepare {
		in.Work.Prepared = true
	}
	if p.NewSandbox != nil {
		m.n++
		in.Seen.Sandboxes = append([]Sandbox{{ID: fmt.Sprint("s", m.n), Attempt: p.NewSandbox.Attempt, Ready: true}}, in.Seen.Sandboxes...)
	}
	for _, name := range p.Images {
		in.Work.Images[name] = Image{Ref: name}
	}
	for _, s := range p.Start {
		m.n++
		delete(in.Work.Images, s.Name)
		c := Container{ID: fmt.Sprint("c", m.n), Sandbox: in.Seen.Sandboxes[0].ID, Name: s.Name, Attempt: s.Attempt, State: Running, Created: in.Now, Started: in.Now, Delay: s.Delay}
		in.Seen.Containers = append([]Container{c}, in.Seen.Containers...)
	}
	end := func(c *Container, code int32) {
		if c.State != Exited {
			c.State, c.ExitCode, c.Finished = Exited, code, in.Now
		}
	}
	for i := range in.Seen.Containers {
		for _, s := range p.Stop {
			if s.ID == in.Seen.Containers[i].ID {
				end(&in.Seen.Containers[i], 143)
			}
		}
	}
	for i := range in.Seen.Sandboxes {
		for _, id := range p.StopSandboxes {
			if s := &in.Seen.Sandboxes[i]; s.ID == id {
				s.Ready = false
			}
		}
	}
	drop := map[string]bool{}
	for _, c := range p.Remove {
		drop[c.ID] = true
	}
	for _, id := range p.RemoveSandboxes {
		drop[id] = true
	}
	if p.Clean == CleanAll {
		in.Seen = Observed{}
	}
	in.Work.Cleaned = max(in.Work.Cleaned, p.Clean)
	var containers []Container
	for _, c := range in.Seen.Containers {
		if !drop[c.ID] && !drop[c.Sandbox] {
			containers = append(containers, c)
		}
	}
	in.Seen.Containers = containers
	var sandboxes []Sandbox
	for _, s := range in.Seen.Sandboxes {
		if !drop[s.ID] {
			sandboxes = append(sandboxes, s)
		}
	}
	in.Seen.Sandboxes = sandboxes
	m.gone = m.gone || p.Delete
	for i := range in.Seen.Containers { // init containers end
		c := &in.Seen.Containers[i]
		if c.State == Running && strings.HasPrefix(c.Name, "init") {
			end(c, 0)
		}
	}
}

// settle repeats until nothing is left to do; time goes on while the plan only waits.
func (m *machine) settle(t *testing.T) Plan {
	t.Helper()
	for range 200 {
		p := Decide(m.in)
		if p.Idle() && (p.Wake.IsZero() || m.gone) || m.gone {
			return p
		}
		if p.Idle() {
			m.in.Now = p.Wake
		}
		m.apply(p)
	}
	t.Fatalf("it does not come to rest: %s\nseen %+v", said(Decide(m.in)), m.in.Seen)
	return Plan{}
}

// TestDecideComesToRest disturbs pods at random: from wherever that leads, they come to rest with all containers running, and
// once deleted with nothing left.
func TestDecideComesToRest(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		pod := newPod(func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, named("d"))
			for i := range r.IntN(3) {
				c := named(fmt.Sprint("init", i))
				if r.IntN(3) == 0 {
					c = sidecar(fmt.Sprint("side", i))
				}
				p.Spec.InitContainers = append(p.Spec.InitContainers, c)
			}
		})
		m := &machine{in: Input{Pod: pod, Now: now, Delay: 10 * time.Second, MaxDelay: 5 * time.Minute}, rand: r}
		for range 10 {
			m.settle(t)
			m.in.Now = m.in.Now.Add(time.Duration(r.IntN(1000)) * time.Second)
			seen := &m.in.Seen
			running := map[string]bool{}
			for _, c := range seen.Containers {
				if c.State == Running && (seen.Current() == nil || c.Sandbox != seen.Current().ID) {
					t.Fatalf("seed %d: %s runs outside the current sandbox", seed, c.Name)
				}
				if c.State == Running {
					running[c.Name] = true
				}
			}
			if !running["c"] || !running["d"] {
				t.Fatalf("seed %d: at rest, and only %v run", seed, running)
			}
			switch r.IntN(4) { // what may happen to it
			case 0:
				if i := r.IntN(len(seen.Containers)); seen.Containers[i].State == Running {
					seen.Containers[i].State, seen.Containers[i].ExitCode, seen.Containers[i].Finished = Exited, int32(r.IntN(2)), m.in.Now
				}
			case 1:
				seen.Sandboxes[0].Ready = false
			case 2: // a reboot
				for i := range seen.Containers {
					seen.Containers[i].State, seen.Containers[i].Finished = Exited, m.in.Now
				}
				seen.Sandboxes[0].Ready = false
				m.in.Work = Work{}
			case 3: // the runtime forgot everything
				*seen, m.in.Work = Observed{}, Work{}
			}
		}
		deleted(5)(m.in.Pod)
		m.settle(t)
		if !m.gone || len(m.in.Seen.Containers)+len(m.in.Seen.Sandboxes) != 0 {
			t.Fatalf("seed %d: deleted, and left is %+v", seed, m.in.Seen)
		}
	}
}
