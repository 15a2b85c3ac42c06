package batch

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newQuantity(s string) *resource.Quantity { return new(resource.MustParse(s)) }

func newCronJob(change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	j := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: "ns"}, Spec: batchv1.CronJobSpec{Schedule: "*/5 * * * *"}}
	j.Spec.JobTemplate.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyOnFailure, Containers: []corev1.Container{{Name: "work", Image: "sum"}}}
	for _, ch := range change {
		ch(j)
	}
	kind := CronJob()
	kind.Default(j)
	kind.PrepareCreate(j)
	return j
}

func TestCronJobsAreDefaulted(t *testing.T) {
	j := newCronJob()
	s := &j.Spec
	if s.ConcurrencyPolicy != "Allow" || *s.Suspend || *s.SuccessfulJobsHistoryLimit != 3 || *s.FailedJobsHistoryLimit != 1 || j.Generation != 1 {
		t.Errorf("%+v", s)
	}
	if job := s.JobTemplate.Spec; job.BackoffLimit != nil || job.Template.Spec.DNSPolicy == "" {
		t.Errorf("%+v", job)
	}
	if errs := CronJob().Validate(j); len(errs) > 0 {
		t.Error(text(errs))
	}
}

func TestCronJobsThatAreWrong(t *testing.T) {
	line := func(s string) func(*batchv1.CronJob) { return func(j *batchv1.CronJob) { j.Spec.Schedule = s } }
	zone := func(s string) func(*batchv1.CronJob) { return func(j *batchv1.CronJob) { j.Spec.TimeZone = &s } }
	negative := new(int32(-1))
	for name, c := range map[string]struct {
		change func(*batchv1.CronJob)
		want   string
	}{
		"no schedule":         {line(""), "spec.schedule: Required value"},
		"a word":              {line("always"), `spec.schedule: Invalid value: "always": expected exactly 5 fields, found 1: [always]`},
		"six fields":          {line("0 * * * * *"), `spec.schedule: Invalid value: "0 * * * * *": expected exactly 5 fields, found 6: [0 * * * * *]`},
		"a minute beyond":     {line("60 * * * *"), `spec.schedule: Invalid value: "60 * * * *": end of range (60) above maximum (59): 60`},
		"a range backwards":   {line("5-1 * * * *"), `spec.schedule: Invalid value: "5-1 * * * *": beginning of range (5) beyond end of range (1): 5-1`},
		"a step of none":      {line("*/0 * * * *"), `spec.schedule: Invalid value: "*/0 * * * *": step of range should be a positive number: */0`},
		"a month of no year":  {line("0 0 1 foo *"), `spec.schedule: Invalid value: "0 0 1 foo *": failed to parse int from foo: strconv.Atoi: parsing "foo": invalid syntax`},
		"a macro of no sense": {line("@sometimes"), `spec.schedule: Invalid value: "@sometimes": unrecognized descriptor: @sometimes`},
		"a zone in the line":  {line("TZ=UTC 0 * * * *"), `spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`},
		"a zone and nothing":  {line("TZ=UTC"), `spec.schedule: Invalid value: "TZ=UTC": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`},
		"an old zone":         {line("CRON_TZ=UTC @hourly"), `spec.schedule: Invalid value: "CRON_TZ=UTC @hourly": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`},
		"an empty zone":       {zone(""), `spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string`},
		"a zone of nowhere":   {zone("Europe/Nowhere"), `spec.timeZone: Invalid value: "Europe/Nowhere": unknown time zone Europe/Nowhere`},
		"a zone upwards":      {zone("../etc/passwd"), `spec.timeZone: Invalid value: "../etc/passwd": unknown time zone ../etc/passwd`},
		"a zone with a space": {zone("Europe/ Berlin"), `spec.timeZone: Invalid value: "Europe/ Berlin": unknown time zone Europe/ Berlin`},
		"a zone of this machine": {
			zone("Local"),
			`spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones`,
		},
		"a policy that does not exist": {
			func(j *batchv1.CronJob) { j.Spec.ConcurrencyPolicy = "Race" },
			`spec.concurrencyPolicy: Unsupported value: "Race": supported values: "Allow", "Forbid", "Replace"`,
		},
		"negative numbers": {func(j *batchv1.CronJob) {
			j.Spec.StartingDeadlineSeconds, j.Spec.SuccessfulJobsHistoryLimit, j.Spec.FailedJobsHistoryLimit = new(int64(-1)), negative, negative
			j.Spec.JobTemplate.Spec.BackoffLimit = negative
		}, `spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0
spec.jobTemplate.spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0
spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0
spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0`},
		"a selector": {func(j *batchv1.CronJob) {
			j.Spec.JobTemplate.Spec.Selector, j.Spec.JobTemplate.Spec.ManualSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, new(true)
		}, "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated\n" +
			`spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`},
		"pods that run for ever": {
			func(j *batchv1.CronJob) { j.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = "Always" },
			`spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`,
		},
		"a long name": {
			func(j *batchv1.CronJob) { j.Name = strings.Repeat("a", 53) },
			`metadata.name: Invalid value: "` + strings.Repeat("a", 53) + `": must be no more than 52 characters`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text(CronJob().Validate(newCronJob(c.change))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	old, j := newCronJob(zone("Europe/Nowhere")), newCronJob(zone("Europe/Nowhere"))
	if errs := CronJob().ValidateUpdate(j, old); len(errs) > 0 {
		t.Errorf("a zone that was there before: %s", text(errs))
	}
	if got := text(CronJob().ValidateUpdate(j, newCronJob())); got != `spec.timeZone: Invalid value: "Europe/Nowhere": unknown time zone Europe/Nowhere` {
		t.Error(got)
	}
}

func TestTimesOfASchedule(t *testing.T) {
	for line, c := range map[string]struct{ zone, from, want string }{
		"*/15 9-17 * * mon-fri": {"UTC", "2026-11-20T17:45:00Z", "2026-11-23T09:00:00Z"},
		"0 0 1,15 * ?":          {"UTC", "2026-11-01T00:00:00Z", "2026-11-15T00:00:00Z"},
		"30 2 29 feb *":         {"UTC", "2026-01-01T00:00:00Z", "2028-02-29T02:30:00Z"},
		"0 0 13 * 5":            {"UTC", "2026-11-02T00:00:00Z", "2026-11-06T00:00:00Z"}, // the 13th, and Fridays
		"@weekly":               {"UTC", "2026-11-23T12:00:00Z", "2026-11-29T00:00:00Z"},
		"@every 90s":            {"UTC", "2026-11-23T12:00:00Z", "2026-11-23T12:01:30Z"},
		"30 2 * * *":            {"Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"}, // half past two does not exist on the 29th
		"0 8 * * *":             {"Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T06:00:00Z"},
		"0 0 31 2 *":            {"UTC", "2026-03-28T12:00:00Z", "0001-01-01T00:00:00Z"},
	} {
		s, err := ParseSchedule(line, &c.zone)
		if err != nil {
			t.Fatal(err)
		}
		from, _ := time.Parse(time.RFC3339, c.from)
		if got := s.Next(from).UTC().Format(time.RFC3339); got != c.want {
			t.Errorf("%s: %s, want %s", line, got, c.want)
		}
	}
}

// Whatever is written, nothing breaks, and the next time is a later one.
func FuzzSchedule(f *testing.F) {
	for _, line := range []string{"* * * * *", "*/5 1-3,7 ? jan-mar sun", "@hourly", "@every 1m", "TZ=UTC", "CRON_TZ=", "1-/2 * * * *", "* * * * * *", ", , , , ,", "@every -1h", "0 0 31 2 *"} {
		f.Add(line, int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, line string, from int64) {
		s, err := ParseSchedule(line, nil)
		if err != nil {
			return
		}
		then := time.Unix(from%(1<<34), 0)
		if next := s.Next(then); !next.IsZero() && !next.After(then) {
			t.Errorf("%q: %s comes after %s", line, next, then)
		}
	})
}

func TestRowsOfCronJobs(t *testing.T) {
	now := time.Unix(1000, 0)
	j := newCronJob()
	j.CreationTimestamp = metav1.Unix(940, 0)
	if got := CronJob().Row(j, now); !slices.Equal(got, []any{"sum", "*/5 * * * *", "<none>", "False", int64(0), "<none>", "60s", "work", "sum", "<none>"}) {
		t.Errorf("%v", got)
	}
	j.Spec.TimeZone, j.Spec.Suspend = new("Europe/Berlin"), new(true)
	j.Status = batchv1.CronJobStatus{LastScheduleTime: new(metav1.Unix(970, 0)), Active: []corev1.ObjectReference{{}, {}}}
	if got := CronJob().Row(j, now); !slices.Equal(got, []any{"sum", "*/5 * * * *", "Europe/Berlin", "True", int64(2), "30s", "60s", "work", "sum", "<none>"}) {
		t.Errorf("%v", got)
	}
}

func TestWhatIsSaidToThoseWhoCreateThem(t *testing.T) {
	j := newJob(indexed(100001), spec(func(s *batchv1.JobSpec) { s.Parallelism = new(int32(10001)) }), func(j *batchv1.Job) { j.Name = "a.b" })
	got := Job().Warnings(j)
	if len(got) != 2 || !strings.HasPrefix(got[0], "metadata.name: this is used in Pod names and hostnames") || got[1] != "spec: In Indexed Jobs with a number of completions "+
		"higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail" {
		t.Errorf("%q", got)
	}
	if got := CronJob().Warnings(newCronJob()); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
