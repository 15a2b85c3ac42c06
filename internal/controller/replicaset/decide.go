package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/workload"
)

// burst is how many pods one pass creates or deletes.
const burst = 500

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Adopt   []*corev1.Pod // to be given a controller reference
	Release []*corev1.Pod // to be freed of it
	Create  int           // pods
	Delete  []*corev1.Pod // the least useful first
}

// Decide compares what is wanted with the pods there are: those of the set, and those that it may adopt. crowd is how many pods of the set and of its
// siblings a node has.
func Decide(s *Set, pods []*corev1.Pod, crowd map[string]int, now time.Time) Plan {
	claims := workload.Claim(s.Object, s.Selector, pods)
	p := Plan{Adopt: claims.Adopt, Release: claims.Release}
	if s.Object.GetDeletionTimestamp() != nil {
		return p
	}
	active := slices.DeleteFunc(slices.Concat(claims.Owned, claims.Adopt), func(pod *corev1.Pod) bool { return !workload.Active(pod) })
	surplus := len(active) - int(s.Replicas)
	if surplus <= 0 {
		p.Create = min(-surplus, burst)
		return p
	}
	if surplus < len(active) {
		active = leastUsefulFirst(active, crowd, now)
	}
	p.Delete = active[:min(surplus, burst)]
	return p
}

// value is what a pod is worth to its set: fields in the order in which they count, the least first.
type value struct {
	pod     *corev1.Pod
	bound   int // 1: it has a node
	phase   int
	ready   int
	cost    int64
	crowded int
	since   int // logarithm of the time that it has been ready, in nanoseconds
	restart int32
	age     int // logarithm of its age
}

var phases = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

// leastUsefulFirst sorts pods by what Kubernetes documents for ReplicaSets ("Scaling a ReplicaSet"). Times are compared by their logarithm
// (KEP-2185), so that not always the newest failure domain loses its pods.
func leastUsefulFirst(pods []*corev1.Pod, crowd map[string]int, now time.Time) []*corev1.Pod {
	values := make([]value, len(pods))
	for i, p := range pods {
		v := value{pod: p, phase: phases[p.Status.Phase], cost: deletionCost(p), age: logOf(p.CreationTimestamp.Time, now)}
		if p.Spec.NodeName != "" {
			v.bound, v.crowded = 1, crowd[p.Spec.NodeName]
		}
		if since := workload.ReadySince(p); workload.Ready(p) {
			v.ready, v.since = 1, logOf(since, now)
		}
		for j := range p.Status.ContainerStatuses {
			v.restart = max(v.restart, p.Status.ContainerStatuses[j].RestartCount)
		}
		values[i] = v
	}
	slices.SortFunc(values, func(a, b value) int {
		return cmp.Or(
			cmp.Compare(a.bound, b.bound), cmp.Compare(a.phase, b.phase), cmp.Compare(a.ready, b.ready), cmp.Compare(a.cost, b.cost),
			cmp.Compare(b.crowded, a.crowded), cmp.Compare(a.since, b.since), cmp.Compare(b.restart, a.restart), cmp.Compare(a.age, b.age),
			cmp.Compare(a.pod.UID, b.pod.UID),
		)
	})
	sorted := make([]*corev1.Pod, len(values))
	for i := range values {
		sorted[i] = values[i].pod
	}
	return sorted
}

// logOf is the logarithm to base two of the time since then; -1 if it lies ahead, or is not known.
func logOf(since, now time.Time) int {
	if d := now.Sub(since); !since.IsZero() && d > 0 {
		return int(math.Log2(float64(d)))
	}
	return -1
}

// deletionCost is what the pod's annotation says; zero if it says nothing that is a number.
func deletionCost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// Crowd counts active pods by node.
func Crowd(pods []*corev1.Pod) map[string]int {
	crowd := map[string]int{}
	for _, p := range pods {
		if workload.Active(p) {
			crowd[p.Spec.NodeName]++
		}
	}
	return crowd
}

// failure is what went wrong in a pass; zero if nothing did.
type failure struct {
	reason  string // FailedCreate or FailedDelete
	message string
}

// Count makes the status of a set from its pods. again is when a pod may become available by time alone; zero: none will.
func Count(s *Set, pods []*corev1.Pod, failed failure, now time.Time) (status appsv1.ReplicaSetStatus, again time.Duration) {
	status = *s.Status.DeepCopy()
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0, 0
	status.ObservedGeneration = s.Object.GetGeneration()
	var terminating int32
	template := labels.SelectorFromValidatedSet(s.Template.Labels)
	for _, p := range workload.Claim(s.Object, s.Selector, pods).Owned {
		if !workload.Active(p) {
			if p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				terminating++
			}
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !workload.Ready(p) {
			continue
		}
		status.ReadyReplicas++
		yes, left := workload.Available(p, s.MinReadySeconds, now)
		if yes {
			status.AvailableReplicas++
		} else if left > 0 && (again == 0 || left < again) {
			again = left
		}
	}
	if s.CountsTerminating {
		status.TerminatingReplicas = &terminating
	}
	status.Conditions = withFailure(status.Conditions, failed, now)
	return status, again
}

// withFailure sets the condition ReplicaFailure, or takes it away. One that is there is left as it is, as upstream does.
func withFailure(conditions []appsv1.ReplicaSetCondition, failed failure, now time.Time) []appsv1.ReplicaSetCondition {
	is := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	switch there := slices.ContainsFunc(conditions, is); {
	case failed.reason != "" && !there:
		return append(conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: failed.reason, Message: failed.message,
			LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
		})
	case failed.reason == "" && there:
		return slices.DeleteFunc(conditions, is)
	}
	return conditions
}
