package job

import (
	"math"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/workload"
)

// Reasons and messages that no package of the API names.
const (
	reasonSuspended  = "JobSuspended"
	reasonResumed    = "JobResumed"
	messageBackoff   = "Job has reached the specified backoff limit"
	messageDeadline  = "Job was active longer than specified deadline"
	messageMaxFailed = "Job has exceeded the specified maximal number of failed indexes"
	messageFailed    = "Job has failed indexes"
	messageReached   = "Reached expected number of succeeded pods"
)

// sight is a job and its pods as both decisions see them.
type sight struct {
	job         *batchv1.Job
	pods        []*corev1.Pod // its own, whether they run or not
	active      []*corev1.Pod
	ready       int32
	terminating int32
	uncounted   uncounted
	record      record

	succeeded     int32 // pods, or indexes
	completions   int   // 1 more than the highest index, if the job has indexes
	before, done  indexes
	failedIndexes indexes
	kept          map[int]*corev1.Pod // failed pods whose count of failures a replacement is to take over, by index

	end *batchv1.JobCondition // why the job is to end, FailureTarget or SuccessCriteriaMet; nil: it is not
}

// uncounted is pods that are in the status by their UID, until they are in it as a number.
type uncounted struct{ succeeded, failed map[types.UID]bool }

func look(j *batchv1.Job, pods []*corev1.Pod, was record, now time.Time) *sight {
	s := &sight{job: j, pods: pods, completions: math.MaxInt, uncounted: uncounted{map[types.UID]bool{}, map[types.UID]bool{}}}
	if isIndexed(j) {
		s.completions = int(deref(j.Spec.Completions))
	}
	if u := j.Status.UncountedTerminatedPods; u != nil {
		for _, uid := range u.Succeeded {
			s.uncounted.succeeded[uid] = true
		}
		for _, uid := range u.Failed {
			s.uncounted.failed[uid] = true
		}
	}
	var succeeded, failed []*corev1.Pod // and not in the status yet
	counting := 0
	for _, p := range pods {
		switch {
		case workload.Active(p):
			s.active = append(s.active, p)
			if workload.Ready(p) {
				s.ready++
			}
		case p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
			s.terminating++
		}
		if !isTracked(p) || isIndexed(j) && !s.hasIndex(p) {
			continue
		}
		if s.hasSucceeded(p) && !s.uncounted.succeeded[p.UID] {
			succeeded = append(succeeded, p)
		}
		if isFailed(j, p) && !s.uncounted.failed[p.UID] {
			failed = append(failed, p)
			if judge(j.Spec.PodFailurePolicy, p).counts {
				counting++
			}
		}
	}
	s.record = was.with(succeeded, failed)
	s.succeeded = j.Status.Succeeded + int32(len(succeeded)+len(s.uncounted.succeeded))
	failures := j.Status.Failed + int32(counting+len(s.uncounted.failed))
	s.lookAtIndexes()
	s.end = s.whyEnd(failures, now)
	return s
}

func (s *sight) lookAtIndexes() {
	if !isIndexed(s.job) {
		return
	}
	s.before = parseIndexes(s.job.Status.CompletedIndexes, s.completions)
	s.failedIndexes = parseIndexes(deref(s.job.Status.FailedIndexes), s.completions)
	var done, failed, active []int
	for _, p := range s.pods {
		i := indexOf(p)
		if !s.hasIndex(p) {
			continue
		}
		if isTracked(p) && s.hasSucceeded(p) && !s.failedIndexes.has(i) { // what has failed stays failed
			done = append(done, i)
		}
		if isTracked(p) && s.failsIndex(p) {
			failed = append(failed, i)
		}
		if workload.Active(p) {
			active = append(active, i)
		}
	}
	s.done = s.before.union(indexesOf(done))
	s.succeeded = int32(s.done.total())
	if s.job.Spec.BackoffLimitPerIndex == nil {
		return
	}
	failed = slices.DeleteFunc(failed, s.done.has)
	s.failedIndexes = s.failedIndexes.union(indexesOf(failed))
	s.kept = map[int]*corev1.Pod{}
	settled := s.done.union(s.failedIndexes).union(indexesOf(active))
	for _, p := range s.pods {
		i := indexOf(p)
		if !isTracked(p) || !s.hasIndex(p) || !isFailed(s.job, p) || settled.has(i) {
			continue
		}
		if last := s.kept[i]; last == nil || allFailures(last) <= allFailures(p) && byEnd(p, last) >= 0 {
			s.kept[i] = p
		}
	}
}

