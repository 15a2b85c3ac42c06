package job

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

var noon = time.Unix(1_000_000_000, 0)

// newJob is a job that began a minute before noon.
func newJob(change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sum", UID: "job-1"},
		Spec: batchv1.JobSpec{
			Parallelism: new(int32(2)), Completions: new(int32(3)), BackoffLimit: new(int32(6)), CompletionMode: new(batchv1.NonIndexedCompletion),
			PodReplacementPolicy: new(batchv1.TerminatingOrFailed), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "sum"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": "sum"}},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work"}}},
			},
		},
		Status: batchv1.JobStatus{StartTime: new(seconds(noon.Add(-time.Minute))), UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}},
	}
	for _, ch := range change {
		ch(j)
	}
	return j
}

func indexed(j *batchv1.Job) { j.Spec.CompletionMode = new(batchv1.IndexedCompletion) }

func perIndex(n int32) func(*batchv1.Job) {
	return func(j *batchv1.Job) { indexed(j); j.Spec.BackoffLimitPerIndex = &n }
}

func suspended(j *batchv1.Job) { j.Spec.Suspend = new(true) }

// pods makes pods of words: a name, and after colons an index (3), a state (pending, succeeded, failed; else it runs and is ready), "going", "free" (not held),
// "alone" (without owner), "other" (with other labels), an exit code (exit2), failures before (after1), a time of its end (at-20: seconds from noon).
func pods(words ...string) (list []*corev1.Pod) {
	for i, word := range words {
		parts := strings.Split(word, ":")
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: parts[0], UID: types.UID(parts[0]), Labels: map[string]string{"job": "sum"}, Annotations: map[string]string{},
			CreationTimestamp: seconds(noon.Add(time.Duration(i) * time.Second)),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(newJob(), kind)}, Finalizers: []string{batchv1.JobTrackingFinalizer},
		}}
		p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: seconds(noon)}}
		end := noon.Add(-time.Hour)
		code := int32(0)
		for _, part := range parts[1:] {
			n := 0
			switch {
			case part == "pending":
				p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "", corev1.PodPending, nil
			case part == "succeeded":
				p.Status.Phase, p.Status.Conditions = corev1.PodSucceeded, nil
			case part == "failed":
				p.Status.Phase, p.Status.Conditions, code = corev1.PodFailed, nil, max(code, 1)
			case part == "going":
				p.DeletionTimestamp = new(seconds(noon))
			case part == "free":
				p.Finalizers = nil
			case part == "alone":
				p.OwnerReferences, p.Finalizers = nil, nil
			case part == "other":
				p.Labels = nil
			case scan(part, "exit%d", &n):
				code = int32(n)
			case scan(part, "after%d", &n):
				p.Annotations[batchv1.JobIndexFailureCountAnnotation] = fmt.Sprint(n)
			case scan(part, "at%d", &n):
				end = noon.Add(time.Duration(n) * time.Second)
			case scan(part, "%d", &n):
				p.Annotations[batchv1.JobCompletionIndexAnnotation] = part
			default:
				panic(part)
			}
		}
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "work", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: seconds(end)},
			}}}
		}
		list = append(list, p)
	}
	return list
}

func scan(text, format string, n *int) bool {
	_, err := fmt.Sscanf(text, format, n)
	return err == nil
}

func names(list []*corev1.Pod) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.Name
	}
	return strings.Join(words, " ")
}

