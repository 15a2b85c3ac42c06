package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/loop"
)

func priority(p int32) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Priority = &p }
}

func began(minute int) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.StartTime = &metav1.Time{Time: time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
	}
}

// placing counts pods on nodes.
func placing(nodes *Nodes, pods ...*corev1.Pod) *Nodes {
	for _, p := range pods {
		u := useOf(p)
		nodes.join(memberOf(p, u), nodes.add(p.Spec.NodeName, u))
	}
	return nodes
}

func three(pods ...*corev1.Pod) *Nodes {
	nodes := NewNodes()
	for _, name := range []string{"a", "b", "c"} {
		nodes.Set(aNode(name, "cpu=4 memory=8Gi"))
	}
	return placing(nodes, pods...)
}

func TestWhoMakesRoom(t *testing.T) {
	app := func(pods labels.Set) []Budget {
		return []Budget{{Pods: labels.SelectorFromSet(pods)}}
	}
	for name, c := range map[string]struct {
		pods   []*corev1.Pod
		budget []Budget
		pod    *corev1.Pod
		want   string // node: victims
		tail   string // of the sentence, if nobody does
	}{
		"the least important": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(5)), aPod("b1", "cpu=4", on("b"), priority(3)), aPod("c1", "cpu=4", on("c"), priority(4))},
			nil, aPod("p", "cpu=2", priority(10)), "b: b1", "",
		},
		"as few as will do": {
			[]*corev1.Pod{
				aPod("a1", "cpu=2", on("a"), priority(1)), aPod("a2", "cpu=2", on("a"), priority(1)),
				aPod("b1", "cpu=1", on("b"), priority(1)), aPod("b2", "cpu=3", on("b"), priority(1)), aPod("c1", "cpu=4", on("c"), priority(20)),
			},
			nil, aPod("p", "cpu=3", priority(10)), "b: b2", "",
		},
		"the smallest sum": {
			[]*corev1.Pod{
				aPod("a1", "cpu=2", on("a"), priority(5)), aPod("a2", "cpu=2", on("a"), priority(5)), aPod("b1", "cpu=4", on("b"), priority(5)), aPod("c1", "cpu=4", on("c"), priority(10)),
			},
			nil, aPod("p", "cpu=4", priority(10)), "b: b1", "",
		},
		"of equals the one that began last": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1), began(1)), aPod("b1", "cpu=4", on("b"), priority(1), began(3)), aPod("c1", "cpu=4", on("c"), priority(1), began(2))},
			nil, aPod("p", "cpu=4", priority(10)), "b: b1", "",
		},
		"of equals the one that has not begun yet": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1), began(1)), aPod("b1", "cpu=4", on("b"), priority(1), began(3)), aPod("c1", "cpu=4", on("c"), priority(1))},
			nil, aPod("p", "cpu=4", priority(10)), "c: c1", "",
		},
		"the longer one stays": {
			[]*corev1.Pod{
				aPod("a1", "cpu=2", on("a"), priority(1), began(9)), aPod("a2", "cpu=2", on("a"), priority(1), began(2)),
				aPod("b1", "cpu=4", on("b"), priority(20)), aPod("c1", "cpu=4", on("c"), priority(20)),
			},
			nil, aPod("p", "cpu=2", priority(10)), "a: a1", "",
		},
		"rather one that no budget protects": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1), label("app", "db")), aPod("b1", "cpu=4", on("b"), priority(5)), aPod("c1", "cpu=4", on("c"), priority(20))},
			app(labels.Set{"app": "db"}), aPod("p", "cpu=4", priority(10)), "b: b1", "",
		},
		"one that a budget protects, if there is no other": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1), label("app", "db")), aPod("b1", "cpu=4", on("b"), priority(20)), aPod("c1", "cpu=4", on("c"), priority(20))},
			app(labels.Set{"app": "db"}), aPod("p", "cpu=4", priority(10)), "a: a1", "",
		},
		"the one whose neighbour it cannot be": {
			[]*corev1.Pod{aPod("a1", "cpu=1", on("a"), priority(1), label("app", "p")), aPod("b1", "cpu=1", on("b"), priority(20), label("app", "p")), aPod("c1", "cpu=1", on("c"), priority(20), label("app", "p"))},
			nil, aPod("p", "cpu=1", priority(10), away(toward("p", corev1.LabelHostname))), "a: a1", "",
		},
		"nobody of the same priority": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(10)), aPod("b1", "cpu=4", on("b"), priority(10)), aPod("c1", "cpu=4", on("c"), priority(11))},
			nil, aPod("p", "cpu=4", priority(10)), "", "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.",
		},
		"nobody whose going is not enough": {
			[]*corev1.Pod{aPod("a1", "cpu=1", on("a"), priority(1)), aPod("a2", "cpu=2", on("a"), priority(20)), aPod("b1", "cpu=4", on("b"), priority(20)), aPod("c1", "cpu=4", on("c"), priority(20))},
			nil, aPod("p", "cpu=4", priority(10)), "", "preemption: 0/3 nodes are available: 1 Insufficient cpu, 2 No preemption victims found for incoming pod.",
		},
		"nobody for a pod that asks for too much": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1))},
			nil, aPod("p", "cpu=5", priority(10)), "", "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
		},
		"nobody for a pod that pushes nobody out": {
			[]*corev1.Pod{aPod("a1", "cpu=4", on("a"), priority(1)), aPod("b1", "cpu=4", on("b"), priority(1)), aPod("c1", "cpu=4", on("c"), priority(1))},
			nil, aPod("p", "cpu=4", priority(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }), "", "preemption: not eligible due to preemptionPolicy=Never.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, need := three(c.pods...), NeedOf(c.pod)
			before := fmt.Sprint(nodes.byName["a"].used, nodes.byName["b"].used, nodes.byName["c"].used)
			node, refusal := Pick(need, nodes)
			if refusal == nil {
				t.Fatalf("it fits on %s", node.Name)
			}
			r := makeRoom(need, nodes, refusal, func(string) []Budget { return c.budget })
			got := ""
			if r != nil {
				var names []string
				for _, v := range r.victims {
					names = append(names, v.key.Name)
				}
				got = r.node.Name + ": " + strings.Join(names, " ")
			}
			if got != c.want || c.want == "" && !strings.HasSuffix(refusal.Error(), c.tail) {
				t.Errorf("room is made %q, wanted %q: %s", got, c.want, refusal)
			}
			if after := fmt.Sprint(nodes.byName["a"].used, nodes.byName["b"].used, nodes.byName["c"].used); after != before {
				t.Errorf("trying has changed what is taken: %s, before %s", after, before)
			}
		})
	}
}

