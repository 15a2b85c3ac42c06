package batch

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// newJob is a job as it is after its creation; change is done before.
func newJob(change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: "ns", UID: "u1"}}
	j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: "sum"}}}
	for _, ch := range change {
		ch(j)
	}
	kind := Job()
	kind.Default(j)
	kind.PrepareCreate(j)
	return j
}

func text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func spec(change func(*batchv1.JobSpec)) func(*batchv1.Job) {
	return func(j *batchv1.Job) { change(&j.Spec) }
}

func indexed(n int32) func(*batchv1.Job) {
	return spec(func(s *batchv1.JobSpec) { s.CompletionMode, s.Completions = new(batchv1.IndexedCompletion), &n })
}

func TestJobsAreDefaulted(t *testing.T) {
	j := newJob()
	s := &j.Spec
	if *s.Completions != 1 || *s.Parallelism != 1 || *s.BackoffLimit != 6 || *s.CompletionMode != "NonIndexed" || *s.Suspend || *s.ManualSelector ||
		*s.PodReplacementPolicy != "TerminatingOrFailed" || j.Generation != 1 {
		t.Errorf("%+v", s)
	}
	want := map[string]string{"batch.kubernetes.io/controller-uid": "u1", "batch.kubernetes.io/job-name": "sum", "controller-uid": "u1", "job-name": "sum"}
	for key, value := range want {
		if s.Template.Labels[key] != value || j.Labels[key] != value {
			t.Errorf("%s: %s, of the job %s", key, s.Template.Labels[key], j.Labels[key])
		}
	}
	if got := metav1.FormatLabelSelector(s.Selector); got != "batch.kubernetes.io/controller-uid=u1" {
		t.Error(got)
	}
	if errs := Job().Validate(j); len(errs) > 0 {
		t.Error(text(errs))
	}
	if s := newJob(spec(func(s *batchv1.JobSpec) { s.Parallelism = new(int32(3)) })).Spec; s.Completions != nil {
		t.Errorf("with parallelism alone: %d completions", *s.Completions)
	}
	if s := newJob(spec(func(s *batchv1.JobSpec) { s.Completions = new(int32(3)) })).Spec; *s.Parallelism != 1 {
		t.Errorf("with completions alone: %d at once", *s.Parallelism)
	}
	if s := newJob(indexed(3), spec(func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = new(int32(1)) })).Spec; *s.BackoffLimit != math.MaxInt32 {
		t.Errorf("with a limit by the index: %d", *s.BackoffLimit)
	}
	s = &newJob(spec(func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: "Ignore", OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "DisruptionTarget"}}}}}
	})).Spec
	if *s.PodReplacementPolicy != "Failed" || s.PodFailurePolicy.Rules[0].OnPodConditions[0].Status != "True" {
		t.Errorf("with a policy of failures: %+v", s)
	}
	// Labels of the template are the job's where it has none of its own, with those that are generated.
	j = newJob(func(j *batchv1.Job) { j.Spec.Template.Labels = map[string]string{"app": "sum"} })
	if j.Labels["app"] != "sum" || j.Labels["job-name"] != "sum" {
		t.Errorf("%v", j.Labels)
	}
	j = newJob(func(j *batchv1.Job) {
		j.Labels, j.Spec.Template.Labels = map[string]string{"app": "sum"}, map[string]string{"app": "sum"}
	})
	if len(j.Labels) != 1 {
		t.Errorf("%v", j.Labels)
	}
	j = newJob(func(j *batchv1.Job) {
		j.Spec.ManualSelector, j.Spec.Selector = new(true), &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		j.Spec.Template.Labels = map[string]string{"a": "b"}
	})
	if errs := Job().Validate(j); len(errs) > 0 || len(j.Spec.Template.Labels) != 1 {
		t.Error(text(errs), j.Spec.Template.Labels)
	}
}

func rules(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
	return spec(func(s *batchv1.JobSpec) { s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} })
}

func success(rules ...batchv1.SuccessPolicyRule) func(*batchv1.Job) {
	return spec(func(s *batchv1.JobSpec) { s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: rules} })
}

func both(changes ...func(*batchv1.Job)) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		for _, ch := range changes {
			ch(j)
		}
	}
}

