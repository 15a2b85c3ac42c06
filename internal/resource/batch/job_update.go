package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func jobUpdate(j, old *batchv1.Job) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	s, o := &j.Spec, &old.Spec
	switch at := at.Child("completions"); {
	case !isIndexed(s):
		c.Same(at, s.Completions, o.Completions)
	case s.Completions != nil && !equality.Semantic.DeepEqual(s.Completions, o.Completions) && *s.Completions != orZero(s.Parallelism):
		c.Invalid(at, s.Completions, "can only be modified in tandem with spec.parallelism")
	}
	c.Same(at.Child("selector"), s.Selector, o.Selector)
	if isIdle(old) {
		t := o.Template.DeepCopy()
		takeScheduling(t, &s.Template)
		takeResources(t.Spec.Containers, s.Template.Spec.Containers)
		takeResources(t.Spec.InitContainers, s.Template.Spec.InitContainers)
		c.Same(at.Child("template.spec"), s.Template.Spec, t.Spec)
	} else {
		c.Same(at.Child("template"), s.Template, o.Template)
	}
	c.Same(at.Child("completionMode"), s.CompletionMode, o.CompletionMode)
	c.Same(at.Child("podFailurePolicy"), s.PodFailurePolicy, o.PodFailurePolicy)
	c.Same(at.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, o.BackoffLimitPerIndex)
	c.Same(at.Child("managedBy"), s.ManagedBy, o.ManagedBy)
	c.Same(at.Child("successPolicy"), s.SuccessPolicy, o.SuccessPolicy)
	return c.Errs
}

// isIdle says that a job is suspended and none of its pods can be running: then what its next pods need, and where they may go, can be changed.
func isIdle(j *batchv1.Job) bool {
	return orZero(j.Spec.Suspend) && j.Status.Active == 0 && (j.Status.StartTime == nil || isTrue(&j.Status, batchv1.JobSuspended))
}

// takeScheduling gives a template what another one says about where its pods may go.
func takeScheduling(t, from *corev1.PodTemplateSpec) {
	switch {
	case from.Spec.Affinity != nil:
		if t.Spec.Affinity == nil {
			t.Spec.Affinity = &corev1.Affinity{}
		}
		t.Spec.Affinity.NodeAffinity = from.Spec.Affinity.NodeAffinity
	case t.Spec.Affinity != nil:
		t.Spec.Affinity.NodeAffinity = nil
		if *t.Spec.Affinity == (corev1.Affinity{}) {
			t.Spec.Affinity = nil
		}
	}
	t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates = from.Spec.NodeSelector, from.Spec.Tolerations, from.Spec.SchedulingGates
	t.Annotations, t.Labels = from.Annotations, from.Labels
}

func takeResources(to, from []corev1.Container) {
	if len(to) != len(from) {
		return
	}
	for i := range to {
		if to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
