package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func tolerating(seconds ...int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if len(seconds) > 0 {
			t.TolerationSeconds = &seconds[0]
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
}

func TestForHowLongAPodToleratesAnUnreachableNode(t *testing.T) {
	all := func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists})
	}
	other := func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists})
	}
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		want    time.Duration
		forever bool
	}{
		"without a toleration not at all": {newPod(), 0, false},
		"for so many seconds":             {newPod(tolerating(30)), 30 * time.Second, false},
		"for less than none":              {newPod(tolerating(-5)), 0, false},
		"without seconds for ever":        {newPod(tolerating()), 0, true},
		"everything for ever":             {newPod(all), 0, true},
		"of two the first counts":         {newPod(tolerating(7), all), 7 * time.Second, false},
		"another taint's does not count":  {newPod(other), 0, false},
		"for longer than can be counted":  {newPod(tolerating(1 << 62)), 100 * 365 * 24 * time.Hour, false},
	} {
		if d, forever := toleratesUnreachable(c.pod); d != c.want && !forever || forever != c.forever {
			t.Errorf("%s: %v %v", name, d, forever)
		}
	}
}

// fencing makes the house's next agent fence itself, with a lease of 8 s, by the bubble's clock.
// Where nobody is reached, unserved is what all servers say.
func (h *house) fencing(unserved func() time.Duration) {
	begin := time.Now().Add(-time.Hour) // the machine has been up for an hour
	h.change = func(a *Agent) {
		a.cfg.Lease, a.cfg.StateDir = 8*time.Second, h.dir
		a.cfg.Unserved = func(context.Context) time.Duration { return unserved() }
		a.fence.grace, a.clock = a.cfg.Lease, func() time.Duration { return time.Since(begin) }
	}
	h.stop()
	h.start()
}

// missed is what nobody who is silent can hope for more than.
func missed() time.Duration { return 0 }

// stall is stores that stand still, from a moment on.
type stall struct{ since atomic.Pointer[time.Time] }

func (s *stall) begin() { s.since.Store(new(time.Now())) }
func (s *stall) end()   { s.since.Store(nil) }

