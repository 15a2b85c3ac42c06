package daemonset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/workload"
)

// world is a set, nodes and pods; nodes run pods, and end them, as they like.
type world struct {
	set   *appsv1.DaemonSet
	nodes []*corev1.Node
	pods  map[string]*corev1.Pod
	made  int
	r     *rand.Rand
	log   []string
}

func random(r *rand.Rand) *world {
	w := &world{r: r, pods: map[string]*corev1.Pod{}}
	switch r.IntN(4) {
	case 0:
		w.set = newSet(surging(1 + r.Int32N(3)))
	case 1:
		w.set = newSet(onDelete)
	default:
		w.set = newSet(rolling(intstr.FromInt32(1+r.Int32N(3)), intstr.FromInt32(0)))
	}
	for i := range r.IntN(6) {
		words := []string{"", "", "", " x:NoSchedule", " x:NoExecute"}
		w.nodes = append(w.nodes, node(fmt.Sprint("n", i)+words[r.IntN(len(words))]))
	}
	for range r.IntN(9) {
		words := []string{"", "", " new", " unready", " new unready", " new deleting", " failed", " succeeded", " waiting", " new younger", " younger", " failed deleting"}
		w.add(pod(fmt.Sprintf("p%d n%d%s", w.made, r.IntN(6), words[r.IntN(len(words))])))
	}
	return w
}

func (w *world) add(p *corev1.Pod) {
	w.made++
	w.pods[p.Name] = p
}

func (w *world) list() (all []*corev1.Pod) {
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		all = append(all, w.pods[name])
	}
	return all
}

func (w *world) state() State {
	return State{Set: w.set, Hash: "new", Nodes: w.nodes, Pods: w.list(), Now: now, Wait: func(string) time.Duration { return 0 }}
}

func (w *world) exists(node string) bool {
	return slices.ContainsFunc(w.nodes, func(n *corev1.Node) bool { return n.Name == node })
}

// step does one thing that nodes do, and says whether there was any.
func (w *world) step() bool {
	var can []func()
	for _, p := range w.list() {
		switch {
		case p.DeletionTimestamp != nil || !w.exists(nodeOf(p)) && p.Spec.NodeName != "":
			can = append(can, func() { delete(w.pods, p.Name); w.log = append(w.log, "gone "+p.Name) })
		case !ended(p) && !workload.Ready(p) && w.exists(nodeOf(p)):
			can = append(can, func() {
				q := pod(p.Name + " " + nodeOf(p))
				q.Labels, q.CreationTimestamp = p.Labels, p.CreationTimestamp
				w.pods[p.Name] = q
				w.log = append(w.log, "ready "+p.Name)
			})
		}
	}
	if len(can) > 0 {
		can[w.r.IntN(len(can))]()
	}
	return len(can) > 0
}

func (w *world) apply(p Plan) {
	w.log = append(w.log, show(p))
	for _, n := range p.Create {
		w.add(pod(fmt.Sprintf("p%d %s new younger waiting", w.made, n)))
	}
	for _, d := range p.Delete {
		q := d.DeepCopy()
		q.DeletionTimestamp = pod("x n1 deleting").DeletionTimestamp
		w.pods[d.Name] = q
	}
}

// availableOn says whether a node has an available pod that is not being deleted, but for those that a plan deletes.
func (w *world) availableOn(node string, but []*corev1.Pod) bool {
	for _, p := range w.list() {
		if nodeOf(p) == node && p.DeletionTimestamp == nil && workload.Ready(p) && !slices.Contains(but, p) {
			return true
		}
	}
	return false
}

// crowded says that a node has pods that no rollout has put there; of these the oldest stays, ready or not.
func (w *world) crowded(node string) bool {
	had := map[bool]bool{}
	for _, p := range w.list() {
		if nodeOf(p) != node || p.DeletionTimestamp != nil || ended(p) {
			continue
		}
		isNew := updated(w.set, p, "new")
		if had[isNew] || had[!isNew] && !surges(w.set) {
			return true
		}
		had[isNew] = true
	}
	return false
}

// holds checks that of the nodes where a pod is to run no more lose their available pod than the strategy allows.
func (w *world) holds(p Plan) error {
	fit := FitOf(w.set)
	desired, without, lose := 0, 0, 0
	for _, n := range w.nodes {
		if run, _ := fit.On(n); !run {
			continue
		}
		desired++
		switch {
		case !w.availableOn(n.Name, nil):
			without++
		case !w.availableOn(n.Name, p.Delete) && !w.crowded(n.Name):
			lose++
		}
	}
	most := count(w.set, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxUnavailable }, desired)
	if lose > max(most-without, 0) {
		return fmt.Errorf("%d nodes lose their available pod where %d have none and %d may", lose, without, most)
	}
	for _, n := range p.Create {
		active := 0
		for _, q := range w.pods {
			if nodeOf(q) == n && q.DeletionTimestamp == nil && !ended(q) {
				active++
			}
		}
		if active > 1 || active == 1 && !surges(w.set) {
			return fmt.Errorf("node %s has %d pods and gets another one", n, active)
		}
	}
	return nil
}

// settled says what is not as the spec wants it.
func (w *world) settled() error {
	fit, on := FitOf(w.set), w.state().byNode()
	for _, n := range w.nodes {
		run, stay := fit.On(n)
		have := on[n.Name]
		switch {
		case run && len(have) != 1, !run && stay && len(have) > 1, !stay && len(have) > 0:
			return fmt.Errorf("node %s has %d pods", n.Name, len(have))
		case len(have) == 1 && (!workload.Ready(have[0]) || run && w.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType && !updated(w.set, have[0], "new")):
			return fmt.Errorf("node %s has a pod that is not as it should be", n.Name)
		}
		delete(on, n.Name)
	}
	if len(on) > 0 {
		return fmt.Errorf("there are pods for nodes that are not there: %v", on)
	}
	return nil
}

func TestFromAnyStartASetReachesItsSpecAndRests(t *testing.T) {
	for seed := range uint64(3000) {
		w := random(rand.New(rand.NewPCG(seed, 2)))
		for step := 0; ; step++ {
			p := Decide(w.state())
			if err := w.holds(p); err != nil {
				t.Fatalf("seed %d: %v\n%q", seed, err, w.log)
			}
			w.apply(p)
			changed := p.changes()
			for range w.r.IntN(4) {
				changed = w.step() || changed
			}
			if !changed && !w.step() {
				break
			}
			if step > 300 {
				t.Fatalf("seed %d: it never rests\n%q", seed, w.log)
			}
		}
		if err := w.settled(); err != nil {
			t.Fatalf("seed %d: %v\n%q", seed, err, w.log)
		}
	}
}