// whyEnd says why a job ends, unless all that it wants is done, which only shows once nothing is active any more.
func (s *sight) whyEnd(failures int32, now time.Time) *batchv1.JobCondition {
	j := s.job
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if c := find(j.Status.Conditions, kind); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	fail := func(reason, message string) *batchv1.JobCondition {
		return newCondition(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message, now)
	}
	if j.Spec.PodFailurePolicy != nil {
		for _, p := range s.pods {
			if isFailed(j, p) {
				if why := judge(j.Spec.PodFailurePolicy, p).failure; why != "" {
					return fail(batchv1.JobReasonPodFailurePolicy, why)
				}
			}
		}
	}
	limit := deref(j.Spec.BackoffLimit)
	if n := restarts(j, s.pods); failures > limit || n > 0 && n >= limit {
		return fail(batchv1.JobReasonBackoffLimitExceeded, messageBackoff)
	}
	if left, bounded := deadline(j, now); bounded && left <= 0 {
		return fail(batchv1.JobReasonDeadlineExceeded, messageDeadline)
	}
	if !isIndexed(j) {
		return nil
	}
	if n := s.failedIndexes.total(); j.Spec.MaxFailedIndexes != nil && n > int(*j.Spec.MaxFailedIndexes) {
		return fail(batchv1.JobReasonMaxFailedIndexesExceeded, messageMaxFailed)
	} else if n > 0 && n+s.done.total() >= s.completions {
		return fail(batchv1.JobReasonFailedIndexes, messageFailed)
	}
	if why := satisfied(j.Spec.SuccessPolicy, s.completions, s.done); why != "" {
		return newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, why, now)
	}
	return nil
}

// deadline is how long the job may go on, if there is a bound to that.
func deadline(j *batchv1.Job, now time.Time) (left time.Duration, bounded bool) {
	if j.Spec.ActiveDeadlineSeconds == nil || j.Status.StartTime == nil || isSuspended(j) {
		return 0, false
	}
	return time.Duration(*j.Spec.ActiveDeadlineSeconds)*time.Second - now.Sub(j.Status.StartTime.Time), true
}

// restarts is how often containers have begun anew in pods that do not fail for it.
func restarts(j *batchv1.Job, pods []*corev1.Pod) (n int32) {
	if j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return 0
	}
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
			for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				n += c.RestartCount
			}
		}
	}
	return n
}

// isFailed says that a pod is to be taken for a failure. One that is told to go is, unless only the dead are replaced: it may never come to report its end.
// Without a node it never began, and nobody is there to report anything.
func isFailed(j *batchv1.Job, p *corev1.Pod) bool {
	going := p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
	return p.Status.Phase == corev1.PodFailed || going && (!replacesOnlyDead(j) || p.Spec.NodeName == "")
}

func replacesOnlyDead(j *batchv1.Job) bool {
	return deref(j.Spec.PodReplacementPolicy) == batchv1.Failed || j.Spec.PodFailurePolicy != nil
}

// failsIndex says that no more pods are to be tried for the index of this failed one.
func (s *sight) failsIndex(p *corev1.Pod) bool {
	if s.job.Spec.BackoffLimitPerIndex == nil || !isFailed(s.job, p) {
		return false
	}
	is := judge(s.job.Spec.PodFailurePolicy, p)
	if is.action != nil && *is.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	n, _ := failuresOf(p)
	return is.counts && n >= int(*s.job.Spec.BackoffLimitPerIndex)
}

// hasSucceeded says that a pod is a success. One that was told to go, and counted as a failure, may yet end well; it stays a failure.
func (s *sight) hasSucceeded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded && !s.uncounted.failed[p.UID]
}

func (s *sight) hasIndex(p *corev1.Pod) bool {
	i := indexOf(p)
	return i != noIndex && i < s.completions
}

func allFailures(p *corev1.Pod) int {
	counted, ignored := failuresOf(p)
	return counted + ignored
}

func isIndexed(j *batchv1.Job) bool { return deref(j.Spec.CompletionMode) == batchv1.IndexedCompletion }

func isSuspended(j *batchv1.Job) bool { return deref(j.Spec.Suspend) }

// isFinished says that the job has ended, well or not.
func isFinished(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

// isOthers says that another controller looks after the job.
func isOthers(j *batchv1.Job) bool {
	return j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func find(list []batchv1.JobCondition, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

func newCondition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) *batchv1.JobCondition {
	at := seconds(now)
	return &batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: at, LastTransitionTime: at}
}

// seconds is a time as objects have it.
func seconds(t time.Time) metav1.Time { return metav1.NewTime(t).Rfc3339Copy() }
