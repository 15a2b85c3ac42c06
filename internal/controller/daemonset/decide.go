package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/workload"
)

// burst is how many pods one pass makes, and how many it deletes, at most.
const burst = 250

// Plan is what one pass would change.
type Plan struct {
	Create []string      // nodes to make a pod for
	Delete []*corev1.Pod // in order
	Failed []*corev1.Pod // those of Delete that have failed
	Ended  []*corev1.Pod // those of Delete that have succeeded
	Again  time.Duration // until a pod that failed may be replaced; 0: none waits
}

func (p Plan) changes() bool { return len(p.Create)+len(p.Delete) > 0 }

// State is what a set and its surroundings are.
type State struct {
	Set   *appsv1.DaemonSet
	Hash  string // of the set's template
	Nodes []*corev1.Node
	Pods  []*corev1.Pod // all its own
	// Wait is how long the node of that name is to wait before a pod that failed there is replaced.
	Wait func(node string) time.Duration
	Now  time.Time
}

// Decide first sees to it that the nodes have pods, and those no others. Once that is so, it replaces pods of an old template.
func Decide(s State) Plan {
	d := decision{State: s, fit: FitOf(s.Set), on: s.byNode(), run: map[string]bool{}}
	d.manage()
	if !d.plan.changes() && s.Set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		d.roll()
	}
	d.plan.Create = d.plan.Create[:min(len(d.plan.Create), burst)]
	d.plan.Delete = d.plan.Delete[:min(len(d.plan.Delete), burst)]
	return d.plan
}

type decision struct {
	State

	fit  *Fit
	on   map[string][]*corev1.Pod // by node, the most useful first
	run  map[string]bool          // the nodes that exist: whether a pod is to run there
	plan Plan
}

// byNode sorts the pods by their nodes. Those that have ended and are being deleted stand in no one's way.
func (s State) byNode() map[string][]*corev1.Pod {
	on := map[string][]*corev1.Pod{}
	for _, pod := range s.Pods {
		if pod.DeletionTimestamp != nil && ended(pod) {
			continue
		}
		if node := nodeOf(pod); node != "" {
			on[node] = append(on[node], pod)
		}
	}
	for _, pods := range on {
		slices.SortFunc(pods, byUsefulness)
	}
	return on
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// byUsefulness puts bound pods first, then older ones; of the same second, which is as exactly as their age is known, those that are ready.
func byUsefulness(a, b *corev1.Pod) int {
	return cmp.Or(
		first(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		first(workload.Ready(a), workload.Ready(b)),
		cmp.Compare(a.Name, b.Name),
	)
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (d *decision) available(pod *corev1.Pod) bool {
	yes, _ := workload.Available(pod, d.Set.Spec.MinReadySeconds, d.Now)
	return yes
}

// manage is about whether nodes have the pods that they should have, of whatever template.
func (d *decision) manage() {
	for _, node := range d.Nodes {
		run, stay := d.fit.On(node)
		d.run[node.Name] = run
		pods, some := d.on[node.Name]
		switch {
		case run && !some:
			d.plan.Create = append(d.plan.Create, node.Name)
		case stay:
			d.tidy(node.Name, pods, run)
		default:
			d.delete(pods...)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(d.on)) {
		if _, exists := d.run[node]; exists {
			continue
		}
		for _, pod := range d.on[node] {
			if pod.Spec.NodeName == "" { // it will never be bound, so nobody else takes it away
				d.delete(pod)
			}
		}
	}
}

// delete plans the deletion of those that are not being deleted yet.
func (d *decision) delete(pods ...*corev1.Pod) {
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			d.plan.Delete = append(d.plan.Delete, pod)
		}
	}
}

// tidy deletes what has ended or is too much on a node. While it surges, a node that is left without a pod gets one at once.
func (d *decision) tidy(node string, pods []*corev1.Pod, run bool) {
	var active []*corev1.Pod
	waiting := false
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if wait := d.Wait(node); wait > 0 {
				if d.plan.Again == 0 || wait < d.plan.Again {
					d.plan.Again = wait
				}
				waiting = true
				continue
			}
			d.plan.Failed = append(d.plan.Failed, pod)
			d.delete(pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			d.plan.Ended = append(d.plan.Ended, pod)
			d.delete(pod)
		default:
			active = append(active, pod)
		}
	}
	switch {
	case !surges(d.Set):
		if len(active) > 1 {
			d.delete(active[1:]...)
		}
	case len(active) == 0:
		if run && !waiting {
			d.plan.Create = append(d.plan.Create, node)
		}
	case len(active) > 1:
		d.prune(active)
	}
}

// prune leaves a node the oldest pod of the template and the oldest of others, the latter as long as it is ready and the former is not available.
func (d *decision) prune(active []*corev1.Pod) {
	var newer, older *corev1.Pod
	for _, pod := range active {
		of := &older
		if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.Hash {
			of = &newer
		}
		if *of == nil {
			*of = pod
		} else {
			d.delete(pod)
		}
	}
	if newer != nil && older != nil && (!workload.Ready(older) || d.available(newer)) {
		d.delete(older)
	}
}

// surges says that a set's new pods run before its old ones go.
func surges(ds *appsv1.DaemonSet) bool {
	return count(ds, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge }, 100) > 0
}

// count is one of a rollout's limits, a percentage of the pods rounded up.
func count(ds *appsv1.DaemonSet, of func(*appsv1.RollingUpdateDaemonSet) *intstr.IntOrString, pods int) int {
	u := &ds.Spec.UpdateStrategy
	if u.Type != appsv1.RollingUpdateDaemonSetStrategyType || u.RollingUpdate == nil || of(u.RollingUpdate) == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(of(u.RollingUpdate), pods, true)
	if err != nil {
		return 0 // validation lets no such thing in
	}
	return n
}

// Count is the status of a set with these pods, and when time alone will change it.
func Count(s State) (status appsv1.DaemonSetStatus, again time.Duration) {
	fit, on := FitOf(s.Set), s.byNode()
	status = appsv1.DaemonSetStatus{ObservedGeneration: s.Set.Generation, CollisionCount: s.Set.Status.CollisionCount, Conditions: s.Set.Status.Conditions}
	for _, node := range s.Nodes {
		run, _ := fit.On(node)
		pods := on[node.Name]
		switch {
		case !run && len(pods) > 0:
			status.NumberMisscheduled++
		case run:
			status.DesiredNumberScheduled++
		}
		if !run || len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		pod := pods[0]
		if workload.Ready(pod) {
			status.NumberReady++
			yes, left := workload.Available(pod, s.Set.Spec.MinReadySeconds, s.Now)
			if yes {
				status.NumberAvailable++
			} else if left > 0 && (again == 0 || left < again) {
				again = left
			}
		}
		if updated(s.Set, pod, s.Hash) {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status, again
}
