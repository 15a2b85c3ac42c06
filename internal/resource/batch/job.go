package batch

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// The labels by which a job knows its pods had no domain once, and both forms are set.
const (
	oldNameLabel = "job-name"
	oldUIDLabel  = "controller-uid"
)

// Job is a number of pods that are to end well.
func Job() *resource.Kind {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("Job"), Plural: "jobs", Singular: "job", Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/jobs/", Orphans: true,
		OrphanWarning: "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",

		New:     func() resource.Object { return &batchv1.Job{} },
		NewList: func() runtime.Object { return &batchv1.JobList{} },

		Default: func(o resource.Object) { defaultJob(o.(*batchv1.Job)) },
		PrepareCreate: func(o resource.Object) {
			j := o.(*batchv1.Job)
			if !orZero(j.Spec.ManualSelector) {
				generateSelector(j)
			}
			j.Status, j.Generation = batchv1.JobStatus{}, 1
			dropDisabled(&j.Spec)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*batchv1.Job), old.(*batchv1.Job)
			n.Status = o.Status
			dropDisabled(&n.Spec)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return job(o.(*batchv1.Job)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return jobUpdate(new.(*batchv1.Job), old.(*batchv1.Job))
		},
		Warnings: func(o resource.Object) []string { return warnings(o, &o.(*batchv1.Job).Spec, field.NewPath("spec")) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*batchv1.Job).Spec = old.(*batchv1.Job).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return jobStatusUpdate(new.(*batchv1.Job), old.(*batchv1.Job))
			},
		},

		Fields: func(o resource.Object) map[string]string {
			fields := resource.MetaFields(o)
			fields["status.successful"] = strconv.Itoa(int(o.(*batchv1.Job).Status.Succeeded))
			return fields
		},
		FieldNames: []string{"metadata.name", "metadata.namespace", "status.successful"},
		Controlled: true,
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Status", "string", "Status of the job."), resource.Column("Completions", "string", status["succeeded"]),
			resource.Column("Duration", "string", "Time required to complete the job."), resource.AgeColumn(),
		}, core.TemplateColumns(spec["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			j := o.(*batchv1.Job)
			names, images := core.TemplateCells(&j.Spec.Template)
			return []any{
				j.Name, jobState(j), completions(j), jobDuration(&j.Status, now), resource.Since(j.CreationTimestamp, now),
				names, images, metav1.FormatLabelSelector(j.Spec.Selector),
			}
		},
	}
}

func jobState(j *batchv1.Job) string {
	switch {
	case isTrue(&j.Status, batchv1.JobComplete):
		return "Complete"
	case isTrue(&j.Status, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if isTrue(&j.Status, kind) {
			return string(kind)
		}
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch n := orZero(j.Spec.Parallelism); {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case n > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(s *batchv1.JobStatus, now time.Time) string {
	switch {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(s.StartTime.Time))
	}
	return duration.HumanDuration(s.CompletionTime.Sub(s.StartTime.Time))
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	if s.Parallelism == nil {
		setDefault(&s.Completions, 1) // with neither of them, the job is one pod
	}
	setDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setDefault(&s.BackoffLimit, math.MaxInt32)
	}
	setDefault(&s.BackoffLimit, 6)
	if len(j.Labels) == 0 && s.Template.Labels != nil {
		j.Labels = s.Template.Labels // one map: labels made for the template are the job's too
	}
	setDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		setDefault(&s.PodReplacementPolicy, batchv1.Failed)
	}
	setDefault(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	setDefault(&s.ManualSelector, false)
	defaultJobSpec(s)
}

// defaultJobSpec is what is defaulted in the template of a CronJob too.
func defaultJobSpec(s *batchv1.JobSpec) {
	if s.PodFailurePolicy != nil {
		for i := range s.PodFailurePolicy.Rules {
			for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				if p := &s.PodFailurePolicy.Rules[i].OnPodConditions[j]; p.Status == "" {
					p.Status = corev1.ConditionTrue
				}
			}
		}
	}
	core.DefaultPodSpec(&s.Template.Spec)
}

func dropDisabled(s *batchv1.JobSpec) {
	s.Scheduling = nil // alpha
	core.DropDisabledInTemplate(&s.Template)
}

// generateSelector makes the job select its own pods and no others. What the template has of these labels already is left: validation refuses what differs.
func generateSelector(j *batchv1.Job) {
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range map[string]string{
		oldNameLabel: j.Name, batchv1.JobNameLabel: j.Name, oldUIDLabel: string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
	} {
		if _, there := t.Labels[key]; !there {
			t.Labels[key] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, there := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !there {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(t.Labels)
	}
}