func TestJobsThatAreWrong(t *testing.T) {
	codes := func(operator batchv1.PodFailurePolicyOnExitCodesOperator, values ...int32) *batchv1.PodFailurePolicyOnExitCodesRequirement {
		return &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: values}
	}
	negative := new(int32(-1))
	const notNegative = "must be greater than or equal to 0"
	for name, c := range map[string]struct {
		change func(*batchv1.Job)
		want   string
	}{
		"negative numbers": {spec(func(s *batchv1.JobSpec) {
			s.Parallelism, s.Completions, s.ActiveDeadlineSeconds, s.BackoffLimit, s.TTLSecondsAfterFinished = negative, negative, new(int64(-1)), negative, negative
		}), "spec.parallelism: Invalid value: -1: " + notNegative + "\nspec.completions: Invalid value: -1: " + notNegative +
			"\nspec.activeDeadlineSeconds: Invalid value: -1: " + notNegative + "\nspec.backoffLimit: Invalid value: -1: " + notNegative +
			"\nspec.ttlSecondsAfterFinished: Invalid value: -1: " + notNegative},
		"pods that run for ever": {
			func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = "Always" },
			`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`,
		},
		"a restart policy that is left out": {
			func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = "" },
			`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`,
		},
		"no container": {func(j *batchv1.Job) { j.Spec.Template.Spec.Containers = nil }, "spec.template.spec.containers: Required value"},
		"a selector of its own": {
			func(j *batchv1.Job) {
				j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
			},
			"spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u1\"}}: `selector` not auto-generated\n" +
				"spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u1\",\"batch.kubernetes.io/job-name\":\"sum\",\"controller-uid\":\"u1\",\"job-name\":\"sum\"}: `selector` does not match template `labels`",
		},
		"labels that contradict": {
			func(j *batchv1.Job) { j.Spec.Template.Labels = map[string]string{"job-name": "other"} },
			`spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"u1","batch.kubernetes.io/job-name":"sum","controller-uid":"u1","job-name":"other"}: must be 'sum'`,
		},
		"no selector, and none wanted": {
			func(j *batchv1.Job) { j.Spec.ManualSelector = new(true) },
			"spec.selector: Required value\nspec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
		},
		"a mode that does not exist": {
			spec(func(s *batchv1.JobSpec) { s.CompletionMode = new(batchv1.CompletionMode("Random")) }),
			`spec.completionMode: Unsupported value: "Random": supported values: "NonIndexed", "Indexed"`,
		},
		"indexed without completions": {
			spec(func(s *batchv1.JobSpec) {
				s.CompletionMode, s.Parallelism = new(batchv1.IndexedCompletion), new(int32(2))
			}),
			"spec.completions: Required value: when completion mode is Indexed",
		},
		"indexed, too many at once": {
			both(indexed(1), spec(func(s *batchv1.JobSpec) { s.Parallelism = new(int32(100001)) })),
			"spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
		},
		"indexed, with a name that is too long": {
			both(indexed(11), func(j *batchv1.Job) { j.Name = strings.Repeat("a", 61) }),
			`metadata.name: Invalid value: "` + strings.Repeat("a", 61) + `": will not able to create pod with invalid DNS label: ` + strings.Repeat("a", 61) + "-10",
		},
		"limits by the index without indexes": {
			spec(func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex, s.MaxFailedIndexes = new(int32(1)), new(int32(1)) }),
			"spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode\nspec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
		},
		"failed indexes without a limit by the index": {
			both(indexed(3), spec(func(s *batchv1.JobSpec) { s.MaxFailedIndexes = new(int32(1)) })),
			"spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
		},
		"more failed indexes than there are": {
			both(indexed(3), spec(func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex, s.MaxFailedIndexes = new(int32(1)), new(int32(4)) })),
			"spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
		},
		"very many indexes": {
			both(indexed(100001), spec(func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex, s.Parallelism = new(int32(1)), new(int32(10001)) })),
			"spec.maxFailedIndexes: Required value: must be specified when completions is above 100000\n" +
				"spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
		},
		"managed by nobody": {
			spec(func(s *batchv1.JobSpec) { s.ManagedBy = new("nobody") }),
			`spec.managedBy: Invalid value: "nobody": must be a domain-prefixed path (such as "acme.io/foo")`,
		},
		"managed by a long name": {spec(func(s *batchv1.JobSpec) { s.ManagedBy = new("acme.io/" + strings.Repeat("a", 60)) }), "spec.managedBy: Too long: may not be more than 63 bytes"},
		"a replacement policy that does not exist": {
			spec(func(s *batchv1.JobSpec) { s.PodReplacementPolicy = new(batchv1.PodReplacementPolicy("Never")) }),
			`spec.podReplacementPolicy: Unsupported value: "Never": supported values: "Failed", "TerminatingOrFailed"`,
		},
		"a replacement policy beside one of failures": {
			both(rules(), spec(func(s *batchv1.JobSpec) { s.PodReplacementPolicy = new(batchv1.TerminatingOrFailed) })),
			`spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"`,
		},
		"a policy of failures, and containers that begin anew": {
			both(rules(), spec(func(s *batchv1.JobSpec) { s.Template.Spec.RestartPolicy = "OnFailure" })),
			`spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`,
		},
		"a rule of nothing": {
			rules(batchv1.PodFailurePolicyRule{}),
			`spec.podFailurePolicy.rules[0].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]` +
				"\nspec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
		},
		"a rule of both": {
			rules(batchv1.PodFailurePolicyRule{Action: "Explode", OnExitCodes: codes("In", 1), OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "a b", Status: "Maybe"}}}),
			`spec.podFailurePolicy.rules[0].action: Unsupported value: "Explode": supported values: "Count", "FailIndex", "FailJob", "Ignore"` +
				`
spec.podFailurePolicy.rules[0].onPodConditions[0].type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
spec.podFailurePolicy.rules[0].onPodConditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
spec.podFailurePolicy.rules[0]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported`,
		},
		"exit codes of no sense": {rules(batchv1.PodFailurePolicyRule{Action: "FailJob", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			ContainerName: new("other"), Operator: "In", Values: []int32{2, 0, 2},
		}}), `spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "other": must be one of the container or initContainer names in the pod template
spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator
spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2
spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered`},
		"no exit codes": {
			rules(batchv1.PodFailurePolicyRule{Action: "FailJob", OnExitCodes: codes("")}),
			`spec.podFailurePolicy.rules[0].onExitCodes.operator: Required value: valid values: ["In" "NotIn"]
spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: null: at least one value is required`,
		},
		"failing an index where there is no limit by it": {
			rules(batchv1.PodFailurePolicyRule{Action: "FailIndex", OnExitCodes: codes("NotIn", 1)}),
			`spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`,
		},
		"too many rules": {
			rules(slices.Repeat([]batchv1.PodFailurePolicyRule{{Action: "Count", OnExitCodes: codes("In", 1)}}, 21)...),
			"spec.podFailurePolicy.rules: Too many: 21: must have at most 20 items",
		},
		"a success policy without indexes": {
			success(batchv1.SuccessPolicyRule{SucceededCount: new(int32(1))}),
			`spec.successPolicy: Invalid value: {"rules":[{"succeededCount":1}]}: requires indexed completion mode`,
		},
		"a success policy without rules": {both(indexed(3), success()), "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"},
		"a success policy of nothing":    {both(indexed(3), success(batchv1.SuccessPolicyRule{})), "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified"},
		"a success policy of more than there is": {
			both(indexed(3), success(batchv1.SuccessPolicyRule{SucceededCount: new(int32(4)), SucceededIndexes: new("0,2")})),
			"spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)\n" +
				"spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
		},
		"indexes that are too large": {
			both(indexed(3), success(batchv1.SuccessPolicyRule{SucceededIndexes: new("0-3")})),
			`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0-3": error parsing succeededIndexes: too large index: "3"`,
		},
		"indexes that go back": {
			both(indexed(3), success(batchv1.SuccessPolicyRule{SucceededIndexes: new("1,0")})),
			`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "1,0": error parsing succeededIndexes: non-increasing order, previous: 1, current: 0`,
		},
		"indexes of three parts": {
			both(indexed(3), success(batchv1.SuccessPolicyRule{SucceededIndexes: new("0-1-2")})),
			`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0-1-2": error parsing succeededIndexes: the fragment "0-1-2" violates the requirement that an index interval can have at most two parts separated by '-'`,
		},
		"indexes that are words": {
			both(indexed(3), success(batchv1.SuccessPolicyRule{SucceededIndexes: new("all")})),
			`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "all": error parsing succeededIndexes: cannot convert string to integer for index: "all"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text(Job().Validate(newJob(c.change))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRowsOfJobs(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(s int64) *metav1.Time { return new(metav1.Unix(s, 0)) }
	is := func(kind batchv1.JobConditionType) []batchv1.JobCondition {
		return []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue}}
	}
	for name, c := range map[string]struct {
		change func(*batchv1.Job)
		want   []any
	}{
		"it runs":  {func(j *batchv1.Job) { j.Status.StartTime = at(970) }, []any{"sum", "Running", "0/1", "30s", "60s"}},
		"it waits": {func(*batchv1.Job) {}, []any{"sum", "Running", "0/1", "", "60s"}},
		"complete": {func(j *batchv1.Job) {
			j.Status = batchv1.JobStatus{Succeeded: 1, StartTime: at(950), CompletionTime: at(990), Conditions: is("Complete")}
		}, []any{"sum", "Complete", "1/1", "40s", "60s"}},
		"failed":              {func(j *batchv1.Job) { j.Status.Conditions = is("Failed") }, []any{"sum", "Failed", "0/1", "", "60s"}},
		"about to fail":       {func(j *batchv1.Job) { j.Status.Conditions = is("FailureTarget") }, []any{"sum", "FailureTarget", "0/1", "", "60s"}},
		"about to be done":    {func(j *batchv1.Job) { j.Status.Conditions = is("SuccessCriteriaMet") }, []any{"sum", "SuccessCriteriaMet", "0/1", "", "60s"}},
		"suspended":           {func(j *batchv1.Job) { j.Status.Conditions = is("Suspended") }, []any{"sum", "Suspended", "0/1", "", "60s"}},
		"being deleted":       {func(j *batchv1.Job) { j.DeletionTimestamp = at(1000) }, []any{"sum", "Terminating", "0/1", "", "60s"}},
		"one of many":         {func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = nil, new(int32(3)) }, []any{"sum", "Running", "0/1 of 3", "", "60s"}},
		"one, by parallelism": {func(j *batchv1.Job) { j.Spec.Completions = nil }, []any{"sum", "Running", "0/1", "", "60s"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob()
			j.CreationTimestamp = *at(940)
			c.change(j)
			if got := Job().Row(j, now); !slices.Equal(got, append(c.want, "work", "sum", "batch.kubernetes.io/controller-uid=u1")) {
				t.Errorf("%v", got)
			}
		})
	}
}