// shown is a plan in words.
func shown(p Plan) string {
	var b strings.Builder
	for _, part := range []struct {
		what string
		pods []*corev1.Pod
	}{{"adopt", p.Adopt}, {"release", p.Release}, {"hold", p.Hold}, {"delete", p.Delete}} {
		if len(part.pods) > 0 {
			fmt.Fprintf(&b, "%s %s; ", part.what, names(part.pods))
		}
	}
	if len(p.Delete) > 0 && p.Unwanted {
		b.WriteString("they are surplus; ")
	}
	for _, n := range p.Create {
		b.WriteString("create")
		if n.index != noIndex {
			fmt.Fprintf(&b, " %d", n.index)
		}
		if n.before != nil {
			fmt.Fprintf(&b, " for %s", n.before.Name)
		}
		b.WriteString("; ")
	}
	if p.Again > 0 {
		fmt.Fprintf(&b, "again in %s; ", p.Again)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		job  *batchv1.Job
		pods []*corev1.Pod
		want string
	}{
		"a new job: as many pods as may run at once":             {newJob(), nil, "create; create"},
		"as many run as may: nothing":                            {newJob(), pods("a", "b:pending"), ""},
		"only one is missing: no more than are missing":          {newJob(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), nil, "create"},
		"a success that is not counted yet is one":               {newJob(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), pods("a:succeeded"), ""},
		"parallelism goes down: the one that came least far":     {newJob(func(j *batchv1.Job) { j.Spec.Parallelism = new(int32(1)) }), pods("a", "b:pending"), "delete b; they are surplus"},
		"parallelism of none: all":                               {newJob(func(j *batchv1.Job) { j.Spec.Parallelism = new(int32(0)) }), pods("a", "b"), "delete b a; they are surplus"},
		"suspended: all":                                         {newJob(suspended), pods("a", "b"), "delete b a; they are surplus"},
		"suspended, and nothing runs":                            {newJob(suspended), nil, ""},
		"one success is enough: what runs may end":               {newJob(func(j *batchv1.Job) { j.Spec.Completions = nil; j.Status.Succeeded = 1 }), pods("a"), ""},
		"no success yet: as many as may run":                     {newJob(func(j *batchv1.Job) { j.Spec.Completions = nil }), pods("a"), "create"},
		"being deleted: nothing":                                 {newJob(func(j *batchv1.Job) { j.DeletionTimestamp = new(seconds(noon)) }), pods("a"), ""},
		"one that goes is replaced at once but for the backoff":  {newJob(), pods("a", "b:going"), "again in 10s"},
		"one that goes is replaced once it is dead":              {newJob(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }), pods("a", "b:going"), ""},
		"a failure just now: ten seconds":                        {newJob(), pods("a", "b:failed:at0"), "again in 10s"},
		"a failure some time ago: less":                          {newJob(), pods("a", "b:failed:at-8"), "again in 2s"},
		"two failures: twenty seconds since the last":            {newJob(), pods("b:failed:at-30", "c:failed:at-5"), "again in 15s"},
		"a success after a failure ends the waiting":             {newJob(), pods("b:failed:at-4", "c:succeeded:at-2"), "create; create"},
		"a failure after a success begins it again":              {newJob(), pods("b:failed:at-9", "c:succeeded:at-8", "d:failed:at-1"), "again in 9s"},
		"it waits for no longer than ten minutes":                {newJob(func(j *batchv1.Job) { j.Spec.BackoffLimit = new(int32(99)) }), pods(strings.Fields(strings.Repeat("x:failed:at0 ", 40))...), "again in 10m0s"},
		"too many failures: what runs is deleted, to be counted": {newJob(func(j *batchv1.Job) { j.Status.Failed = 6 }), pods("a", "b:failed"), "delete a"},
		"containers began anew too often": {newJob(func(j *batchv1.Job) {
			j.Spec.Template.Spec.RestartPolicy, j.Spec.BackoffLimit = corev1.RestartPolicyOnFailure, new(int32(2))
		}), func() []*corev1.Pod {
			list := pods("a", "b")
			for _, p := range list {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1}}
			}
			return list
		}(), "delete a b"},
		"its time is over":                                    {newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(60)) }), pods("a", "b"), "delete a b"},
		"its time will be over":                               {newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(61)) }), pods("a", "b"), "again in 1s"},
		"time does not pass while suspended":                  {newJob(suspended, func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(60)) }), nil, ""},
		"pods that nobody owns are adopted, before all else":  {newJob(), pods("a:alone", "b:alone:succeeded"), "adopt a b"},
		"pods with other labels are released":                 {newJob(), pods("a:other"), "release a"},
		"one that runs and is not held will be":               {newJob(), pods("a:free", "b"), "hold a"},
		"ended ones that are not held have been counted":      {newJob(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), pods("a:free:succeeded", "b:free:succeeded"), "create"},
		"indexes: the lowest that are missing":                {newJob(indexed, func(j *batchv1.Job) { j.Status.CompletedIndexes = "1" }), nil, "create 0; create 2"},
		"indexes: none that runs":                             {newJob(indexed), pods("a:0"), "create 1"},
		"indexes: none that is about to be counted":           {newJob(indexed), pods("a:0:succeeded"), "create 1; create 2"},
		"indexes: one that goes holds its own until it dies":  {newJob(indexed, func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = new(batchv1.Failed) }), pods("a:0:going"), "create 1"},
		"indexes: of two with one, the one that came farther": {newJob(indexed), pods("a:0:pending", "b:0"), "delete a; they are surplus"},
		"indexes: one without, and one beyond":                {newJob(indexed), pods("a", "b:3", "c:1"), "delete a b; they are surplus"},
		"indexes: a failure in the whole job delays it":       {newJob(indexed), pods("a:0:failed:at0"), "again in 10s"},
		"by the index: a failure delays its index only":       {newJob(perIndex(2)), pods("a:0:failed:at-4"), "create 1; again in 6s"},
		"by the index: then it is tried anew":                 {newJob(perIndex(2)), pods("a:0:failed:at-10"), "create 0 for a; create 1"},
		"by the index: later each time":                       {newJob(perIndex(5)), pods("a:0:failed:after1:at-10", "b:1", "c:2:succeeded"), "again in 10s"},
		"by the index: not more often than it may":            {newJob(perIndex(1)), pods("a:0:failed:after1"), "create 1; create 2"},
		"by the index: what has failed has":                   {newJob(perIndex(1), func(j *batchv1.Job) { j.Status.FailedIndexes = new("0") }), nil, "create 1; create 2"},
		"by the index: all are settled, not all well":         {newJob(perIndex(0), func(j *batchv1.Job) { j.Status.CompletedIndexes = "0,1" }), pods("a:2:failed"), ""},
		"by the index: too many have failed":                  {newJob(perIndex(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = new(int32(0)) }), pods("a:0:failed", "b:1"), "delete b"},
		"some indexes are enough: the others are deleted": {newJob(indexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: new(int32(1))}}}
		}), pods("a:0:succeeded", "b:1"), "delete b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := shown(Decide(c.job, labels.SelectorFromSet(labels.Set{"job": "sum"}), c.pods, record{}, noon)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestNoPassCreatesMoreThanItsShare(t *testing.T) {
	j := newJob(func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = new(int32(2000)), new(int32(2000)) })
	if n := len(Decide(j, labels.Nothing(), nil, record{}, noon).Create); n != burst {
		t.Errorf("%d", n)
	}
}

