package cronjob

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// noon is one of a Monday.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// newCronJob was made at half past eleven, and runs at each full hour.
func newCronJob(change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	j := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sum", UID: "cron-1", CreationTimestamp: metav1.NewTime(noon.Add(-30 * time.Minute))},
		Spec: batchv1.CronJobSpec{
			Schedule: "@hourly", TimeZone: new("UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: new(int32(2)), FailedJobsHistoryLimit: new(int32(1)),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}},
		},
	}
	for _, ch := range change {
		ch(j)
	}
	return j
}

// jobs makes jobs of words: a name, then how it has ended (complete, failed) and after how many hours before noon it began.
func jobs(words ...string) (list []*batchv1.Job) {
	for _, word := range words {
		parts := strings.Split(word, ":")
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: parts[0], UID: types.UID("uid-" + parts[0])}}
		for _, part := range parts[1:] {
			var hours int
			switch {
			case part == "complete":
				job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
			case part == "failed":
				job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
			default:
				if _, err := fmt.Sscan(part, &hours); err != nil {
					panic(err)
				}
				job.Status.StartTime = new(metav1.NewTime(noon.Add(-time.Duration(hours) * time.Hour)))
			}
		}
		if ended(job) == batchv1.JobComplete && job.Status.StartTime != nil {
			job.Status.CompletionTime = new(metav1.NewTime(job.Status.StartTime.Add(time.Minute)))
		}
		list = append(list, job)
	}
	return list
}

func active(names ...string) func(*batchv1.CronJob) {
	return func(j *batchv1.CronJob) {
		for _, job := range jobs(names...) {
			j.Status.Active = append(j.Status.Active, reference(job))
		}
	}
}

