package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Step is how a job's count goes on, in an order that makes it exact whenever the program is killed: first the status, in which pods that have ended
// stand by their UID (or their index); then the finalizers of these pods; and the next step makes numbers of those UIDs whose pods have none any more.
type Step struct {
	Status batchv1.JobStatus
	Let    []*corev1.Pod // to be freed of the finalizer, once the status is written
	Events []event       // that have happened, once the status is written
	record record        // likewise
}

type event struct{ kind, reason, message string }

// Track makes the next step from the job's own pods.
func Track(j *batchv1.Job, own []*corev1.Pod, was record, now time.Time) Step {
	s := look(j, own, was, now)
	step := Step{Status: *j.Status.DeepCopy(), record: s.record}
	st := &step.Status
	if st.UncountedTerminatedPods == nil {
		st.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	if st.StartTime == nil && !isSuspended(j) {
		st.StartTime = new(seconds(now))
	}
	end := s.end
	switch {
	case end != nil && len(s.active) > 0:
		end = nil // they are to be deleted first
	case end != nil:
	case s.complete():
		end = newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, messageReached, now)
	case j.DeletionTimestamp == nil:
		step.suspension(j, now)
	}
	st.Active, st.Ready, st.Terminating = int32(len(s.active)), &s.ready, &s.terminating
	s.makeNumbers(st)
	full := s.count(&step, end)
	if isIndexed(j) {
		st.Succeeded, st.CompletedIndexes, st.FailedIndexes = int32(s.done.total()), s.done.String(), nil
		if j.Spec.BackoffLimitPerIndex != nil {
			st.FailedIndexes = new(s.failedIndexes.String())
		}
	}
	if end == nil {
		return step
	}
	if find(st.Conditions, end.Type) == nil {
		st.Conditions = append(st.Conditions, *end)
	}
	if u := st.UncountedTerminatedPods; !full && len(step.Let) == 0 && len(u.Succeeded)+len(u.Failed) == 0 && s.terminating == 0 {
		step.finish(j, end, now)
	}
	return step
}

// complete says that all that the job wants is done.
func (s *sight) complete() bool {
	if len(s.active) > 0 {
		return false
	}
	if s.job.Spec.Completions == nil {
		return s.succeeded > 0
	}
	return s.succeeded >= *s.job.Spec.Completions
}

// suspension says in the status whether the job is suspended. What has never been suspended is not said to have been resumed.
func (step *Step) suspension(j *batchv1.Job, now time.Time) {
	st := &step.Status
	c := newCondition(batchv1.JobSuspended, corev1.ConditionTrue, reasonSuspended, "Job suspended", now)
	if !isSuspended(j) {
		c = newCondition(batchv1.JobSuspended, corev1.ConditionFalse, reasonResumed, "Job resumed", now)
	} else {
		st.StartTime = nil // the deadline counts from the resumption on
	}
	if !ensure(&st.Conditions, c) {
		return
	}
	if isSuspended(j) {
		step.happened(corev1.EventTypeNormal, "Suspended", c.Message)
		return
	}
	st.StartTime = new(seconds(now))
	step.happened(corev1.EventTypeNormal, "Resumed", c.Message)
}

// makeNumbers counts the UIDs whose pods nobody holds any more.
func (s *sight) makeNumbers(st *batchv1.JobStatus) {
	held := map[types.UID]bool{}
	for _, p := range s.pods {
		held[p.UID] = isTracked(p)
	}
	counted := func(uid types.UID) bool { return !held[uid] }
	u := st.UncountedTerminatedPods
	before := len(u.Succeeded)
	u.Succeeded = slices.DeleteFunc(u.Succeeded, counted)
	st.Succeeded += int32(before - len(u.Succeeded))
	before = len(u.Failed)
	u.Failed = slices.DeleteFunc(u.Failed, counted)
	st.Failed += int32(before - len(u.Failed))
}

// count writes ended pods down by their UID, and lets them go. full means that there are more than one step takes: a status must not become too long.
func (s *sight) count(step *Step, end *batchv1.JobCondition) (full bool) {
	u := step.Status.UncountedTerminatedPods
	pods := s.pods
	if isIndexed(s.job) {
		pods = slices.SortedStableFunc(slices.Values(pods), byIndex)
	}
	freshIndexes := 0
	for _, p := range pods {
		if !isTracked(p) {
			continue
		}
		succeeded, failed := p.Status.Phase == corev1.PodSucceeded, isFailed(s.job, p)
		if !succeeded && end == nil && s.job.DeletionTimestamp == nil && (!failed || s.kept[indexOf(p)] == p) {
			continue
		}
		step.Let = append(step.Let, p)
		switch {
		case s.hasSucceeded(p):
			if isIndexed(s.job) { // its index is enough to count it once
				if s.hasIndex(p) && !s.before.has(indexOf(p)) {
					freshIndexes++
				}
			} else if !s.uncounted.succeeded[p.UID] {
				u.Succeeded = append(u.Succeeded, p.UID)
			}
		case failed || end != nil && end.Type == batchv1.JobFailureTarget: // of a job that has failed, everything has
			if !s.uncounted.failed[p.UID] && (!isIndexed(s.job) || s.hasIndex(p)) && judge(s.job.Spec.PodFailurePolicy, p).counts {
				u.Failed = append(u.Failed, p.UID)
			}
		}
		if freshIndexes+len(u.Succeeded)+len(u.Failed) >= burst {
			return true
		}
	}
	return false
}

// finish makes the condition final.
func (step *Step) finish(j *batchv1.Job, end *batchv1.JobCondition, now time.Time) {
	st := &step.Status
	last := newCondition(batchv1.JobComplete, corev1.ConditionTrue, end.Reason, end.Message, now)
	if st.StartTime == nil { // it was suspended all the time
		st.StartTime = &last.LastTransitionTime
	}
	if end.Type == batchv1.JobFailureTarget {
		last.Type = batchv1.JobFailed
		step.happened(corev1.EventTypeWarning, end.Reason, end.Message)
	} else {
		st.CompletionTime = &last.LastTransitionTime
		if j.Spec.Completions != nil && st.Succeeded > *j.Spec.Completions {
			step.happened(corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
		}
		step.happened(corev1.EventTypeNormal, "Completed", "Job completed")
	}
	ensure(&st.Conditions, last)
}

func (step *Step) happened(kind, reason, message string) {
	step.Events = append(step.Events, event{kind, reason, message})
}

// ensure puts a condition in the place of one of its type, and says whether that changed anything. One that is false is not added.
func ensure(list *[]batchv1.JobCondition, c *batchv1.JobCondition) bool {
	switch is := find(*list, c.Type); {
	case is == nil && c.Status == corev1.ConditionFalse:
		return false
	case is == nil:
		*list = append(*list, *c)
	case is.Status == c.Status && is.Reason == c.Reason && is.Message == c.Message:
		return false
	default:
		*is = *c
	}
	return true
}
