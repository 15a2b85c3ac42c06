package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// world is an API of pods and nodes, with a diary of what the scheduler did to it.
type world struct {
	mu      sync.Mutex
	s       *Scheduler
	pods    map[loop.Key]*corev1.Pod
	nodes   map[string]*corev1.Node
	refuse  func(pod string) error // asked before each binding
	blind   bool                   // bindings succeed, but the source does not show them yet
	begun   time.Time
	diary   []string
	binding int // at once, now and at most
	most    int
	slow    time.Duration // of a binding
}

func (w *world) Pod(key loop.Key) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[key]
}

func (w *world) Budgets(string) []Budget { return nil }

func (w *world) Services(string) []labels.Selector { return nil }

func (w *world) Nominate(_ context.Context, key loop.Key, uid types.UID, node string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.pods[key]
	if pod == nil || pod.UID != uid {
		return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
	}
	pod = pod.DeepCopy()
	pod.Status.NominatedNodeName = node
	w.pods[key] = pod
	w.note("%s for %s", node, key.Name)
	w.s.PodChanged(key)
	return nil
}

func (w *world) Evict(_ context.Context, key loop.Key, uid types.UID, c corev1.PodCondition) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.pods[key]
	if pod == nil || pod.UID != uid {
		return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
	}
	pod = pod.DeepCopy()
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	pod.Status.Conditions = append(pod.Status.Conditions, c)
	w.pods[key] = pod
	w.note("%s is evicted: %s", key.Name, c.Reason)
	w.s.PodChanged(key)
	return nil
}

func (w *world) NamespaceLabels(name string) map[string]string {
	return map[string]string{"name": name}
}

func (w *world) Node(name string) *corev1.Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[name]
}

func (w *world) Bind(_ context.Context, b *corev1.Binding) error {
	w.mu.Lock()
	w.binding++
	w.most = max(w.most, w.binding)
	w.mu.Unlock()
	time.Sleep(w.slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.binding--
	if w.refuse != nil {
		if err := w.refuse(b.Name); err != nil {
			return err
		}
	}
	key := loop.Key{Namespace: b.Namespace, Name: b.Name}
	pod := w.pods[key]
	if pod == nil {
		return apierrors.NewNotFound(corev1.Resource("pods"), b.Name)
	}
	w.note("%s on %s", b.Name, b.Target.Name)
	if !w.blind {
		pod = pod.DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		w.pods[key] = pod
		w.s.PodChanged(key)
	}
	return nil
}

func (w *world) SetCondition(_ context.Context, key loop.Key, uid types.UID, c corev1.PodCondition) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.pods[key]
	if pod == nil || pod.UID != uid {
		return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
	}
	pod = pod.DeepCopy()
	pod.Status.Conditions = []corev1.PodCondition{c}
	w.pods[key] = pod
	w.note("%s %s=%s %s", key.Name, c.Type, c.Status, c.Reason)
	w.s.PodChanged(key)
	return nil
}

func (w *world) Record(_ runtime.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("%s %s %s", kind, reason, message)
}

func (w *world) note(format string, args ...any) {
	w.diary = append(w.diary, fmt.Sprintf("%s: ", time.Since(w.begun))+fmt.Sprintf(format, args...))
}

func (w *world) put(objects ...any) {
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Pod:
			w.mu.Lock()
			w.pods[keyOf(o)] = o
			w.mu.Unlock()
			w.s.PodChanged(keyOf(o))
		case *corev1.Node:
			w.mu.Lock()
			w.nodes[o.Name] = o
			w.mu.Unlock()
			w.s.NodeChanged(o.Name)
		}
	}
}

func (w *world) delete(pods ...string) {
	for _, name := range pods {
		key := loop.Key{Namespace: "shop", Name: name}
		w.mu.Lock()
		delete(w.pods, key)
		w.mu.Unlock()
		w.s.PodChanged(key)
	}
}

// told returns what was done since the last call, the events' lines without those of the category left out.
func (w *world) told(without ...string) []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := slices.DeleteFunc(w.diary, func(line string) bool {
		return slices.ContainsFunc(without, func(word string) bool { return strings.Contains(line, word) })
	})
	w.diary = nil
	return lines
}

