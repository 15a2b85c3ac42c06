package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/workload"
)

// burst is how many pods one pass creates, deletes or counts.
const burst = 500

// Plan is what one pass would do about a job's pods, as a plain value: nothing has happened yet.
type Plan struct {
	Adopt   []*corev1.Pod // to be given a controller reference, and to be counted. With these or the next ones there is nothing else in a plan
	Release []*corev1.Pod // to be freed of it
	Hold    []*corev1.Pod // running pods that have lost the finalizer by which they are counted

	Delete   []*corev1.Pod
	Unwanted bool // the pods to be deleted are surplus: that they go is no failure, and nobody counts them

	Create []newcomer
	Again  time.Duration // when there is something to do though nothing changes; 0: never
}

// newcomer is a pod to be created.
type newcomer struct {
	index  int         // noIndex if it has none
	before *corev1.Pod // the failed one that it replaces; nil if that is nobody's business
}

// Decide compares what a job wants with the pods there are: those of the job, and those that it may adopt.
func Decide(j *batchv1.Job, sel labels.Selector, pods []*corev1.Pod, was record, now time.Time) Plan {
	claims := workload.Claim(j, sel, pods)
	if len(claims.Adopt)+len(claims.Release) > 0 {
		return Plan{Adopt: claims.Adopt, Release: claims.Release}
	}
	s := look(j, claims.Owned, was, now)
	if s.end != nil {
		return Plan{Delete: s.active} // they stay until they are counted
	}
	var p Plan
	if left, bounded := deadline(j, now); bounded {
		p.Again = left
	}
	if j.DeletionTimestamp != nil {
		return p
	}
	p.Unwanted = true
	want := s.wanted()
	if p.Delete = s.surplus(want); isSuspended(j) || len(p.Delete) > 0 {
		if !isSuspended(j) {
			p.Delete = p.Delete[:min(len(p.Delete), burst)]
		}
		return p
	}
	for _, pod := range s.active {
		if !isTracked(pod) {
			p.Hold = append(p.Hold, pod)
		}
	}
	n := want - len(s.active)
	if replacesOnlyDead(j) {
		n -= int(s.terminating)
	}
	if n <= 0 {
		return p
	}
	var wait time.Duration
	p.Create, wait = s.newcomers(min(n, burst), now)
	if wait > 0 && (p.Again == 0 || wait < p.Again) {
		p.Again = wait
	}
	return p
}

// wanted is how many pods are to be active.
func (s *sight) wanted() int {
	j := s.job
	switch {
	case isSuspended(j):
		return 0
	case j.Spec.Completions != nil:
		return max(0, min(int(*j.Spec.Completions-s.succeeded), int(deref(j.Spec.Parallelism))))
	case s.succeeded > 0: // one success is enough, and what runs may end
		return len(s.active)
	}
	return int(deref(j.Spec.Parallelism))
}

// surplus is the active pods that are to go: those whose index is none, or another one's too, and those that are too many.
func (s *sight) surplus(want int) []*corev1.Pod {
	leave, stay := []*corev1.Pod(nil), slices.Clone(s.active)
	slices.SortFunc(stay, leastUsefulFirst)
	if isIndexed(s.job) {
		taken := map[int]bool{}
		kept := stay[:0]
		for _, p := range slices.Backward(slices.Clone(stay)) { // of several with one index the most useful stays
			if i := indexOf(p); !s.hasIndex(p) || taken[i] {
				leave = append(leave, p)
			} else {
				taken[i] = true
				kept = append(kept, p)
			}
		}
		stay = kept
		slices.Reverse(stay)
	}
	if more := len(s.active) - want - len(leave); more > 0 {
		leave = append(leave, stay[:more]...)
	}
	return leave
}

// newcomers picks n pods to create now; wait is how long it takes until another one may be.
func (s *sight) newcomers(n int, now time.Time) (list []newcomer, wait time.Duration) {
	perIndex := s.job.Spec.BackoffLimitPerIndex != nil
	if left := s.record.left(now); left > 0 && !perIndex {
		return nil, left
	}
	if !isIndexed(s.job) {
		return slices.Repeat([]newcomer{{index: noIndex}}, n), 0
	}
	var taken []int
	for _, p := range s.pods {
		dying := p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
		if s.hasIndex(p) && (workload.Active(p) || dying && replacesOnlyDead(s.job)) {
			taken = append(taken, indexOf(p))
		}
	}
	for _, i := range s.done.union(indexesOf(taken)).union(s.failedIndexes).missing(n, s.completions) {
		before := s.kept[i]
		if before != nil {
			if left := backoffLeft(allFailures(before)+1, finishedAt(before), now); left > 0 {
				if wait == 0 || left < wait {
					wait = left
				}
				continue
			}
		}
		list = append(list, newcomer{index: i, before: before})
	}
	return list, wait
}
