package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// jobStatusUpdate checks a status, which may come from a controller that is not ours (managedBy). What was wrong before and has not been touched is let through,
// and so is what is wrong only since the spec changed.
func jobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	c := &check{}
	at := field.NewPath("status")
	s, o := &j.Status, &old.Status
	c.numbers(s, at)
	changed := func(kind batchv1.JobConditionType) bool { return isTrue(s, kind) != isTrue(o, kind) }
	complete, failed := isTrue(s, batchv1.JobComplete), isTrue(s, batchv1.JobFailed)
	target, met := isTrue(s, batchv1.JobFailureTarget), isTrue(s, batchv1.JobSuccessCriteriaMet)
	finished := complete || failed
	ended := finished != (isTrue(o, batchv1.JobComplete) || isTrue(o, batchv1.JobFailed))
	started := !equality.Semantic.DeepEqual(s.StartTime, o.StartTime)
	completed := !equality.Semantic.DeepEqual(s.CompletionTime, o.CompletionTime)

	conditions := func(wrong bool, detail string) {
		if wrong {
			c.Invalid(at.Child("conditions"), field.OmitValueType{}, detail)
		}
	}
	conditions(complete && failed && (changed(batchv1.JobComplete) || changed(batchv1.JobFailed)), "cannot set Complete=True and Failed=true conditions")
	conditions(complete && target && (changed(batchv1.JobComplete) || changed(batchv1.JobFailureTarget)), "cannot set Complete=True and FailureTarget=true conditions")
	if changed(batchv1.JobComplete) || completed {
		if s.CompletionTime != nil && !complete {
			c.Invalid(at.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}
		if s.CompletionTime == nil && complete {
			c.Required(at.Child("completionTime"), "completionTime is required for Complete jobs")
		}
	}
	if (started || completed) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		c.Invalid(at.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime")
	}
	conditions(failed && !target && changed(batchv1.JobFailed), "cannot set Failed=True condition without the FailureTarget=true condition")
	conditions(complete && !met && changed(batchv1.JobComplete), "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	if finished {
		if s.Active > 0 && (ended || s.Active != o.Active) {
			c.Invalid(at.Child("active"), s.Active, "active>0 is invalid for finished job")
		}
		if s.StartTime == nil && (ended || started) {
			c.Required(at.Child("startTime"), "startTime is required for finished job")
		}
		if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 && (ended || !equality.Semantic.DeepEqual(u, o.UncountedTerminatedPods)) {
			c.Invalid(at.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job")
		}
	}
	c.indexTexts(j, o, at)
	if finished && orZero(s.Terminating) > 0 && (ended || !equality.Semantic.DeepEqual(s.Terminating, o.Terminating)) {
		c.Invalid(at.Child("terminating"), s.Terminating, "terminating>0 is invalid for finished job")
	}
	if s.Ready != nil && *s.Ready > s.Active && (s.Active != o.Active || !equality.Semantic.DeepEqual(s.Ready, o.Ready)) {
		c.Invalid(at.Child("ready"), *s.Ready, "cannot set more ready pods than active")
	}
	conditions(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	conditions(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	conditions(j.Spec.SuccessPolicy != nil && !met && complete, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")

	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		conditions(isTrue(o, kind) && !isTrue(s, kind), fmt.Sprintf("cannot disable the terminal %s=True condition", kind))
	}
	if s.Failed < o.Failed {
		c.Invalid(at.Child("failed"), s.Failed, "cannot decrease the failed counter")
	}
	elastic := isIndexed(&j.Spec) && equality.Semantic.DeepEqual(j.Spec.Completions, j.Spec.Parallelism)
	if s.Succeeded < o.Succeeded && !elastic {
		c.Invalid(at.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter")
	}
	if s.CompletionTime != nil && o.CompletionTime != nil && completed {
		c.Invalid(at.Child("completionTime"), s.CompletionTime, "completionTime cannot be mutated")
	}
	if o.StartTime != nil && started && !orZero(j.Spec.Suspend) {
		c.Required(at.Child("startTime"), "startTime cannot be removed for unsuspended job")
	}
	conditions(isTrue(o, batchv1.JobSuccessCriteriaMet) && !met, "cannot disable the SuccessCriteriaMet=True condition")
	conditions(isTrue(o, batchv1.JobComplete) && !isTrue(o, batchv1.JobSuccessCriteriaMet) && met, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	return c.Errs
}

func (c *check) numbers(s *batchv1.JobStatus, at *field.Path) {
	count(c, &s.Active, at.Child("active"))
	count(c, &s.Succeeded, at.Child("succeeded"))
	count(c, &s.Failed, at.Child("failed"))
	count(c, s.Ready, at.Child("ready"))
	count(c, s.Terminating, at.Child("terminating"))
	if s.UncountedTerminatedPods == nil {
		return
	}
	seen := map[types.UID]bool{}
	uids := func(list []types.UID, at *field.Path) {
		for i, uid := range list {
			switch {
			case uid == "":
				c.Invalid(at.Index(i), uid, "must not be empty")
			case seen[uid]:
				c.Add(field.Duplicate(at.Index(i), uid))
			}
			seen[uid] = true
		}
	}
	uids(s.UncountedTerminatedPods.Succeeded, at.Child("uncountedTerminatedPods", "succeeded"))
	uids(s.UncountedTerminatedPods.Failed, at.Child("uncountedTerminatedPods", "failed"))
}

// indexTexts checks the lists of indexes, where they have changed.
func (c *check) indexTexts(j *batchv1.Job, o *batchv1.JobStatus, at *field.Path) {
	s := &j.Status
	completedChanged, failedChanged := s.CompletedIndexes != o.CompletedIndexes, !equality.Semantic.DeepEqual(s.FailedIndexes, o.FailedIndexes)
	completed, failed := at.Child("completedIndexes"), at.Child("failedIndexes")
	n := j.Spec.Completions
	if completedChanged && n != nil {
		if _, err := indexes(s.CompletedIndexes, *n); err != nil {
			c.Invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
		}
	}
	if failedChanged && n != nil && j.Spec.BackoffLimitPerIndex != nil && s.FailedIndexes != nil {
		if _, err := indexes(*s.FailedIndexes, *n); err != nil {
			c.Invalid(failed, s.FailedIndexes, "error parsing failedIndexes: "+err.Error())
		}
	}
	if completedChanged && s.CompletedIndexes != "" && !isIndexed(&j.Spec) {
		c.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failedChanged && j.Spec.BackoffLimitPerIndex == nil && s.FailedIndexes != nil {
		c.Invalid(failed, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if (failedChanged || completedChanged) && n != nil && s.FailedIndexes != nil {
		if i, both := overlap(spans(s.CompletedIndexes, *n), spans(*s.FailedIndexes, *n)); both {
			c.Invalid(failed, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i))
		}
	}
}