func live(t *testing.T, act func(t *testing.T, w *world)) {
	t.Helper()
	liveWith(t, func(w *world) Config {
		return Config{Source: w, API: w, Recorder: func(string) Recorder { return w }, Metrics: NewMetrics()}
	}, act)
}

func liveWith(t *testing.T, config func(w *world) Config, act func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{pods: map[loop.Key]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, begun: time.Now()}
		w.s = New(config(w))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.s.Run(ctx) }()
		act(t, w)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestAPodIsBoundAndToldSo(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("n1", "cpu=2"), aPod("a", "cpu=1"))
		expect(t, w.told(), "0s: a on n1", "0s: Normal Scheduled Successfully assigned shop/a to n1")
	})
}

func TestOnlyPodsThatAreOursAreBound(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		deleted := aPod("deleted", "")
		now := deleted.CreationTimestamp
		deleted.DeletionTimestamp = &now
		w.put(
			aNode("n1", "cpu=2"), deleted, aPod("placed", "", on("n1")),
			aPod("other", "", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }),
			aPod("ended", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		)
		expect(t, w.told())
	})
}

func TestAPodThatFitsNowhereSaysWhyOnceAndWaits(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aPod("a", "cpu=2"))
		expect(t, w.told(), "0s: Warning FailedScheduling no nodes available to schedule pods", "0s: a PodScheduled=False Unschedulable")
		time.Sleep(time.Hour)
		expect(t, w.told()) // it is not tried again without a reason
		w.put(aNode("n1", "cpu=1"))
		expect(t, w.told()) // which does not help
		w.put(aNode("n2", "cpu=2"))
		expect(t, w.told(), "1h0m0s: a on n2", "1h0m0s: Normal Scheduled Successfully assigned shop/a to n2")
	})
}

