package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// Bounds on jobs with indexes: what is known of each index has to fit into the status.
const (
	mostParallel      = 100_000
	mostFailedIndexes = 100_000
	manyCompletions   = 100_000 // more than these bring the next two bounds
	mostWithMany      = 10_000
	mostFailedOfMany  = 10_000
	longestManagedBy  = 63
)

func job(j *batchv1.Job) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	c.generated(j)
	c.jobSpec(&j.Spec, at)
	if j.Spec.Selector == nil {
		c.Required(at.Child("selector"), "")
	} else {
		c.Add(metavalidation.ValidateLabelSelector(j.Spec.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	if sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !sel.Matches(labels.Set(j.Spec.Template.Labels)) {
		c.Invalid(at.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`")
	}
	if n := orZero(j.Spec.Completions); isIndexed(&j.Spec) && n > 0 {
		if host := fmt.Sprintf("%s-%d", j.Name, n-1); len(validation.IsDNS1123Label(host)) > 0 {
			c.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+host)
		}
	}
	return c.Errs
}

// generated checks the labels that the server has made, and which somebody may have contradicted.
func (c *check) generated(j *batchv1.Job) {
	if orZero(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return
	}
	if j.UID == "" {
		c.Required(field.NewPath("metadata", "uid"), "")
	}
	expected := labels.Set{}
	for _, l := range []struct{ key, value string }{
		{oldUIDLabel, string(j.UID)},
		{oldNameLabel, j.Name},
		{batchv1.ControllerUidLabel, string(j.UID)},
		{batchv1.JobNameLabel, j.Name},
	} {
		expected[l.key] = l.value
		at := field.NewPath("spec", "template", "metadata", "labels").Key(l.key)
		if is, there := j.Spec.Template.Labels[l.key]; !there {
			c.Required(at, fmt.Sprintf("must be '%s'", l.value))
		} else if is != l.value {
			c.Invalid(at, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value))
		}
	}
	if sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !sel.Matches(expected) {
		c.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated")
	}
}

// jobSpec checks what a job and the template of one have in common.
func (c *check) jobSpec(s *batchv1.JobSpec, at *field.Path) {
	count(c, s.Parallelism, at.Child("parallelism"))
	count(c, s.Completions, at.Child("completions"))
	count(c, s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))
	count(c, s.BackoffLimit, at.Child("backoffLimit"))
	count(c, s.TTLSecondsAfterFinished, at.Child("ttlSecondsAfterFinished"))
	count(c, s.BackoffLimitPerIndex, at.Child("backoffLimitPerIndex"))
	if s.MaxFailedIndexes != nil {
		count(c, s.MaxFailedIndexes, at.Child("maxFailedIndexes"))
		if s.BackoffLimitPerIndex == nil {
			c.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
		}
	}
	if s.ManagedBy != nil {
		at := at.Child("managedBy")
		c.Add(validation.IsDomainPrefixedPath(at, *s.ManagedBy)...)
		if len(*s.ManagedBy) > longestManagedBy {
			c.Add(field.TooLong(at, *s.ManagedBy, longestManagedBy))
		}
	}
	c.mode(s, at)
	if s.PodFailurePolicy != nil {
		c.failurePolicy(s, at.Child("podFailurePolicy"))
	}
	switch at := at.Child("successPolicy"); {
	case s.SuccessPolicy == nil:
	case !isIndexed(s):
		c.Invalid(at, *s.SuccessPolicy, "requires indexed completion mode")
	default:
		c.successPolicy(s, at)
	}
	if p := s.PodReplacementPolicy; p != nil && s.PodFailurePolicy != nil {
		validate.OneOf(&c.List, at.Child("podReplacementPolicy"), *p, batchv1.Failed)
	} else if p != nil {
		validate.OneOf(&c.List, at.Child("podReplacementPolicy"), *p, batchv1.Failed, batchv1.TerminatingOrFailed)
	}
	c.Add(core.ValidatePodTemplateSpec(&s.Template, at.Child("template"))...)
	switch at, p := at.Child("template", "spec", "restartPolicy"), s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "": // the first is the default, and may be nobody's wish
		c.Required(at, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		c.Add(field.NotSupported(at, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		c.Invalid(at, p, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))
	}
}

// mode checks the completion mode, and what goes only with one of them.
func (c *check) mode(s *batchv1.JobSpec, at *field.Path) {
	perIndex, failed := at.Child("backoffLimitPerIndex"), at.Child("maxFailedIndexes")
	switch mode := s.CompletionMode; {
	case mode == nil || *mode == batchv1.NonIndexedCompletion:
		if s.BackoffLimitPerIndex != nil {
			c.Invalid(perIndex, *s.BackoffLimitPerIndex, "requires indexed completion mode")
		}
		if s.MaxFailedIndexes != nil {
			c.Invalid(failed, *s.MaxFailedIndexes, "requires indexed completion mode")
		}
		return
	case *mode != batchv1.IndexedCompletion:
		c.Add(field.NotSupported(at.Child("completionMode"), mode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
		return
	}
	if s.Completions == nil {
		c.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion))
	}
	if p := orZero(s.Parallelism); p > mostParallel {
		c.Invalid(at.Child("parallelism"), p, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", mostParallel, batchv1.IndexedCompletion))
	}
	if s.Completions != nil && s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		c.Invalid(failed, *s.MaxFailedIndexes, "must be less than or equal to completions")
	}
	if n := orZero(s.MaxFailedIndexes); n > mostFailedIndexes {
		c.Invalid(failed, n, fmt.Sprintf("must be less than or equal to %d", mostFailedIndexes))
	}
	if orZero(s.Completions) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return
	}
	const bound = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	if s.MaxFailedIndexes == nil {
		c.Required(failed, fmt.Sprintf("must be specified when completions is above %d", manyCompletions))
	}
	if p := orZero(s.Parallelism); p > mostWithMany {
		c.Invalid(at.Child("parallelism"), p, fmt.Sprintf(bound, mostWithMany, manyCompletions))
	}
	if n := orZero(s.MaxFailedIndexes); n > mostFailedOfMany {
		c.Invalid(failed, n, fmt.Sprintf(bound, mostFailedOfMany, manyCompletions))
	}
}
