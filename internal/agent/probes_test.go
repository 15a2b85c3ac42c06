package agent

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/probe"
)

// by makes a probe by a command of that name.
func by(command string, change ...func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}, TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func (h *house) readyIs(want bool) {
	h.Helper()
	i := slices.IndexFunc(h.pod().Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	if got := h.pod().Status.Conditions[i].Status == corev1.ConditionTrue; got != want || h.status("c").Ready != want {
		h.Errorf("ready: %t, the container %t, want %t", got, h.status("c").Ready, want)
	}
}

func TestReadinessComesAndGoes(t *testing.T) {
	live(t, func(h *house) {
		var well atomic.Bool
		h.rt.well = func(string) bool { return well.Load() }
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = by("ready") }))
		h.after(time.Second)
		h.readyIs(false)
		well.Store(true)
		h.after(5 * time.Second)
		h.readyIs(true)
		h.event(0, "Unhealthy")
		well.Store(false)
		h.after(20 * time.Second)
		h.readyIs(true)
		h.after(10 * time.Second)
		h.readyIs(false)
		h.event(3, "Warning Unhealthy Readiness probe failed: ill")
		if s := h.status("c"); s.RestartCount != 0 || s.State.Running == nil {
			h.Errorf("it was restarted: %+v", s)
		}
		well.Store(true)
		h.after(10 * time.Second)
		h.readyIs(true)
		// Another agent takes it over, and believes what was found until it has asked itself.
		h.stop()
		well.Store(false)
		h.start()
		h.readyIs(true)
		h.after(40 * time.Second)
		h.readyIs(false)
	})
}

func TestADeadContainerIsRestarted(t *testing.T) {
	live(t, func(h *house) {
		h.rt.ignoreTERM = true
		begun := time.Now()
		h.rt.well = func(string) bool { return time.Since(begun) < 15*time.Second || time.Since(begun) > time.Minute }
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = by("live", func(p *corev1.Probe) { p.TerminationGracePeriodSeconds = new(int64(3)) })
		}))
		h.after(39 * time.Second)
		h.event(2, "Warning Unhealthy Liveness probe failed: ill")
		if s := h.status("c"); s.RestartCount != 0 {
			h.Errorf("too early: %+v", s)
		}
		h.after(3500 * time.Millisecond) // the probe's own grace
		h.event(1, "Normal Killing Container c failed liveness probe, will be restarted")
		h.event(3, "Warning Unhealthy Liveness probe failed: ill")
		h.after(10 * time.Minute)
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil || s.LastTerminationState.Terminated.ExitCode != 137 {
			h.Errorf("%+v", s)
		}
	})
}

func TestAStartIsWaitedFor(t *testing.T) {
	live(t, func(h *house) {
		begun := time.Now()
		var mu sync.Mutex
		var asked []string
		h.rt.well = func(command string) bool {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, command)
			return command != "begin" || time.Since(begun) > 25*time.Second
		}
		h.api.put(newPod(func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = by("begin", func(p *corev1.Probe) { p.FailureThreshold = 30 }), by("live"), by("ready")
		}))
		h.after(20 * time.Second)
		mu.Lock()
		if s := h.status("c"); *s.Started || s.Ready || slices.Contains(asked, "live") || slices.Contains(asked, "ready") {
			h.Errorf("%+v, asked %v", s, asked)
		}
		mu.Unlock()
		h.after(15 * time.Second)
		if s := h.status("c"); !*s.Started || !s.Ready {
			h.Errorf("%+v", s)
		}
	})
}

func TestASidecarThatHasNotStartedHoldsTheOthersBack(t *testing.T) {
	live(t, func(h *house) {
		var well atomic.Bool
		h.rt.well = func(string) bool { return well.Load() }
		h.api.put(newPod(func(p *corev1.Pod) {
			side := p.Spec.Containers[0]
			side.Name, side.RestartPolicy, side.StartupProbe = "side", new(corev1.ContainerRestartPolicyAlways), by("begin")
			p.Spec.InitContainers = []corev1.Container{side}
		}))
		h.after(5 * time.Second)
		h.waits("c", "PodInitializing", "")
		well.Store(true)
		h.after(10 * time.Second)
		h.phase(corev1.PodRunning)
		h.readyIs(true)
	})
}

func TestAPodThatEndsIsNotKilledByItsProbes(t *testing.T) {
	live(t, func(h *house) {
		h.rt.ignoreTERM = true
		var ill atomic.Bool
		h.rt.well = func(string) bool { return !ill.Load() }
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = by("live", func(p *corev1.Probe) { p.PeriodSeconds, p.FailureThreshold = 1, 1 })
		}))
		h.after(time.Second)
		h.api.deletePod("ns", "p", 30)
		ill.Store(true)
		h.after(20 * time.Second)
		if _, running, _ := h.rt.counts(); running != 1 {
			h.Errorf("%d run in the midst of the grace", running)
		}
		h.event(0, "failed liveness probe")
		h.after(15 * time.Second)
		if h.pod() != nil {
			h.Error("it is not gone")
		}
	})
}