func TestHowManyCandidatesAreLookedAt(t *testing.T) {
	few := mine(t, args("DefaultPreemption", "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 1}"))
	for name, c := range map[string]struct {
		label func(*corev1.Pod) // of the first candidate
		want  string
	}{
		"one, that breaks no budget, is enough": {label("app", "web"), "a"},
		"one that breaks a budget is not":       {label("app", "db"), "b"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := three(aPod("a1", "cpu=4", on("a"), priority(5), c.label), aPod("b1", "cpu=4", on("b"), priority(4)), aPod("c1", "cpu=4", on("c"), priority(3)))
			need := few.Need(aPod("p", "cpu=2", priority(10)))
			_, refusal := Pick(need, nodes)
			r := makeRoom(need, nodes, refusal, func(string) []Budget {
				return []Budget{{Pods: labels.SelectorFromSet(labels.Set{"app": "db"})}}
			})
			if r.node.Name != c.want {
				t.Errorf("room is made on %s, wanted %s", r.node.Name, c.want)
			}
		})
	}
}

func nominated(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}

func TestTheNominatedNodeComesFirst(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("a", "cpu=4 memory=8Gi"), aNode("b", "cpu=4 memory=8Gi"), aPod("x", "cpu=2 memory=2Gi", on("a")))
		w.put(aPod("hinted", "cpu=1", nominated("a")))
		synctest.Wait()
		w.put(aPod("misled", "cpu=3", nominated("a")), aPod("lost", "cpu=1", nominated("gone")))
		synctest.Wait()
		for name, want := range map[string]string{"hinted": "a", "misled": "b"} {
			if got := w.Pod(loop.Key{Namespace: "shop", Name: name}).Spec.NodeName; got != want {
				t.Errorf("%s goes to %q, wanted %q", name, got, want)
			}
		}
		if w.Pod(loop.Key{Namespace: "shop", Name: "lost"}).Spec.NodeName == "" {
			t.Error("a node that is not there holds its pod up")
		}
	})
}

func TestWhileVictimsGoNobodyElseHasTo(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("a", "cpu=4 memory=8Gi"), aNode("b", "cpu=4 memory=8Gi"), aPod("low", "cpu=4", priority(1), on("a")), aPod("mid", "cpu=4", priority(2), on("b")))
		synctest.Wait()
		w.put(aPod("high", "cpu=4", priority(10)))
		synctest.Wait()
		time.Sleep(time.Minute)
		again := w.Pod(loop.Key{Namespace: "shop", Name: "high"}).DeepCopy()
		again.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		w.put(again)
		synctest.Wait()
		diary := strings.Join(w.diary, "\n")
		if strings.Count(diary, "is evicted") != 1 || !strings.Contains(diary, "2 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node.") {
			t.Error(diary)
		}
	})
}

