package job

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// told is a step in words: the numbers of the status, its conditions, which pods may go, and what has happened.
func told(step Step) string {
	s := step.Status
	var b strings.Builder
	fmt.Fprintf(&b, "%d active %d ready %d terminating %d succeeded %d failed", s.Active, *s.Ready, *s.Terminating, s.Succeeded, s.Failed)
	if u, _ := json.Marshal(s.UncountedTerminatedPods); string(u) != "{}" {
		fmt.Fprintf(&b, " %s", u)
	}
	if s.CompletedIndexes != "" || s.FailedIndexes != nil {
		fmt.Fprintf(&b, " done %s failed %s", s.CompletedIndexes, deref(s.FailedIndexes))
	}
	for _, c := range s.Conditions {
		fmt.Fprintf(&b, "; %s=%s %s %q", c.Type, c.Status, c.Reason, c.Message)
	}
	if len(step.Let) > 0 {
		fmt.Fprintf(&b, "; let %s", names(step.Let))
	}
	for _, e := range step.Events {
		fmt.Fprintf(&b, "; %s %s: %s", e.kind, e.reason, e.message)
	}
	return b.String()
}

func uncountedIn(succeeded, failed string) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		for _, uid := range strings.Fields(succeeded) {
			j.Status.UncountedTerminatedPods.Succeeded = append(j.Status.UncountedTerminatedPods.Succeeded, types.UID(uid))
		}
		for _, uid := range strings.Fields(failed) {
			j.Status.UncountedTerminatedPods.Failed = append(j.Status.UncountedTerminatedPods.Failed, types.UID(uid))
		}
	}
}

func condition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.Status.Conditions = append(j.Status.Conditions, *newCondition(kind, status, reason, message, noon))
	}
}

func policy(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.Spec.PodFailurePolicy, j.Spec.PodReplacementPolicy = &batchv1.PodFailurePolicy{Rules: rules}, new(batchv1.Failed)
	}
}

func onExit(action batchv1.PodFailurePolicyAction, operator batchv1.PodFailurePolicyOnExitCodesOperator, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: codes}}
}

