package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/workload"
)

// burst is how many pods one pass makes at most: of a set whose number is a slip of the pen there is time to change it.
const burst = 500

// Plan is what one pass would change.
type Plan struct {
	Create   []*corev1.Pod // as they are to be, in order
	Delete   []*corev1.Pod // in order
	Identify []*corev1.Pod // that lack the labels which say who they are
	More     bool          // there is more to do than one pass does
}

// Decide compares what a set wants with its pods, which are all its own. Current is the revision that the set has finished a rollout of, update the one
// of its template. An ordered set does one thing at a time, and waits until each pod is available before it goes to the next.
func Decide(set *appsv1.StatefulSet, pods []*corev1.Pod, current, update Revision, now time.Time) Plan {
	if set.DeletionTimestamp != nil {
		return Plan{}
	}
	d := decision{set: set, update: update, ordered: set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement, now: now}
	d.sort(pods)
	if d.fill(current) && d.shrink() && set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		d.roll()
	}
	return d.plan
}

type decision struct {
	set     *appsv1.StatefulSet
	update  Revision
	ordered bool
	now     time.Time

	wanted    map[int]*corev1.Pod // by index: ordinal less start
	condemned []numbered          // the others, highest first
	plan      Plan
}

type numbered struct {
	*corev1.Pod

	ordinal int
}

func (d *decision) replicas() int { return int(*d.set.Spec.Replicas) }

func (d *decision) sort(pods []*corev1.Pod) {
	d.wanted = map[int]*corev1.Pod{}
	first := start(d.set)
	for _, pod := range pods {
		switch n, ok := ordinal(d.set, pod); {
		case !ok:
		case n >= first && n < first+d.replicas():
			d.wanted[n-first] = pod
		default:
			d.condemned = append(d.condemned, numbered{pod, n})
		}
	}
	slices.SortFunc(d.condemned, func(a, b numbered) int { return b.ordinal - a.ordinal })
}

func (d *decision) available(pod *corev1.Pod) bool {
	yes, _ := workload.Available(pod, d.set.Spec.MinReadySeconds, d.now)
	return yes
}

func (d *decision) unavailable(pod *corev1.Pod) bool {
	return pod == nil || pod.DeletionTimestamp != nil || !d.available(pod)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func runningAndReady(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && workload.Ready(pod)
}

func (d *decision) outdated(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.ControllerRevisionHashLabelKey] != d.update.Name && pod.DeletionTimestamp == nil
}

// fill makes the pods that are missing and deletes those that have ended. It says whether the pass goes on to what comes after.
func (d *decision) fill(current Revision) bool {
	for i := range d.replicas() {
		pod := d.wanted[i]
		switch {
		case pod == nil:
			if len(d.plan.Create) == burst {
				d.plan.More = true
				return false
			}
			n := start(d.set) + i
			d.plan.Create = append(d.plan.Create, newPod(d.set, d.revisionOf(current, i), n))
			if d.ordered {
				return false
			}
			continue
		case ended(pod):
			if pod.DeletionTimestamp == nil {
				d.plan.Delete = append(d.plan.Delete, pod)
			}
			if d.ordered {
				return false // its successor comes once it is gone
			}
			continue
		case d.ordered && (pod.DeletionTimestamp != nil || !runningAndReady(pod) || !d.available(pod)):
			return false
		}
		if !identified(pod) {
			d.plan.Identify = append(d.plan.Identify, pod)
		}
	}
	return true
}

// revisionOf is what a new pod is made of: below the partition, of what is current.
func (d *decision) revisionOf(current Revision, index int) Revision {
	u := &d.set.Spec.UpdateStrategy
	switch {
	case u.RollingUpdate != nil && index < int(partition(d.set)),
		u.RollingUpdate == nil && u.Type == appsv1.RollingUpdateStatefulSetStrategyType && index < int(d.set.Status.CurrentReplicas):
		return current
	}
	return d.update
}

// shrink deletes the pods whose ordinals are not wanted, from the highest down. It says whether the pass goes on.
func (d *decision) shrink() bool {
	if !d.ordered {
		for _, pod := range d.condemned {
			if pod.DeletionTimestamp == nil {
				d.plan.Delete = append(d.plan.Delete, pod.Pod)
			}
		}
		return true
	}
	if len(d.condemned) == 0 {
		return true
	}
	last := d.condemned[0]
	if last.DeletionTimestamp != nil {
		return false
	}
	// All wanted pods are available here. One that is not ready waits for those below it to be mended first; what has ended never will be.
	if !ended(last.Pod) && (!runningAndReady(last.Pod) || !d.available(last.Pod)) {
		for _, pod := range d.condemned[1:] {
			if !ended(pod.Pod) && d.unavailable(pod.Pod) {
				return false
			}
		}
	}
	d.plan.Delete = append(d.plan.Delete, last.Pod)
	return false
}

// roll deletes pods of other revisions than the template's, from the highest ordinal down, as many as may be unavailable at once.
func (d *decision) roll() {
	budget := maxUnavailable(d.set) - d.replicas()
	for _, pod := range d.wanted {
		if !d.unavailable(pod) {
			budget++
		}
	}
	lowest := int(partition(d.set))
	highest := func(yield func(*corev1.Pod) bool) {
		for i := d.replicas() - 1; i >= lowest; i-- {
			if pod := d.wanted[i]; pod != nil && d.outdated(pod) && !ended(pod) && !yield(pod) {
				return
			}
		}
	}
	if !d.ordered { // what serves nobody costs nothing
		for pod := range highest {
			if !d.available(pod) {
				d.plan.Delete = append(d.plan.Delete, pod)
			}
		}
	}
	for pod := range highest {
		if budget <= 0 {
			return
		}
		if d.available(pod) {
			d.plan.Delete = append(d.plan.Delete, pod)
			budget--
		}
	}
}

func partition(set *appsv1.StatefulSet) int32 {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return *r.Partition
	}
	return 0
}

// maxUnavailable is how many pods a rollout may make unavailable at once, a percentage rounded down, but one at least.
func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(*set.Spec.Replicas), false)
	if err != nil {
		return 1 // validation lets no such thing in
	}
	return max(n, 1)
}

// Count is the status of a set with these pods, and when time alone will change it.
func Count(set *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, collisions int32, now time.Time) (s appsv1.StatefulSetStatus, again time.Duration) {
	s = appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current, UpdateRevision: update, CollisionCount: &collisions, Replicas: int32(len(pods)),
	}
	for _, pod := range pods {
		if runningAndReady(pod) {
			s.ReadyReplicas++
			yes, left := workload.Available(pod, set.Spec.MinReadySeconds, now)
			if yes {
				s.AvailableReplicas++
			} else if left > 0 && (again == 0 || left < again) {
				again = left
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		revision := pod.Labels[appsv1.ControllerRevisionHashLabelKey]
		if revision == current {
			s.CurrentReplicas++
		}
		if revision == update {
			s.UpdatedReplicas++
		}
	}
	// A rollout is complete once all pods are of its revision and ready.
	if n := *set.Spec.Replicas; set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	return s, again
}