func TestAReadyPodServesForAMomentAfterItsDeletion(t *testing.T) {
	for name, c := range map[string]struct {
		annotation string
		probe      *corev1.Probe
		behind     bool          // a Service
		leaves     time.Duration // after the deletion, the proxy
		want       time.Duration
	}{
		"by a probe":              {probe: by("ready"), want: 100 * time.Millisecond},
		"behind a Service":        {behind: true, leaves: 5 * time.Millisecond, want: 105 * time.Millisecond},
		"the proxy is slow":       {behind: true, leaves: 700 * time.Millisecond, want: 800 * time.Millisecond},
		"the proxy knew it first": {behind: true, leaves: -30 * time.Millisecond, want: 70 * time.Millisecond},
		"the proxy left long ago": {behind: true, leaves: -time.Second},
		"slower than is borne":    {behind: true, leaves: time.Hour, want: 2 * time.Second},
		"it will not wait":        {behind: true, leaves: time.Hour, annotation: "0s"},
		"by nothing but luck":     {},
		"as long as it wants":     {annotation: "2s", want: 2 * time.Second},
		"it wants none":           {annotation: "0s", probe: by("ready")},
		"a wish of no meaning":    {annotation: "soon", probe: by("ready"), want: 100 * time.Millisecond},
		"a wish too long":         {annotation: "1h", want: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(h *house) {
				h.rt.well = func(string) bool { return true }
				h.api.put(newPod(func(p *corev1.Pod) {
					p.Spec.Containers[0].ReadinessProbe = c.probe
					if c.annotation != "" {
						p.Annotations = map[string]string{annotationStopDelay: c.annotation}
					}
				}))
				h.after(time.Second)
				h.readyIs(true)
				h.api.behind.Store(c.behind)
				time.AfterFunc(c.leaves, h.api.leave)
				if c.leaves < 0 {
					time.Sleep(-c.leaves)
				}
				h.api.deletePod("ns", "p", 30)
				if c.want > 0 {
					h.after(c.want - time.Millisecond)
					if _, running, _ := h.rt.counts(); running != 1 {
						h.Error("it does not serve any more")
					}
					h.after(2 * time.Millisecond)
				}
				synctest.Wait()
				if h.pod() != nil {
					h.Error("it is not gone")
				}
			})
		})
	}
}

func TestDecideHeedsProbes(t *testing.T) {
	live := running("c")
	for name, c := range map[string]struct {
		verdict probe.Verdict
		pod     func(*corev1.Pod)
		want    string
	}{
		"it is well: nothing":          {verdict: probe.Verdict{Started: true, Ready: true}},
		"not ready: nothing":           {verdict: probe.Verdict{Started: true}},
		"dead: stopped in its grace":   {verdict: probe.Verdict{Started: true, Failed: probe.Liveness}, want: "stop c in 30s"},
		"never begun: stopped":         {verdict: probe.Verdict{Failed: probe.Startup}, want: "stop c in 30s"},
		"dead, by a probe with grace":  {verdict: probe.Verdict{Failed: probe.Liveness}, pod: func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe.TerminationGracePeriodSeconds = new(int64(2)) }, want: "stop c in 2s"},
		"dead, and being deleted":      {verdict: probe.Verdict{Failed: probe.Liveness}, pod: func(p *corev1.Pod) { deleted(9)(p) }, want: "stop c in 9s"},
		"deleted while ready: a while": {verdict: probe.Verdict{Started: true, Ready: true}, pod: func(p *corev1.Pod) { deleted(9)(p); readyNow(p) }, want: "wake in 100ms"},
		"deleted at once while ready":  {verdict: probe.Verdict{Started: true, Ready: true}, pod: func(p *corev1.Pod) { deleted(0)(p); readyNow(p) }, want: "stop c in 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod(func(p *corev1.Pod) {
				p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = by("live"), by("ready")
			})
			if c.pod != nil {
				c.pod(pod)
			}
			in := Input{
				Pod: pod, Seen: Observed{Sandboxes: []Sandbox{sandbox0}, Containers: []Container{live}}, Work: Work{Prepared: true}, Now: now,
				Probed: map[string]probe.Verdict{live.ID: c.verdict},
			}
			if got := said(Decide(in)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func readyNow(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
}

func TestProbesAreCounted(t *testing.T) {
	live(t, func(h *house) {
		h.rt.well = func(string) bool { return true }
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe = by("live") }))
		h.after(25 * time.Second)
		metrics, err := h.a.prober.gather()
		if err != nil || !strings.Contains(metrics, `value:"Liveness"`) || !strings.Contains(metrics, "counter:{value:3 ") {
			h.Errorf("%v: %s", err, metrics)
		}
		h.api.deletePod("ns", "p", 30)
		h.after(time.Minute)
		if metrics, _ := h.a.prober.gather(); strings.Contains(metrics, "counter:") {
			h.Errorf("after the pod: %s", metrics)
		}
	})
}

// gather gives the counts in words.
func (p *prober) gather() (string, error) {
	families, err := p.metrics.registry.Gather()
	var b strings.Builder
	for _, f := range families {
		b.WriteString(strings.ReplaceAll(f.String(), "  ", " "))
	}
	return b.String(), err
}