func TestWhoGoesAnyhowIsWaitedFor(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		going := aPod("going", "cpu=4", priority(1), on("a"))
		now := metav1.Now()
		going.DeletionTimestamp = &now
		w.put(aNode("a", "cpu=4 memory=8Gi"), aNode("b", "cpu=4 memory=8Gi"), going, aPod("mid", "cpu=4", priority(2), on("b")))
		synctest.Wait()
		w.put(aPod("high", "cpu=4", priority(10)))
		synctest.Wait()
		again := w.Pod(loop.Key{Namespace: "shop", Name: "high"}).DeepCopy()
		again.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		w.put(again)
		synctest.Wait()
		time.Sleep(time.Minute)
		w.delete("going")
		synctest.Wait()
		diary := strings.Join(w.diary, "\n")
		if strings.Contains(diary, "is evicted") || !strings.Contains(diary, "not eligible due to a terminating pod on the nominated node.") || !strings.Contains(diary, "high on a") {
			t.Error(diary)
		}
	})
}

func TestANominationThatHelpsNoMoreIsTakenBack(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("a", "cpu=4 memory=8Gi"), aPod("low", "cpu=4", priority(1), on("a")))
		synctest.Wait()
		w.put(aPod("mid", "cpu=4", priority(5)))
		synctest.Wait()
		w.put(aPod("high", "cpu=4", priority(10)))
		w.told()
		for name, want := range map[string]string{"mid": "", "high": "a"} {
			if got := w.Pod(loop.Key{Namespace: "shop", Name: name}).Status.NominatedNodeName; got != want {
				t.Errorf("%s is nominated to %q, wanted %q", name, got, want)
			}
		}
		w.put(aPod("misled", "cpu=9", nominated("a")))
		synctest.Wait()
		if got := w.Pod(loop.Key{Namespace: "shop", Name: "misled"}).Status.NominatedNodeName; got != "" {
			t.Errorf("who fits nowhere is still nominated to %q", got)
		}
	})
}

// From any cluster: whoever is let in by pushing out fits once the victims are gone, all of them are less important, and with any one of them left it does not fit.
func TestVictimsAreEnoughAndNotTooMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	made := 0
	for range 300 {
		nodes := three()
		var pods []*corev1.Pod
		for i := range rng.IntN(12) {
			p := aPod(fmt.Sprint("v", i), fmt.Sprintf("cpu=%d memory=%dGi", rng.IntN(3), rng.IntN(4)), on(string("abc"[rng.IntN(3)])), priority(rng.Int32N(20)))
			pods = append(pods, p)
		}
		placing(nodes, pods...)
		need := NeedOf(aPod("p", fmt.Sprintf("cpu=%d memory=%dGi", 1+rng.IntN(4), rng.IntN(8)), priority(10)))
		if _, refusal := Pick(need, nodes); refusal != nil {
			r := makeRoom(need, nodes, refusal, func(string) []Budget { return nil })
			if r == nil {
				continue
			}
			made++
			for _, v := range r.victims {
				if v.priority >= 10 {
					t.Fatalf("%s has priority %d", v.key, v.priority)
				}
				nodes.part(v.key, r.node)
				nodes.take(r.node, v.use)
			}
			if !fits(need, r.node) {
				t.Fatal("it does not fit without its victims")
			}
			for _, v := range r.victims {
				nodes.join(v, nodes.add(r.node.Name, v.use))
				if fits(need, r.node) {
					t.Fatalf("%s went for nothing", v.key)
				}
				nodes.part(v.key, r.node)
				nodes.take(r.node, v.use)
			}
		}
	}
	if made < 20 {
		t.Errorf("only %d times was room made: the worlds are too kind", made)
	}
}

func TestRoomIsKeptForWhomItWasMade(t *testing.T) {
	live(t, func(t *testing.T, w *world) {
		w.put(aNode("a", "cpu=4 memory=8Gi"))
		w.put(aPod("low", "cpu=4", priority(1)))
		synctest.Wait()
		w.put(aPod("high", "cpu=4", priority(10)))
		synctest.Wait()
		w.put(aPod("late", "cpu=4", priority(5)))
		synctest.Wait()
		w.delete("low")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		diary := strings.Join(w.diary, "\n")
		for _, want := range []string{"low on a", "low is evicted: PreemptionByScheduler", "Normal Preempted Preempted by pod uid-high on node a", "a for high", "high on a"} {
			if !strings.Contains(diary, want) {
				t.Errorf("nobody says %q:\n%s", want, diary)
			}
		}
		if strings.Contains(diary, "late on a") || strings.Count(diary, "is evicted") != 1 {
			t.Errorf("another has taken the room, or more went than had to:\n%s", diary)
		}
	})
}
