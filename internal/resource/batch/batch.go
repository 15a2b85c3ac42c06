// Package batch is the kinds of the batch group, one file a kind: work that ends, and work that begins by the clock.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and columns
// have upstream's words; a pod template is defaulted and checked as pods are.
package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of batch/v1, in the order discovery shows them.
func Kinds() []*resource.Kind { return []*resource.Kind{CronJob(), Job()} }

// check collects what is wrong with a kind of this group.
type check struct{ validate.List }

// count demands a number that is not negative, where there is one.
func count[N int32 | int64](c *check, n *N, at *field.Path) {
	if n != nil {
		c.NonNegative(at, int64(*n))
	}
}

func gvk(kind string) schema.GroupVersionKind { return batchv1.SchemeGroupVersion.WithKind(kind) }

// warnings tells of names that make bad names of hosts, and of what is odd in the spec of a job.
func warnings(o resource.Object, s *batchv1.JobSpec, at *field.Path) (all []string) {
	if wrong := validation.IsDNS1123Label(o.GetName()); resource.IsNew(o) && len(wrong) > 0 {
		all = append(all, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", wrong))
	}
	if isIndexed(s) && orZero(s.Completions) > manyCompletions && orZero(s.Parallelism) > mostWithMany {
		all = append(all, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail", at))
	}
	return append(all, core.TemplateWarnings(&s.Template, at.Child("template"))...)
}

func isIndexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func isTrue(s *batchv1.JobStatus, kind batchv1.JobConditionType) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind && s.Conditions[i].Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
