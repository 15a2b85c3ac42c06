package batch

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestWhatMayChangeInAJob(t *testing.T) {
	suspended := func(status func(*batchv1.JobStatus)) func(*batchv1.Job) {
		return func(j *batchv1.Job) { j.Spec.Suspend = new(true); status(&j.Status) }
	}
	resources := func(j *batchv1.Job) {
		j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": *newQuantity("2")}
	}
	scheduling := func(j *batchv1.Job) {
		j.Spec.Template.Spec.NodeSelector, j.Spec.Template.Spec.Tolerations = map[string]string{"a": "b"}, []corev1.Toleration{{Key: "x"}}
		j.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		j.Spec.Template.Labels["x"] = "y"
	}
	template := func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "other" }
	started := new(metav1.Unix(1, 0))
	for name, c := range map[string]struct {
		old    func(*batchv1.Job)
		change func(*batchv1.Job)
		want   []string // fields that may not change
	}{
		"parallelism, suspend, limits, time to live": {func(*batchv1.Job) {}, spec(func(s *batchv1.JobSpec) {
			s.Parallelism, s.Suspend, s.BackoffLimit, s.ActiveDeadlineSeconds, s.TTLSecondsAfterFinished = new(int32(5)), new(true), new(int32(1)), new(int64(3)), new(int32(3))
		}), nil},
		"completions": {func(*batchv1.Job) {}, spec(func(s *batchv1.JobSpec) { s.Completions = new(int32(5)) }), []string{"spec.completions: Invalid value: 5: field is immutable"}},
		"completions of indexes, with parallelism": {indexed(3), spec(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = new(int32(5)), new(int32(5)) }), nil},
		"completions of indexes, alone": {
			indexed(3), spec(func(s *batchv1.JobSpec) { s.Completions = new(int32(5)) }),
			[]string{"spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"},
		},
		"the template":                                {func(*batchv1.Job) {}, template, []string{"spec.template: "}},
		"where pods go":                               {func(*batchv1.Job) {}, scheduling, []string{"spec.template: "}},
		"the template, suspended":                     {suspended(func(*batchv1.JobStatus) {}), template, []string{"spec.template.spec: "}},
		"where pods go, suspended":                    {suspended(func(*batchv1.JobStatus) {}), scheduling, nil},
		"what pods need, suspended":                   {suspended(func(*batchv1.JobStatus) {}), resources, nil},
		"what pods need, suspended and still running": {suspended(func(s *batchv1.JobStatus) { s.Active = 1 }), resources, []string{"spec.template: "}},
		"what pods need, hardly suspended":            {suspended(func(s *batchv1.JobStatus) { s.StartTime = started }), resources, []string{"spec.template: "}},
		"what pods need, suspended after a start": {suspended(func(s *batchv1.JobStatus) {
			s.StartTime, s.Conditions = started, []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: "True"}}
		}), resources, nil},
		"all that is fixed": {func(*batchv1.Job) {}, func(j *batchv1.Job) {
			j.Spec.Selector = &metav1.LabelSelector{}
			j.Spec.CompletionMode, j.Spec.PodFailurePolicy, j.Spec.BackoffLimitPerIndex = new(batchv1.IndexedCompletion), &batchv1.PodFailurePolicy{}, new(int32(1))
			j.Spec.ManagedBy, j.Spec.SuccessPolicy = new("acme.io/x"), &batchv1.SuccessPolicy{}
		}, []string{
			"spec.selector: ", "spec.completionMode: ", "spec.podFailurePolicy: ", "spec.backoffLimitPerIndex: Invalid value: 1: field is immutable",
			`spec.managedBy: Invalid value: "acme.io/x": field is immutable`, "spec.successPolicy: ",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			old := newJob()
			c.old(old)
			j := old.DeepCopy()
			c.change(j)
			errs := Job().ValidateUpdate(j, old)
			if len(errs) != len(c.want) {
				t.Fatal(text(errs))
			}
			for i, err := range errs {
				if !strings.HasPrefix(err.Error(), c.want[i]) {
					t.Errorf("%s, want %s", err, c.want[i])
				}
			}
		})
	}
}