// shown is a plan in words.
func shown(p Plan) string {
	var b strings.Builder
	for _, job := range p.Delete {
		fmt.Fprintf(&b, "delete %s; ", job.Name)
	}
	if p.Create != nil {
		fmt.Fprintf(&b, "create %s; ", p.Create.Name)
	}
	for _, r := range p.Status.Active {
		fmt.Fprintf(&b, "%s is active; ", r.Name)
	}
	if t := p.Status.LastScheduleTime; t != nil {
		fmt.Fprintf(&b, "last %s; ", t.UTC().Format("15:04"))
	}
	if t := p.Status.LastSuccessfulTime; t != nil {
		fmt.Fprintf(&b, "last success %s; ", t.UTC().Format("15:04"))
	}
	for _, e := range p.Events {
		fmt.Fprintf(&b, "%s %s: %s; ", e.kind, e.reason, e.message)
	}
	if p.Again > 0 {
		fmt.Fprintf(&b, "again in %s", p.Again)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestDecide(t *testing.T) {
	const created = "create sum-29923920; last 12:00; again in 1h0m0.1s" // minutes since 1970
	since := func(d time.Duration) func(*batchv1.CronJob) {
		return func(j *batchv1.CronJob) { j.CreationTimestamp = metav1.NewTime(noon.Add(-d)) }
	}
	policy := func(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
		return func(j *batchv1.CronJob) { j.Spec.ConcurrencyPolicy = p }
	}
	deadline := func(s int64) func(*batchv1.CronJob) {
		return func(j *batchv1.CronJob) { j.Spec.StartingDeadlineSeconds = &s }
	}
	last := func(t time.Time) func(*batchv1.CronJob) {
		return func(j *batchv1.CronJob) { j.Status.LastScheduleTime = new(metav1.NewTime(t)) }
	}
	for name, c := range map[string]struct {
		now  time.Duration // since noon
		job  *batchv1.CronJob
		jobs []*batchv1.Job
		want string
	}{
		"before its time": {now: -time.Minute, job: newCronJob(), want: "again in 1m0.1s"},
		"at its time":     {job: newCronJob(), want: created},
		"a little later":  {now: time.Second, job: newCronJob(), want: "create sum-29923920; last 12:00; again in 59m59.1s"},
		"once it is done": {now: time.Second, job: newCronJob(last(noon)), want: "last 12:00; again in 59m59.1s"},
		"suspended":       {job: newCronJob(func(j *batchv1.CronJob) { j.Spec.Suspend = new(true) }), want: ""},
		"being deleted":   {job: newCronJob(func(j *batchv1.CronJob) { j.DeletionTimestamp = new(metav1.Now()) }), want: ""},
		"some times were missed: the last counts": {job: newCronJob(since(5 * time.Hour)), want: created},
		"very many were missed": {job: newCronJob(since(200 * time.Hour)), want: "create sum-29923920; last 12:00; " +
			"Warning TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew; again in 1h0m0.1s"},
		"very many were missed, and few matter": {job: newCronJob(since(200*time.Hour), deadline(7200)), want: created},
		"not too late":                          {now: time.Minute, job: newCronJob(deadline(60)), want: "again in 59m0.1s"},
		"within the time for starting":          {now: time.Minute, job: newCronJob(deadline(61)), want: "create sum-29923920; last 12:00; again in 59m0.1s"},
		"one still runs, and may":               {job: newCronJob(active("a")), jobs: jobs("a"), want: "create sum-29923920; a is active; last 12:00; again in 1h0m0.1s"},
		"one still runs, and must end first": {
			job: newCronJob(active("a"), policy("Forbid")), jobs: jobs("a"),
			want: "a is active; Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid; again in 1h0m0.1s",
		},
		"one still runs, and is replaced": {job: newCronJob(active("a"), policy("Replace")), jobs: jobs("a"), want: "delete a; " + created},
		"one has ended": {
			now: -time.Hour, job: newCronJob(active("a"), since(90*time.Minute), last(noon.Add(-time.Hour))), jobs: jobs("a:complete:1"),
			want: "last 11:00; last success 11:01; Normal SawCompletedJob: Saw completed job: a, condition: Complete; again in 1h0m0.1s",
		},
		"one has failed": {now: -time.Minute, job: newCronJob(active("a")), jobs: jobs("a:failed:1"), want: "Normal SawCompletedJob: Saw completed job: a, condition: Failed; again in 1m0.1s"},
		"one is gone":    {now: -time.Minute, job: newCronJob(active("a")), want: "Normal MissingJob: Active job went missing: a; again in 1m0.1s"},
		"one came from elsewhere": {
			now: -time.Minute, job: newCronJob(), jobs: jobs("a"),
			want: "Warning UnexpectedJob: Saw a job that the controller did not create or forgot: a; again in 1m0.1s",
		},
		"it was made, and the program stopped before it said so": {
			job: newCronJob(), jobs: jobs("sum-29923920"),
			want: "sum-29923920 is active; last 12:00; Warning UnexpectedJob: Saw a job that the controller did not create or forgot: sum-29923920; again in 1h0m0.1s",
		},
		"it was made and has ended before anybody said so": {job: newCronJob(), jobs: jobs("sum-29923920:failed"), want: "last 12:00; again in 1h0m0.1s"},
		"the oldest go, of each sort": {
			now: -time.Minute, job: newCronJob(active("d")), jobs: jobs("a:complete:3", "b:complete:1", "c:complete:2", "d:failed:2", "e:failed:1", "f:complete"),
			want: "delete a; delete c; delete d; last success 11:01; again in 1m0.1s",
		},
		"a zone that is no more": {job: newCronJob(func(j *batchv1.CronJob) { j.Spec.TimeZone = new("Nowhere") }), want: `Warning UnknownTimeZone: invalid timeZone: "Nowhere": unknown time zone Nowhere`},
		"a line of no sense": {
			job:  newCronJob(func(j *batchv1.CronJob) { j.Spec.Schedule = "often" }),
			want: `Warning UnparseableSchedule: unparseable schedule: "often" : expected exactly 5 fields, found 1: [often]`,
		},
		"a day that never comes": {
			job:  newCronJob(func(j *batchv1.CronJob) { j.Spec.Schedule = "0 0 31 2 *" }),
			want: "Warning InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second",
		},
		"times that are not equally far apart": {
			now: 90 * time.Minute, job: newCronJob(since(100*24*time.Hour), func(j *batchv1.CronJob) { j.Spec.Schedule = "30 6-16/4 * * 1-5" }),
			want: "create sum-29923830; last 10:30; Warning TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew; again in 1h0m0.1s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := shown(Decide(c.job, c.jobs, noon.Add(c.now))); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAJobOfATime(t *testing.T) {
	j := newCronJob(func(j *batchv1.CronJob) { j.Spec.TimeZone = new("Europe/Berlin") })
	job := newJob(j, noon)
	if job.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] != "2026-11-23T13:00:00+01:00" || job.Annotations["c"] != "d" || job.Labels["a"] != "b" ||
		!metav1.IsControlledBy(job, j) || job.Name != "sum-29923920" || job.Namespace != "ns" || len(j.Spec.JobTemplate.Annotations) != 1 {
		t.Errorf("%+v", job.ObjectMeta)
	}
}
