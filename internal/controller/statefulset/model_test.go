package statefulset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/workload"
)

// world is a set and its pods, which nodes and people change as they like.
type world struct {
	set  *appsv1.StatefulSet
	pods map[string]*corev1.Pod
	r    *rand.Rand
	log  []string
}

func (w *world) list() (all []*corev1.Pod) {
	for _, p := range w.pods {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return len(a.Name)*1000 - len(b.Name)*1000 + int(a.Name[len(a.Name)-1]) - int(b.Name[len(b.Name)-1])
	})
	return all
}

// random is any set with any pods, as an earlier life may have left them.
func random(r *rand.Rand) *world {
	w := &world{r: r, pods: map[string]*corev1.Pod{}}
	w.set = newSet(replicas(int32(r.IntN(6))), partitioned(int32(r.IntN(3))), unavailable(intstr.FromInt32(1+r.Int32N(3))))
	if r.IntN(2) == 0 {
		parallel(w.set)
	}
	if r.IntN(4) == 0 {
		onDelete(w.set)
	}
	if r.IntN(3) == 0 {
		from(r.Int32N(4))(w.set)
	}
	for n := range 9 {
		if r.IntN(2) == 0 {
			words := []string{"", " new", " new unready", " failed", " succeeded", " new deleting", " new pending", " deleting", " new unlabelled"}
			if w.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
				words = append(words, " unready", " pending")
			} // in order a broken pod of an old revision stops everything, until somebody deletes it
			p := pod(fmt.Sprint(n) + words[r.IntN(len(words))])
			w.pods[p.Name] = p
		}
	}
	return w
}

// nodes does one thing that nodes do: a pod becomes ready, or one that is being deleted goes. It says whether there was anything to do.
func (w *world) nodes() bool {
	var can []func()
	for _, p := range w.list() {
		switch {
		case p.DeletionTimestamp != nil:
			can = append(can, func() { delete(w.pods, p.Name); w.note("gone " + p.Name) })
		case !ended(p) && !runningAndReady(p):
			can = append(can, func() {
				q := pod(p.Name[len("web-"):])
				q.Labels = p.Labels
				w.pods[p.Name] = q
				w.note("ready " + p.Name)
			})
		}
	}
	if len(can) > 0 {
		can[w.r.IntN(len(can))]()
	}
	return len(can) > 0
}

func (w *world) note(s string) { w.log = append(w.log, s) }

func (w *world) decide() Plan {
	return Decide(w.set, w.list(), Revision{"old", &w.set.Spec.Template}, Revision{"new", &w.set.Spec.Template}, now)
}

func (w *world) apply(p Plan) {
	w.note(show(p))
	for _, made := range p.Create {
		if w.pods[made.Name] != nil {
			panic("two pods " + made.Name)
		}
		q := pod(made.Name[len("web-"):] + " pending")
		q.Labels = made.Labels
		w.pods[made.Name] = q
	}
	for _, d := range p.Delete {
		q := d.DeepCopy()
		q.DeletionTimestamp = pod("0 deleting").DeletionTimestamp
		w.pods[d.Name] = q
	}
	for _, d := range p.Identify {
		q := d.DeepCopy()
		n, _ := ordinal(w.set, q)
		identify(w.set, q, n)
		w.pods[d.Name] = q
	}
}

// holds checks what must hold of a plan in the state that it is for.
func (w *world) holds(p Plan) error {
	first := start(w.set)
	available := func(i int) bool {
		q := w.pods[podName(w.set, i)]
		return q != nil && q.DeletionTimestamp == nil && workload.Ready(q)
	}
	if w.set.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement {
		for _, made := range p.Create {
			n, _ := ordinal(w.set, made)
			for i := first; i < n; i++ {
				if !available(i) {
					return fmt.Errorf("%s is made before %d is ready", made.Name, i)
				}
			}
		}
	}
	// Of those that are wanted and available, a rollout takes no more than may be unavailable.
	without, taken := 0, 0
	for i := first; i < first+int(*w.set.Spec.Replicas); i++ {
		if !available(i) {
			without++
		}
	}
	for _, d := range p.Delete {
		n, _ := ordinal(w.set, d)
		if n >= first && n < first+int(*w.set.Spec.Replicas) && available(n) {
			taken++
			if w.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType || n-first < int(partition(w.set)) {
				return fmt.Errorf("%s is deleted, which is to stay", d.Name)
			}
		}
	}
	if taken > max(maxUnavailable(w.set)-without, 0) {
		return fmt.Errorf("%d more become unavailable where %d are already and %d may be", taken, without, maxUnavailable(w.set))
	}
	return nil
}

// settled says what is not as the spec wants it.
func (w *world) settled() error {
	first, n := start(w.set), int(*w.set.Spec.Replicas)
	if len(w.pods) != n {
		return fmt.Errorf("%d pods", len(w.pods))
	}
	for i := range n {
		p := w.pods[podName(w.set, first+i)]
		if p == nil || !runningAndReady(p) || !identified(p) {
			return fmt.Errorf("number %d is not as it should be", first+i)
		}
		if w.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && i >= int(partition(w.set)) && p.Labels["controller-revision-hash"] != "new" {
			return fmt.Errorf("number %d is of an old revision", first+i)
		}
	}
	return nil
}

func TestFromAnyStartASetReachesItsSpecAndRests(t *testing.T) {
	for seed := range uint64(3000) {
		w := random(rand.New(rand.NewPCG(seed, 1)))
		for step := 0; ; step++ {
			p := w.decide()
			if err := w.holds(p); err != nil {
				t.Fatalf("seed %d: %v\n%q", seed, err, w.log)
			}
			idle := !p.changes()
			w.apply(p)
			changed := false
			for range w.r.IntN(3) { // the controller may see several changes at once, or none
				changed = w.nodes() || changed
			}
			if idle && !changed && !w.nodes() {
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
