package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/resource/batch"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Plan is what one pass would do, as a plain value: nothing has happened yet. It is carried out in the order of its fields.
type Plan struct {
	Delete []*batchv1.Job // the oldest of those that have ended, and those that a new one replaces
	Create *batchv1.Job   // nil: it is not the time, or it is there already
	Status batchv1.CronJobStatus
	Events []event       // that have happened before this pass
	Again  time.Duration // when to look again; 0: when something changes
}

type event struct{ kind, reason, message string }

// Decide looks at the clock and at the jobs that the CronJob owns.
func Decide(j *batchv1.CronJob, jobs []*batchv1.Job, now time.Time) Plan {
	p := Plan{Status: *j.Status.DeepCopy()}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		limit := j.Spec.SuccessfulJobsHistoryLimit
		if kind == batchv1.JobFailed {
			limit = j.Spec.FailedJobsHistoryLimit
		}
		if limit != nil {
			p.deleteOldest(jobs, kind, int(*limit))
		}
	}
	p.observe(jobs)
	if j.DeletionTimestamp != nil {
		return p
	}
	if zone := j.Spec.TimeZone; zone != nil {
		if _, err := time.LoadLocation(*zone); err != nil {
			p.happened(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *zone, err)
			return p
		}
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		return p
	}
	s, err := batch.ParseSchedule(j.Spec.Schedule, j.Spec.TimeZone)
	if err != nil {
		p.happened(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", j.Spec.Schedule, err)
		return p
	}
	d, err := dueTimes(j, s, now, true)
	if err != nil {
		p.happened(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", j.Spec.Schedule, err)
		return p
	}
	p.Again = untilNext(j, s, now)
	if d.last.IsZero() {
		return p
	}
	if d.missed > manyMissed {
		p.happened(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	p.start(j, jobs, s, d.last, now)
	return p
}

// start plans the job of a time that is due, unless there is a reason not to.
func (p *Plan) start(j *batchv1.CronJob, jobs []*batchv1.Job, s Schedule, at, now time.Time) {
	limit := j.Spec.StartingDeadlineSeconds
	if limit != nil && at.Add(time.Duration(*limit)*time.Second).Before(now) {
		p.happened(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return
	}
	name := jobName(j, at)
	active := func(r corev1.ObjectReference) bool { return r.Name == name }
	if slices.ContainsFunc(p.Status.Active, active) || p.Status.LastScheduleTime != nil && p.Status.LastScheduleTime.Time.Equal(at) {
		return
	}
	switch j.Spec.ConcurrencyPolicy {
	case batchv1.ForbidConcurrent:
		if len(p.Status.Active) > 0 {
			p.happened(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return
		}
	case batchv1.ReplaceConcurrent:
		for _, r := range p.Status.Active {
			if i := slices.IndexFunc(jobs, func(job *batchv1.Job) bool { return job.UID == r.UID }); i >= 0 {
				p.Delete = append(p.Delete, jobs[i])
			}
		}
		p.Status.Active = nil
	}
	p.Status.LastScheduleTime = new(metav1.NewTime(at))
	next := j.DeepCopy()
	next.Status = p.Status
	p.Again = untilNext(next, s, now)
	// It may be there already, and only not be in the status: then the program was stopped in between.
	if i := slices.IndexFunc(jobs, func(job *batchv1.Job) bool { return job.Name == name }); i >= 0 {
		if ended(jobs[i]) == "" {
			p.Status.Active = append(p.Status.Active, reference(jobs[i]))
		}
		return
	}
	p.Create = newJob(j, at)
}

// observe brings the list of active jobs up to date.
func (p *Plan) observe(jobs []*batchv1.Job) {
	there := map[types.UID]bool{}
	for _, job := range jobs {
		there[job.UID] = true
		listed := slices.ContainsFunc(p.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == job.UID })
		how := ended(job)
		switch {
		case how == "" && !listed:
			p.happened(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		case how != "" && listed:
			p.forget(job)
			p.happened(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, how)
		}
		if t := job.Status.CompletionTime; how == batchv1.JobComplete && t != nil && (p.Status.LastSuccessfulTime == nil || p.Status.LastSuccessfulTime.Before(t)) {
			p.Status.LastSuccessfulTime = t.DeepCopy()
		}
	}
	p.Status.Active = slices.DeleteFunc(p.Status.Active, func(r corev1.ObjectReference) bool {
		if there[r.UID] {
			return false
		}
		p.happened(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", r.Name)
		return true
	})
}

// deleteOldest plans to delete those that ended so, but for the last ones.
func (p *Plan) deleteOldest(jobs []*batchv1.Job, how batchv1.JobConditionType, keep int) {
	var list []*batchv1.Job
	for _, job := range jobs {
		if ended(job) == how && job.DeletionTimestamp == nil {
			list = append(list, job)
		}
	}
	slices.SortFunc(list, func(a, b *batchv1.Job) int {
		s, t := a.Status.StartTime, b.Status.StartTime
		switch {
		case s != nil && t == nil:
			return -1
		case s == nil && t != nil:
			return 1
		case s != nil && !s.Equal(t):
			return s.Compare(t.Time)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	for _, job := range list[:max(0, len(list)-keep)] {
		p.Delete = append(p.Delete, job)
		p.forget(job)
	}
}

func (p *Plan) forget(job *batchv1.Job) {
	p.Status.Active = slices.DeleteFunc(p.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == job.UID })
}

func (p *Plan) happened(kind, reason, format string, args ...any) {
	p.Events = append(p.Events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// newJob makes the job of a time. Its name is a lock: there is one for each time, however often somebody tries.
func newJob(j *batchv1.CronJob, at time.Time) *batchv1.Job {
	t := &j.Spec.JobTemplate
	if j.Spec.TimeZone != nil {
		if zone, err := time.LoadLocation(*j.Spec.TimeZone); err == nil {
			at = at.In(zone)
		}
	} else {
		at = at.UTC()
	}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: j.Namespace, Name: jobName(j, at), Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(j, kind)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	metav1.SetMetaDataAnnotation(&job.ObjectMeta, batchv1.CronJobScheduledTimestampAnnotation, at.Format(time.RFC3339))
	return job
}

func jobName(j *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", j.Name, at.Unix()/60)
}

func reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// ended says how a job has ended; "" if it has not.
func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}