func TestWhatWakesAPod(t *testing.T) {
	full := []any{aNode("n1", "cpu=2 memory=1Gi"), aPod("x", "cpu=2", on("n1"), hostPort("", 80, "TCP"))}
	for _, c := range []struct {
		name   string
		before []any
		pod    *corev1.Pod
		change func(w *world)
		wakes  bool
	}{
		{"a pod goes", full, aPod("a", "cpu=1"), func(w *world) { w.delete("x") }, true},
		{"a pod ends", full, aPod("a", "cpu=1"), func(w *world) {
			w.put(aPod("x", "cpu=2", on("n1"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
		}, true},
		{"a port is freed", full, aPod("a", "", hostPort("", 80, "TCP")), func(w *world) { w.delete("x") }, true},
		{"another pod comes", full, aPod("a", "cpu=1"), func(w *world) { w.put(aPod("y", "memory=1Mi", on("n1"))) }, false},
		{"the node grows", full, aPod("a", "cpu=1"), func(w *world) { w.put(aNode("n1", "cpu=3 memory=1Gi")) }, true},
		{"the node grows in another way", full, aPod("a", "cpu=1"), func(w *world) { w.put(aNode("n1", "cpu=2 memory=9Gi")) }, false},
		{"a taint is taken away", []any{aNode("n1", "", tainted("k", "", "NoSchedule"))}, aPod("a", ""), func(w *world) { w.put(aNode("n1", "")) }, true},
		{"one of two taints is taken away", []any{aNode("n1", "", tainted("k", "", "NoSchedule"), tainted("l", "", "NoSchedule"))}, aPod("a", ""), func(w *world) { w.put(aNode("n1", "", tainted("l", "", "NoSchedule"))) }, false},
		{"a label appears", []any{aNode("n1", "")}, aPod("a", "", selecting("disk", "ssd")), func(w *world) { w.put(aNode("n1", "", labelled("disk", "ssd"))) }, true},
		{"another label appears", []any{aNode("n1", "")}, aPod("a", "", selecting("disk", "ssd")), func(w *world) { w.put(aNode("n1", "", labelled("disk", "hdd"))) }, false},
		{"the node is uncordoned", []any{aNode("n1", "", cordoned)}, aPod("a", ""), func(w *world) { w.put(aNode("n1", "")) }, true},
		{"the node is uncordoned, and its taint goes after that", []any{aNode("n1", "", cordoned, tainted(corev1.TaintNodeUnschedulable, "", "NoSchedule"))}, aPod("a", ""), func(w *world) {
			w.put(aNode("n1", "", tainted(corev1.TaintNodeUnschedulable, "", "NoSchedule")))
			synctest.Wait()
			w.put(aNode("n1", ""))
		}, true},
		{"the node reports its status", []any{aNode("n1", "", cordoned)}, aPod("a", ""), func(w *world) {
			w.put(aNode("n1", "", cordoned, func(n *corev1.Node) { n.Status.NodeInfo.BootID = "x" }))
		}, false},
		{"the pod tolerates more", []any{aNode("n1", "", tainted("k", "", "NoSchedule"))}, aPod("a", ""), func(w *world) {
			w.put(aPod("a", "", tolerating(corev1.Toleration{Operator: "Exists"})))
		}, true},
		{"a node that is not of the topology becomes of it", []any{aNode("n1", "")}, aPod("a", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), func(w *world) {
			w.put(aNode("n1", "", labelled(aZone, "a")))
		}, true},
		{"a place that is behind goes", []any{aNode("n1", "", labelled(aZone, "a")), aNode("n2", "", labelled(aZone, "b"), tainted("k", "", "NoSchedule")), aPod("x", "", label("app", "web"), on("n1"))}, aPod("a", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), func(w *world) {
			w.mu.Lock()
			delete(w.nodes, "n2")
			w.mu.Unlock()
			w.s.NodeChanged("n2")
		}, true},
		{"a place that is behind is left out for its taint", []any{aNode("n1", "", labelled(aZone, "a")), aNode("n2", "cpu=0", labelled(aZone, "b"), tainted("k", "", "PreferNoSchedule")), aPod("x", "", label("app", "web"), on("n1"))}, aPod("a", "cpu=1m", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) {
			c.NodeTaintsPolicy = new(corev1.NodeInclusionPolicyHonor)
		})), func(w *world) {
			w.put(aNode("n1", "cpu=1", labelled(aZone, "a")), aNode("n2", "cpu=0", labelled(aZone, "b"), tainted("k", "", "NoSchedule")))
		}, true},
		{"the pod that keeps it away has another label", []any{aNode("n1", ""), aPod("x", "", label("app", "web"), on("n1"))}, aPod("a", "", away(toward("web", corev1.LabelHostname))), func(w *world) {
			w.put(aPod("x", "", label("app", "db"), on("n1")))
		}, true},
		{"the pod itself has another label", []any{aNode("n1", ""), aPod("x", "", away(toward("web", corev1.LabelHostname)), on("n1"))}, aPod("a", "", label("app", "web")), func(w *world) {
			w.put(aPod("a", "", label("app", "db")))
		}, true},
		{"the node comes back", full, aPod("a", "cpu=1", selecting("disk", "ssd")), func(w *world) {
			w.mu.Lock()
			delete(w.nodes, "n1")
			w.mu.Unlock()
			w.s.NodeChanged("n1")
			synctest.Wait()
			w.delete("x")
			w.put(aNode("n1", "cpu=1", labelled("disk", "ssd")))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			live(t, func(t *testing.T, w *world) {
				w.put(c.before...)
				w.put(c.pod)
				if lines := w.told("PodScheduled"); len(lines) != 1 || !strings.Contains(lines[0], "FailedScheduling") {
					t.Fatalf("at first: %q", lines)
				}
				time.Sleep(time.Minute)
				c.change(w)
				time.Sleep(time.Minute)
				var want []string
				if c.wakes {
					want = []string{"1m0s: a on n1"}
				}
				expect(t, w.told("Scheduled"), want...)
			})
		})
	}
}

func TestTheMostImportantGoesFirstThenTheOldest(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("n1", "cpu=0", func(n *corev1.Node) { n.Status.Allocatable["pods"] = list("pods=0")["pods"] }))
		high := func(p *corev1.Pod) { ten := int32(10); p.Spec.Priority = &ten }
		w.put(aPod("first", ""), aPod("second", ""), aPod("important", "", high))
		w.told()
		w.slow = time.Second
		w.s.slots = make(chan struct{}, 1)
		w.put(aNode("n1", "cpu=1"))
		time.Sleep(time.Minute)
		expect(t, w.told("Scheduled"), "1s: important on n1", "2s: first on n1", "3s: second on n1")
	})
}