func TestTrack(t *testing.T) {
	succeededWith := func(n int32) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Status.Succeeded = n } }
	disrupted := pods("a:failed:exit7")
	disrupted[0].Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
	for name, c := range map[string]struct {
		job  *batchv1.Job
		pods []*corev1.Pod
		want string
	}{
		"nothing has ended": {newJob(), pods("a", "b:pending"), "2 active 1 ready 0 terminating 0 succeeded 0 failed"},
		"what ends is first written down by its name": {
			newJob(), pods("a:succeeded", "b:failed", "c"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"succeeded":["a"],"failed":["b"]}; let a b`,
		},
		"what is written down and still held is not written again": {
			newJob(uncountedIn("a", "")), pods("a:succeeded", "c"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"succeeded":["a"]}; let a`,
		},
		"what is written down and free becomes a number": {
			newJob(uncountedIn("a", "b gone")), pods("a:succeeded:free", "b:failed:free", "c"),
			"1 active 1 ready 0 terminating 1 succeeded 2 failed",
		},
		"what is free and not written down has been counted": {newJob(succeededWith(1)), pods("a:succeeded:free", "c"), "1 active 1 ready 0 terminating 1 succeeded 0 failed"},
		"one that goes has failed":                           {newJob(), pods("a:going", "c"), `1 active 1 ready 1 terminating 0 succeeded 0 failed {"failed":["a"]}; let a`},
		"and has, even if it ends well then": {
			newJob(uncountedIn("", "a")), pods("a:going:succeeded", "c"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]}; let a`,
		},
		"one that goes has not failed yet where only the dead have": {
			newJob(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }), pods("a:going", "c"),
			"1 active 1 ready 1 terminating 0 succeeded 0 failed",
		},
		"one that goes and never had a node has failed in any case": {
			newJob(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }), pods("a:pending:going", "c"),
			`1 active 1 ready 1 terminating 0 succeeded 0 failed {"failed":["a"]}; let a`,
		},
		"the last success: the criteria are met, and nothing is final": {
			newJob(succeededWith(2)), pods("a:succeeded"),
			`0 active 0 ready 0 terminating 2 succeeded 0 failed {"succeeded":["a"]}; SuccessCriteriaMet=True CompletionsReached "Reached expected number of succeeded pods"; let a`,
		},
		"then all is counted, and it is complete": {
			newJob(succeededWith(2), uncountedIn("a", ""), condition("SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods")), pods("a:succeeded:free"),
			`0 active 0 ready 0 terminating 3 succeeded 0 failed; SuccessCriteriaMet=True CompletionsReached "Reached expected number of succeeded pods"` +
				`; Complete=True CompletionsReached "Reached expected number of succeeded pods"; Normal Completed: Job completed`,
		},
		"not before the last pod is gone": {
			newJob(succeededWith(3), condition("SuccessCriteriaMet", "True", "CompletionsReached", "x")), pods("a:going:free"),
			`0 active 0 ready 1 terminating 3 succeeded 0 failed; SuccessCriteriaMet=True CompletionsReached "x"`,
		},
		"more successes than were wanted": {
			newJob(succeededWith(4)), nil,
			`0 active 0 ready 0 terminating 4 succeeded 0 failed; SuccessCriteriaMet=True CompletionsReached "Reached expected number of succeeded pods"` +
				`; Complete=True CompletionsReached "Reached expected number of succeeded pods"` +
				`; Warning TooManySucceededPods: Too many succeeded pods running after completion count reached; Normal Completed: Job completed`,
		},
		"the limit of failures is passed, and something runs": {
			newJob(func(j *batchv1.Job) { j.Spec.BackoffLimit = new(int32(0)) }), pods("a:failed", "b"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]}; let a`,
		},
		"the limit of failures is passed, and all that ran goes": {
			newJob(func(j *batchv1.Job) { j.Spec.BackoffLimit = new(int32(0)) }), pods("a:failed", "b:going"),
			`0 active 0 ready 1 terminating 0 succeeded 0 failed {"failed":["a","b"]}; FailureTarget=True BackoffLimitExceeded "Job has reached the specified backoff limit"; let a b`,
		},
		"then it has failed": {
			newJob(func(j *batchv1.Job) { j.Status.Failed = 2 }, condition("FailureTarget", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit")), nil,
			`0 active 0 ready 0 terminating 0 succeeded 2 failed; FailureTarget=True BackoffLimitExceeded "Job has reached the specified backoff limit"` +
				`; Failed=True BackoffLimitExceeded "Job has reached the specified backoff limit"; Warning BackoffLimitExceeded: Job has reached the specified backoff limit`,
		},
		"its time is over": {
			newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(60)) }), nil,
			`0 active 0 ready 0 terminating 0 succeeded 0 failed; FailureTarget=True DeadlineExceeded "Job was active longer than specified deadline"` +
				`; Failed=True DeadlineExceeded "Job was active longer than specified deadline"; Warning DeadlineExceeded: Job was active longer than specified deadline`,
		},
		"suspended": {newJob(suspended), nil, `0 active 0 ready 0 terminating 0 succeeded 0 failed; Suspended=True JobSuspended "Job suspended"; Normal Suspended: Job suspended`},
		"still suspended": {
			newJob(suspended, condition("Suspended", "True", "JobSuspended", "Job suspended")), nil,
			`0 active 0 ready 0 terminating 0 succeeded 0 failed; Suspended=True JobSuspended "Job suspended"`,
		},
		"resumed": {
			newJob(condition("Suspended", "True", "JobSuspended", "Job suspended")), nil,
			`0 active 0 ready 0 terminating 0 succeeded 0 failed; Suspended=False JobResumed "Job resumed"; Normal Resumed: Job resumed`,
		},
		"being deleted: all are let go": {
			newJob(func(j *batchv1.Job) { j.DeletionTimestamp = new(seconds(noon)) }), pods("a", "b:going", "c:succeeded"),
			`1 active 1 ready 1 terminating 0 succeeded 0 failed {"succeeded":["c"],"failed":["b"]}; let a b c`,
		},
		"indexes are counted by themselves": {
			newJob(indexed, func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.Succeeded = "0", 1 }), pods("a:0:succeeded", "b:1:succeeded", "c:2:failed", "d:9:succeeded"),
			`0 active 0 ready 0 terminating 2 succeeded 0 failed {"failed":["c"]} done 0,1 failed ; let a b c d`,
		},
		"completions go down: indexes beyond do not count": {newJob(indexed, func(j *batchv1.Job) {
			j.Spec.Completions, j.Status.CompletedIndexes, j.Status.Succeeded = new(int32(3)), "0,2-4", 4
		}), nil, "0 active 0 ready 0 terminating 2 succeeded 0 failed done 0,2 failed "},
		"by the index: a failure is held until its replacement knows of it": {
			newJob(perIndex(1)), pods("a:0:failed", "b:1"),
			"1 active 1 ready 0 terminating 0 succeeded 0 failed",
		},
		"by the index: then it is let go": {
			newJob(perIndex(1)), pods("a:0:failed", "b:0:after1"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]} done  failed ; let a`,
		},
		"by the index: an index has failed": {
			newJob(perIndex(1)), pods("a:0:failed:after1", "b:1"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]} done  failed 0; let a`,
		},
		"by the index: all are settled, not all well": {
			newJob(perIndex(0), func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0,1", new("2") }), nil,
			`0 active 0 ready 0 terminating 2 succeeded 0 failed done 0,1 failed 2; FailureTarget=True FailedIndexes "Job has failed indexes"` +
				`; Failed=True FailedIndexes "Job has failed indexes"; Warning FailedIndexes: Job has failed indexes`,
		},
		"by the index: too many have failed": {
			newJob(perIndex(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes, j.Status.FailedIndexes = new(int32(0)), new("2") }), nil,
			`0 active 0 ready 0 terminating 0 succeeded 0 failed done  failed 2; FailureTarget=True MaxFailedIndexesExceeded "Job has exceeded the specified maximal number of failed indexes"` +
				`; Failed=True MaxFailedIndexesExceeded "Job has exceeded the specified maximal number of failed indexes"` +
				`; Warning MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes`,
		},
		"the success policy is met": {
			newJob(indexed, func(j *batchv1.Job) {
				j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: new("0,2")}, {SucceededIndexes: new("0-1"), SucceededCount: new(int32(1))}}}
			}), pods("a:1:succeeded", "b:2:going"),
			`0 active 0 ready 1 terminating 1 succeeded 0 failed {"failed":["b"]} done 1 failed ; SuccessCriteriaMet=True SuccessPolicy "Matched rules at index 1"; let a b`,
		},
		"a failure that fails the job": {
			newJob(policy(onExit("Ignore", "In", 1), onExit("FailJob", "NotIn", 1, 2))), pods("a:failed:exit7"),
			`0 active 0 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]}` +
				`; FailureTarget=True PodFailurePolicy "Container work for pod ns/a failed with exit code 7 matching FailJob rule at index 1"; let a`,
		},
		"a failure that does not count": {newJob(policy(onExit("Ignore", "In", 7))), pods("a:failed:exit7", "b"), "1 active 1 ready 0 terminating 0 succeeded 0 failed; let a"},
		"a failure that counts, by a rule": {
			newJob(policy(onExit("Count", "In", 7), onExit("FailJob", "In", 7))), pods("a:failed:exit7", "b"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]}; let a`,
		},
		"a condition that fails the job": {
			newJob(policy(batchv1.PodFailurePolicyRule{Action: "FailJob", OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "DisruptionTarget", Status: "True"}}})), disrupted,
			`0 active 0 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]}; FailureTarget=True PodFailurePolicy "Pod ns/a has condition DisruptionTarget matching FailJob rule at index 0"; let a`,
		},
		"a failure that ends its index": {
			newJob(perIndex(5), policy(onExit("FailIndex", "In", 7))), pods("a:0:failed:exit7", "b:1"),
			`1 active 1 ready 0 terminating 0 succeeded 0 failed {"failed":["a"]} done  failed 0; let a`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := told(Track(c.job, c.pods, record{}, noon))
			if strings.HasSuffix(name, "knows of it") {
				c.want += " done  failed "
			}
			if got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestTimesOfAJob(t *testing.T) {
	fresh := newJob(func(j *batchv1.Job) { j.Status.StartTime = nil })
	if s := Track(fresh, nil, record{}, noon).Status.StartTime; s == nil || !s.Time.Equal(noon) {
		t.Errorf("it begins at %v", s)
	}
	if s := Track(newJob(suspended), nil, record{}, noon).Status.StartTime; s != nil {
		t.Errorf("suspended, and begun at %v", s)
	}
	if s := Track(newJob(condition("Suspended", "True", "JobSuspended", "Job suspended")), nil, record{}, noon).Status.StartTime; !s.Time.Equal(noon) {
		t.Errorf("resumed, and begun at %v", s)
	}
	st := Track(newJob(func(j *batchv1.Job) { j.Status.Succeeded = 3 }), nil, record{}, noon.Add(time.Millisecond)).Status
	if !st.CompletionTime.Time.Equal(noon) || !st.StartTime.Time.Equal(noon.Add(-time.Minute)) {
		t.Errorf("%+v", st)
	}
	// One that never began and wants nothing ends as it began.
	st = Track(newJob(suspended, func(j *batchv1.Job) { j.Spec.Completions, j.Status.StartTime = new(int32(0)), nil }), nil, record{}, noon).Status
	if find(st.Conditions, batchv1.JobComplete) == nil || !st.StartTime.Equal(st.CompletionTime) {
		t.Errorf("%+v", st)
	}
}

func TestNoStepWritesDownMoreThanAStatusCanHold(t *testing.T) {
	var words []string
	for i := range 700 {
		words = append(words, fmt.Sprintf("p%d:succeeded", i))
	}
	step := Track(newJob(func(j *batchv1.Job) { j.Spec.Completions = new(int32(700)) }), pods(words...), record{}, noon)
	if len(step.Let) != burst || len(step.Status.UncountedTerminatedPods.Succeeded) != burst || find(step.Status.Conditions, batchv1.JobComplete) != nil {
		t.Errorf("%d let go, %d written down", len(step.Let), len(step.Status.UncountedTerminatedPods.Succeeded))
	}
}

func TestWhatIsForgottenInAStartIsFoundInThePods(t *testing.T) {
	j := newJob(uncountedIn("", "b"))
	r := remains(j, pods("x:succeeded:free:at-60", "a:failed:free:at-30", "b:failed:at-20", "new:failed:at-10", "c:failed:free:at-90"))
	if r.failures != 2 || !r.last.Equal(noon.Add(-20*time.Second)) || r.job != j.UID {
		t.Errorf("%+v", r)
	}
}