func TestStatusesThatAreWrong(t *testing.T) {
	is := func(kinds ...batchv1.JobConditionType) (list []batchv1.JobCondition) {
		for _, kind := range kinds {
			list = append(list, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
		}
		return list
	}
	early, late := new(metav1.Unix(1, 0)), new(metav1.Unix(2, 0))
	for name, c := range map[string]struct {
		old, new batchv1.JobStatus
		want     string
	}{
		"complete as it ought to be": {batchv1.JobStatus{StartTime: early}, batchv1.JobStatus{StartTime: early, CompletionTime: late, Conditions: is("SuccessCriteriaMet", "Complete")}, ""},
		"failed as it ought to be":   {batchv1.JobStatus{StartTime: early}, batchv1.JobStatus{StartTime: early, Conditions: is("FailureTarget", "Failed")}, ""},
		"complete out of nothing": {batchv1.JobStatus{}, batchv1.JobStatus{Conditions: is("Complete"), Active: 1}, `status.completionTime: Required value: completionTime is required for Complete jobs
status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition
status.active: Invalid value: 1: active>0 is invalid for finished job
status.startTime: Required value: startTime is required for finished job`},
		"failed out of nothing": {
			batchv1.JobStatus{StartTime: early},
			batchv1.JobStatus{StartTime: early, Conditions: is("Failed")},
			"status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
		},
		"both at once": {
			batchv1.JobStatus{StartTime: early},
			batchv1.JobStatus{StartTime: early, CompletionTime: late, Conditions: is("SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")},
			`status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions
status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions
status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and Failed=true conditions
status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions`,
		},
		"no longer failed": {
			batchv1.JobStatus{StartTime: early, Failed: 2, Conditions: is("FailureTarget", "Failed")},
			batchv1.JobStatus{StartTime: early, Failed: 1},
			`status.conditions: Invalid value: cannot disable the terminal Failed=True condition
status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition
status.failed: Invalid value: 1: cannot decrease the failed counter`,
		},
		"ended before it began": {
			batchv1.JobStatus{StartTime: late},
			batchv1.JobStatus{StartTime: late, CompletionTime: early, Conditions: is("SuccessCriteriaMet", "Complete")},
			`status.completionTime: Invalid value: "1970-01-01T00:00:01Z": completionTime cannot be set before startTime`,
		},
		"numbers": {
			batchv1.JobStatus{},
			batchv1.JobStatus{Active: -1, Succeeded: -1, Failed: -1, Ready: new(int32(-1)), Terminating: new(int32(-1))},
			`status.active: Invalid value: -1: must be greater than or equal to 0
status.succeeded: Invalid value: -1: must be greater than or equal to 0
status.failed: Invalid value: -1: must be greater than or equal to 0
status.ready: Invalid value: -1: must be greater than or equal to 0
status.terminating: Invalid value: -1: must be greater than or equal to 0
status.failed: Invalid value: -1: cannot decrease the failed counter
status.succeeded: Invalid value: -1: cannot decrease the succeeded counter`,
		},
		"more ready than active": {batchv1.JobStatus{}, batchv1.JobStatus{Active: 1, Ready: new(int32(2))}, "status.ready: Invalid value: 2: cannot set more ready pods than active"},
		"a pod twice": {
			batchv1.JobStatus{},
			batchv1.JobStatus{UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a", ""}, Failed: []types.UID{"a"}}},
			`status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty
status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"`,
		},
		"the start is moved": {batchv1.JobStatus{StartTime: early}, batchv1.JobStatus{StartTime: late}, "status.startTime: Required value: startTime cannot be removed for unsuspended job"},
		"indexes of a job without": {
			batchv1.JobStatus{},
			batchv1.JobStatus{CompletedIndexes: "0", FailedIndexes: new("0")},
			`status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode
status.failedIndexes: Invalid value: "0": cannot set non-null failedIndexes when backoffLimitPerIndex is null
status.failedIndexes: Invalid value: "0": failedIndexes and completedIndexes overlap at index: 0`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			old := newJob()
			old.Status = c.old
			j := old.DeepCopy()
			j.Status = c.new
			if got := text(Job().Status.ValidateUpdate(j, old)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if i, found := overlap(spans("0-2,5,8-9", 10), spans("3,4,6-8", 10)); !found || i != 8 {
		t.Errorf("they overlap at %d: %t", i, found)
	}
	if _, found := overlap(spans("0-2,5,9", 10), spans("3,4,6-8", 10)); found {
		t.Error("they do not overlap")
	}
}