func (s *stall) lasts() time.Duration {
	if since := s.since.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

func TestAnAgentThatReachesNobodyStopsItsPods(t *testing.T) {
	live(t, func(h *house) {
		h.fencing(missed)
		if h.node().Annotations[FencesAnnotation] != "true" || *h.lease().Spec.LeaseDurationSeconds != 8 {
			h.Errorf("it does not say that it fences itself: %v", h.node().Annotations)
		}
		forever := newPod(tolerating())
		forever.Name, forever.UID, forever.Spec.Containers[0].Name = "forever", "uid2", "ever"
		h.api.put(forever)
		h.api.put(newPod(tolerating(30)))
		h.after(5 * time.Second)
		running := func() int { _, n, _ := h.rt.counts(); return n }
		if running() != 2 {
			h.Fatalf("%d run", running())
		}
		h.api.away.Store(true)
		h.after(35 * time.Second) // the last renewal was 2.5 s before at the most
		if running() != 2 {
			h.Fatalf("%d run before the time is over", running())
		}
		h.after(5 * time.Second)
		if running() != 1 {
			h.Fatalf("%d run after it", running())
		}
		// It is reached again, and the pod is still meant to run here.
		h.api.away.Store(false)
		h.after(5 * time.Second)
		if running() != 2 || h.status("c").RestartCount != 1 {
			h.Errorf("%d run; %+v", running(), h.status("c"))
		}
		// Once more; and this time it has been made again elsewhere while nobody saw it here.
		h.api.away.Store(true)
		h.after(45 * time.Second)
		h.api.mu.Lock()
		now := metav1.Now()
		gone := h.api.pods["ns/p"].DeepCopy()
		gone.DeletionTimestamp, gone.DeletionGracePeriodSeconds = &now, new(int64(30))
		h.api.pods["ns/p"] = gone
		h.api.mu.Unlock()
		h.api.away.Store(false)
		h.after(5 * time.Second)
		if running() != 1 {
			h.Errorf("a pod that is being deleted runs again: %d", running())
		}
	})
}

func TestNobodyIsMissedWhereNoServerRuns(t *testing.T) {
	live(t, func(h *house) {
		h.fencing(func() time.Duration { return NoServer })
		h.api.put(newPod(tolerating(0)))
		h.after(5 * time.Second)
		h.api.away.Store(true)
		h.after(10 * time.Minute)
		if _, n, _ := h.rt.counts(); n != 1 {
			h.Errorf("%d run", n)
		}
	})
}

func TestTimeInWhichEveryStoreStandsStillDoesNotCount(t *testing.T) {
	live(t, func(h *house) {
		var still stall
		h.fencing(still.lasts)
		h.api.put(newPod(tolerating(5)))
		h.after(5 * time.Second)
		running := func(want int, when string) {
			h.Helper()
			if _, n, _ := h.rt.counts(); n != want {
				h.Errorf("%s: %d run, want %d", when, n, want)
			}
		}
		h.api.away.Store(true)
		still.begin()
		h.after(10 * time.Minute)
		running(1, "every store stands still")
		h.stop() // and a new agent knows no less
		h.start()
		h.after(10 * time.Minute)
		running(1, "the agent was started anew meanwhile")
		h.api.away.Store(false)
		still.end()
		h.after(10 * time.Second)
		running(1, "all is well again")
		if n := h.status("c").RestartCount; n != 0 {
			h.Errorf("it was started again %d times", n)
		}
	})
}

func TestAStallMakesUpForNoOtherSilence(t *testing.T) {
	live(t, func(h *house) {
		var still stall
		h.fencing(still.lasts)
		h.api.put(newPod(tolerating(30)))
		h.after(5 * time.Second)
		running := func(want int, when string) {
			h.Helper()
			if _, n, _ := h.rt.counts(); n != want {
				h.Errorf("%s: %d run, want %d", when, n, want)
			}
		}
		h.api.away.Store(true)
		h.after(20 * time.Second) // in which a control plane counts, though no answer comes
		still.begin()
		h.after(5 * time.Minute)
		running(1, "every store stands still")
		still.end()
		h.after(8 * time.Second)
		running(1, "what is left of its 38 s")
		h.after(12 * time.Second) // the last asking was up to 2 s before the end
		running(0, "38 s that counted have passed")
		still.begin()
		h.after(5 * time.Minute)
		running(0, "that a store stands still says nothing about a pod that may have been made again")
		still.end()
		h.api.away.Store(false)
		h.after(5 * time.Second)
		running(1, "a server was heard, and the pod is still meant to run here")
	})
}

// Of two answers about the same time one counts, and none counts for what was before the last contact.
func TestWhatIsSparedCountsOnce(t *testing.T) {
	type span [2]time.Duration
	for name, c := range map[string]struct {
		spans []span
		want  time.Duration // by which the contact, at 100 s, is moved
	}{
		"nothing":                                   {},
		"all since the contact":                     {[]span{{100, 112}}, 12},
		"some of it":                                {[]span{{105, 112}}, 7},
		"what was before the contact is not":        {[]span{{90, 112}}, 12},
		"the same again":                            {[]span{{100, 112}, {100, 112}}, 12},
		"more of the same":                          {[]span{{100, 112}, {100, 118}}, 18},
		"another":                                   {[]span{{100, 112}, {120, 130}}, 22},
		"one that was over before it was told":      {[]span{{112, 112}, {115, 110}}, 0},
		"what the machine slept through is not":     {[]span{{3700, 104}}, 0},
		"an older one that comes late adds nothing": {[]span{{110, 120}, {100, 115}}, 10},
	} {
		a := &Agent{}
		a.fence = fence{grace: 9, contact: 100, settled: 100}
		for _, s := range c.spans {
			a.spare(s[0], s[1])
			if a.fence.contact > a.fence.settled {
				t.Errorf("%s: the contact is moved to %d, and all is settled up to %d only", name, a.fence.contact, a.fence.settled)
			}
		}
		if got := a.fence.contact - 100; got != c.want {
			t.Errorf("%s: moved by %d, want %d", name, got, c.want)
		}
	}
	never := &Agent{}
	never.spare(100, 112)
	if never.fence.contact != 0 {
		t.Error("who has reached nobody yet has something spared")
	}
}

func TestAnAgentThatStartsAnewGoesOnCounting(t *testing.T) {
	live(t, func(h *house) {
		h.fencing(missed)
		h.api.put(newPod(tolerating(30)))
		h.after(5 * time.Second)
		if _, err := os.Stat(filepath.Join(h.dir, podsFile)); err != nil {
			h.Fatal(err)
		}
		h.api.away.Store(true)
		h.after(10 * time.Second)
		h.stop()
		ready := h.api.ready
		h.api.ready = make(chan struct{}) // the next agent sees nothing of the cluster
		h.start()
		h.after(20 * time.Second)
		if _, n, _ := h.rt.counts(); n != 1 {
			h.Fatalf("%d run before the time is over", n)
		}
		h.after(15 * time.Second)
		if _, n, _ := h.rt.counts(); n != 0 {
			h.Errorf("%d run after it", n)
		}
		close(h.api.ready)
		h.after(20 * time.Second)
		if _, n, _ := h.rt.counts(); n != 0 {
			h.Errorf("%d run once it sees what was last known", n)
		}
		h.api.ready = ready
		h.api.away.Store(false)
		h.after(5 * time.Second)
		h.phase(corev1.PodRunning)
	})
}

func TestPodsEndWithTheMachineByPriority(t *testing.T) {
	live(t, func(h *house) {
		critical := newPod(func(p *corev1.Pod) { p.Spec.Priority = new(int32(criticalPriority)) })
		critical.Name, critical.UID, critical.Spec.Containers[0].Name = "critical", "uid2", "last"
		h.api.put(critical)
		h.api.put(newPod())
		h.after(5 * time.Second)
		h.rt.ignoreTERM = true
		began, done := time.Now(), make(chan error, 1)
		go func() { done <- h.a.Shutdown(context.Background(), 30*time.Second, 10*time.Second) }()
		h.after(19 * time.Second)
		if _, n, _ := h.rt.counts(); n != 2 {
			h.Errorf("%d run within the grace", n)
		}
		h.after(5 * time.Second)
		if p := h.api.Pod("ns", "critical"); p.Status.Phase != corev1.PodRunning {
			h.Errorf("the critical one is %s with the others", p.Status.Phase)
		}
		if err := <-done; err != nil {
			h.Error(err)
		}
		if took := time.Since(began); took > 35*time.Second {
			h.Errorf("it took %v", took)
		}
		h.after(time.Second)
		for _, name := range []string{"p", "critical"} {
			s := h.api.Pod("ns", name).Status
			disrupted := ""
			for _, c := range s.Conditions {
				if c.Type == corev1.DisruptionTarget {
					disrupted = c.Reason
				}
			}
			if s.Phase != corev1.PodFailed || s.Reason != "Terminated" || s.Message != "Pod was terminated in response to imminent node shutdown." || disrupted != "TerminationByKubelet" {
				h.Errorf("%s is %s, %s %s, disrupted by %q", name, s.Phase, s.Reason, s.Message, disrupted)
			}
		}
		if readiness(h.node()) {
			h.Error("the node is Ready")
		}
	})
}
