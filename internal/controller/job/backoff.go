package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How long a job waits before it replaces failed pods: doubled for each failure since the last success.
const (
	firstBackoff = 10 * time.Second
	mostBackoff  = 10 * time.Minute
)

// record is what a job's pods have done lately. It is kept in memory only: after a start it is made from the pods that are there.
type record struct {
	job      types.UID
	failures int // since the last success
	last     time.Time
}

// with adds pods that have ended since.
func (r record) with(succeeded, failed []*corev1.Pod) record {
	var since time.Time
	if len(succeeded) > 0 {
		r.failures, r.last = 0, time.Time{}
		since = finishedAt(slices.MaxFunc(succeeded, byEnd))
	}
	for _, p := range failed {
		end := finishedAt(p)
		if len(succeeded) > 0 && !end.After(since) {
			continue
		}
		r.failures++
		if end.After(r.last) {
			r.last = end
		}
	}
	return r
}

func byEnd(a, b *corev1.Pod) int { return finishedAt(a).Compare(finishedAt(b)) }

// left is how long pods must not be created yet.
func (r record) left(now time.Time) time.Duration { return backoffLeft(r.failures, r.last, now) }

func backoffLeft(failures int, last, now time.Time) time.Duration {
	if failures <= 0 {
		return 0
	}
	d := firstBackoff
	for i := 1; i < failures && d < mostBackoff; i++ {
		d = min(2*d, mostBackoff)
	}
	return max(0, d-now.Sub(last))
}

// finishedAt is when a pod has ended: when its last container did; else when it ceased to be ready; else when it was told to go.
func finishedAt(p *corev1.Pod) time.Time {
	var end time.Time
	ended := len(p.Status.ContainerStatuses) > 0
	for i := range p.Status.ContainerStatuses {
		t := p.Status.ContainerStatuses[i].State.Terminated
		if ended = ended && t != nil && !t.FinishedAt.IsZero(); !ended {
			break
		}
		if t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	if ended {
		return end
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Time
		}
	}
	if p.DeletionTimestamp != nil {
		var grace int64
		if p.DeletionGracePeriodSeconds != nil {
			grace = *p.DeletionGracePeriodSeconds
		}
		return p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// remains is the record of a job that nothing is remembered of: what its counted pods tell, as far as they are still there.
func remains(j *batchv1.Job, pods []*corev1.Pod) record {
	counted := map[types.UID]bool{}
	if u := j.Status.UncountedTerminatedPods; u != nil {
		for _, uid := range slices.Concat(u.Succeeded, u.Failed) {
			counted[uid] = true
		}
	}
	var succeeded, failed []*corev1.Pod
	for _, p := range pods {
		switch {
		case !metav1.IsControlledBy(p, j) || isTracked(p) && !counted[p.UID]:
		case p.Status.Phase == corev1.PodSucceeded:
			succeeded = append(succeeded, p)
		case isFailed(j, p):
			failed = append(failed, p)
		}
	}
	return record{job: j.UID}.with(succeeded, failed)
}