func TestDecisionsCountBeforeTheSourceShowsThem(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.blind = true
		w.put(aNode("n1", "cpu=2"), aPod("a", "cpu=1"), aPod("b", "cpu=1"), aPod("c", "cpu=1"))
		lines := w.told("PodScheduled", "Normal")
		slices.Sort(lines)
		expect(t, lines, "0s: Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.", "0s: a on n1", "0s: b on n1")
		w.put(w.Pod(loop.Key{Namespace: "shop", Name: "a"})) // still shown without a node
		expect(t, w.told())
		w.delete("a") // never shown on its node, it frees it all the same
		time.Sleep(time.Minute)
		expect(t, w.told("Scheduled"), "0s: c on n1")
	})
}

func TestARefusedBindingIsTakenBackAndTriedAgain(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.refuse = func(pod string) error {
			if pod == "a" && time.Since(w.begun) < 5*time.Second {
				return errors.New("disk full")
			}
			return nil
		}
		w.put(aNode("n1", "cpu=1"), aPod("a", "cpu=1"))
		expect(t, w.told(), "0s: Warning FailedScheduling binding rejected: disk full", "0s: a PodScheduled=False SchedulerError")
		w.put(aPod("b", "cpu=1")) // takes what was given back
		expect(t, w.told("Scheduled"), "0s: b on n1")
		time.Sleep(10 * time.Second)
		w.delete("b")
		time.Sleep(10 * time.Second)
		expect(t, w.told("FailedScheduling", "PodScheduled", "Normal"), "10s: a on n1")
	})
}

func TestAPodReplacedByItsNamesakeIsAnother(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("n1", "cpu=1"), aPod("a", "cpu=1"))
		expect(t, w.told("Scheduled"), "0s: a on n1")
		again := aPod("a", "cpu=1")
		again.UID = "another"
		w.put(again) // the deletion between them was not seen
		expect(t, w.told("Scheduled"), "0s: a on n1")
	})
}

func TestGatesHoldAPod(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		held := aPod("a", "", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}} })
		w.put(aNode("n1", "cpu=1"), held)
		expect(t, w.told(), "0s: a PodScheduled=False SchedulingGated")
		time.Sleep(time.Hour)
		w.put(aPod("a", ""))
		expect(t, w.told("Normal"), "1h0m0s: a on n1")
	})
}

func TestWritesToTheAPIAreBounded(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.slow = time.Second
		w.put(aNode("n1", "cpu=100", func(n *corev1.Node) { n.Status.Allocatable["pods"] = list("pods=1000")["pods"] }))
		for i := range 200 {
			w.put(aPod(fmt.Sprintf("p%d", i), ""))
		}
		time.Sleep(time.Minute)
		if lines := w.told("Normal"); len(lines) != 200 || w.most != 64 {
			t.Errorf("%d bound, at most %d at once", len(lines), w.most)
		}
	})
}

func TestMetricsCarryKubernetesNames(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(w.s.Metrics)
		w.put(aNode("n1", "cpu=1"), aPod("a", "cpu=1"), aPod("b", "cpu=1"))
		w.told()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				var labels []string
				for _, l := range m.Label {
					labels = append(labels, l.GetValue())
				}
				values[strings.Join(append([]string{f.GetName()}, labels...), " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for name, want := range map[string]float64{
			"scheduler_schedule_attempts_total default-scheduler scheduled":     1,
			"scheduler_schedule_attempts_total default-scheduler unschedulable": 1,
			"scheduler_pending_pods active":                                     0,
			"scheduler_pending_pods unschedulable":                              1,
			"scheduler_pod_scheduling_sli_duration_seconds 1":                   1,
		} {
			if got, ok := values[name]; !ok || got != want {
				t.Errorf("%s is %v, want %v; all: %v", name, got, want, values)
			}
		}
	})
}
