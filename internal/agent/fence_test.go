package agent

import (
	"context"
	"os"
	"path/filepath"
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
func (h *house) fencing(unserved bool) {
	begin := time.Now().Add(-time.Hour) // the machine has been up for an hour
	h.change = func(a *Agent) {
		a.cfg.Lease, a.cfg.StateDir = 8*time.Second, h.dir
		a.cfg.Unserved = func(context.Context) bool { return unserved && h.api.away.Load() }
		a.fence.grace, a.clock = a.cfg.Lease, func() time.Duration { return time.Since(begin) }
	}
	h.stop()
	h.start()
}

func TestAnAgentThatReachesNobodyStopsItsPods(t *testing.T) {
	live(t, func(h *house) {
		h.fencing(false)
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
		h.fencing(true)
		h.api.put(newPod(tolerating(0)))
		h.after(5 * time.Second)
		h.api.away.Store(true)
		h.after(10 * time.Minute)
		if _, n, _ := h.rt.counts(); n != 1 {
			h.Errorf("%d run", n)
		}
	})
}

func TestAnAgentThatStartsAnewGoesOnCounting(t *testing.T) {
	live(t, func(h *house) {
		h.fencing(false)
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
