package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

// Content is what there is of one kind in a namespace.
type Content struct {
	Kind       *resource.Kind
	Count      int
	Staying    int            // of Count: nobody has asked them to go
	Finalizers map[string]int // how many objects each holds
}

// Next are the kinds of which objects must be asked to go now: first pods, so that nothing they use goes before them,
// and all others once no pod is left.
func Next(contents []Content) []*resource.Kind {
	var kinds []*resource.Kind
	for _, c := range contents {
		if pods(c.Kind) {
			if c.Staying > 0 {
				return []*resource.Kind{c.Kind}
			}
			return nil
		}
		if c.Staying > 0 && c.Kind.Serves("delete") {
			kinds = append(kinds, c.Kind)
		}
	}
	return kinds
}

func pods(k *resource.Kind) bool { return k.Group == "" && k.Plural == "pods" }

// Conditions say what is left and what failed, in Kubernetes' words. There is one of each type, in the order in which
// Kubernetes lists them.
func Conditions(left []Content, failure error) []corev1.NamespaceCondition {
	conditions := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: corev1.NamespaceContentRemaining, Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: corev1.NamespaceFinalizersRemaining, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
	}
	for i := range conditions {
		conditions[i].Status = corev1.ConditionFalse
	}
	total, held := 0, map[string]int{}
	var kinds, finalizers []string
	for _, c := range left {
		total += c.Count
		kinds = append(kinds, fmt.Sprintf("%s.%s has %d resource instances", c.Kind.Plural, c.Kind.Group, c.Count))
		for name, count := range c.Finalizers {
			held[name] += count
		}
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", name, held[name]))
	}
	slices.Sort(kinds)
	set := func(i int, reason, message string) {
		conditions[i].Status, conditions[i].Reason, conditions[i].Message = corev1.ConditionTrue, reason, message
	}
	if failure != nil {
		set(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", total, failure))
	}
	if len(kinds) > 0 {
		set(3, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(kinds, ", "))
	}
	if len(finalizers) > 0 {
		set(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "))
	}
	return conditions
}

// news is how much two sets of conditions differ.
type news int

const (
	same   news = iota
	counts      // messages alone: usually it is their counts
	turned      // a condition has come or has changed its status or reason
)

// Merge puts the new conditions in the place of old ones of their type, and keeps the time of those that have not turned.
func Merge(old, new []corev1.NamespaceCondition, now metav1.Time) ([]corev1.NamespaceCondition, news) {
	merged, most := slices.Clone(old), same
	for _, c := range new {
		i := slices.IndexFunc(merged, func(o corev1.NamespaceCondition) bool { return o.Type == c.Type })
		if i < 0 {
			c.LastTransitionTime = now
			merged, most = append(merged, c), turned
			continue
		}
		o := merged[i]
		switch {
		case o.Status != c.Status || o.Reason != c.Reason:
			most = turned
		case o.Message != c.Message:
			most = max(most, counts)
		default:
			continue
		}
		c.LastTransitionTime = o.LastTransitionTime
		if o.Status != c.Status {
			c.LastTransitionTime = now
		}
		merged[i] = c
	}
	return merged, most
}