func TestAPodOfAJob(t *testing.T) {
	j := newJob(perIndex(3), func(j *batchv1.Job) {
		j.Name = strings.Repeat("long", 15)
		j.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "first"}}
		j.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: indexVariable, Value: "mine"}}
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{7}},
		}}}
	})
	p := newPod(j, 12, pods("a:12:failed:after1:exit7")[0])
	if p.GenerateName != strings.Repeat("long", 15)[:54]+"-12-" || p.Spec.Hostname != j.Name+"-12" || p.Labels[batchv1.JobCompletionIndexAnnotation] != "12" ||
		p.Annotations[batchv1.JobCompletionIndexAnnotation] != "12" || p.Annotations[batchv1.JobIndexFailureCountAnnotation] != "1" ||
		p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] != "1" || !isTracked(p) || !metav1.IsControlledBy(p, j) {
		t.Errorf("%+v", p)
	}
	if p.Spec.Containers[0].Env[0].Value != "mine" || p.Spec.InitContainers[0].Env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
		t.Errorf("%+v", p.Spec)
	}
	if len(j.Spec.Template.Spec.InitContainers[0].Env) > 0 || j.Spec.Template.Annotations != nil {
		t.Error("the template has changed")
	}
	if p := newPod(newJob(), noIndex, nil); p.GenerateName != "sum-" || p.Spec.Hostname != "" || len(p.Spec.Containers[0].Env) > 0 {
		t.Errorf("%+v", p)
	}
}
