package resource

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// plainFinalizers may do without a domain.
var plainFinalizers = []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}

// ValidateMeta checks the metadata of an object to be created, whose name has been generated where that was asked for.
func ValidateMeta(kind *Kind, obj Object) field.ErrorList {
	rule := kind.NameRule
	if rule == nil {
		rule = pathSegment
	}
	at := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(obj, kind.Namespaced, rule, at)
	return append(errs, finalizers(obj, at)...)
}

// pathSegment accepts what fits between two slashes of a URL.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// ValidateMetaUpdate checks what an update may do to metadata. New must carry a resourceVersion: the caller fills in
// the current one for an update without condition. What a client left out that it may not change (uid, creation and
// deletion time) the caller fills in too.
func ValidateMetaUpdate(_ *Kind, new, old Object) field.ErrorList {
	if sameMeta(new, old) {
		return nil
	}
	at := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(new, old, at)
	return append(errs, finalizers(new, at)...)
}

// sameMeta says that an update, as most do, changes nothing of the metadata that was valid before. Looking at all of it again is what a renewed lease would cost most.
func sameMeta(new, old Object) bool {
	began, begun := new.GetCreationTimestamp(), old.GetCreationTimestamp()
	return new.GetName() == old.GetName() && new.GetNamespace() == old.GetNamespace() && new.GetUID() == old.GetUID() && new.GetGenerateName() == old.GetGenerateName() &&
		began.Equal(&begun) && new.GetDeletionTimestamp().Equal(old.GetDeletionTimestamp()) && same(new.GetDeletionGracePeriodSeconds(), old.GetDeletionGracePeriodSeconds()) &&
		new.GetGeneration() >= old.GetGeneration() && old.GetGeneration() >= 0 && new.GetResourceVersion() != "" && len(new.GetManagedFields()) == 0 &&
		maps.Equal(new.GetLabels(), old.GetLabels()) && maps.Equal(new.GetAnnotations(), old.GetAnnotations()) && slices.Equal(new.GetFinalizers(), old.GetFinalizers()) &&
		slices.EqualFunc(new.GetOwnerReferences(), old.GetOwnerReferences(), func(a, b metav1.OwnerReference) bool {
			return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID && same(a.Controller, b.Controller) && same(a.BlockOwnerDeletion, b.BlockOwnerDeletion)
		})
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

func finalizers(obj Object, at *field.Path) (errs field.ErrorList) {
	for i, name := range obj.GetFinalizers() {
		if err := PlainFinalizer(name, at.Child("finalizers").Index(i)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// PlainFinalizer refuses a finalizer without a domain, except the few that Kubernetes itself has.
func PlainFinalizer(name string, at *field.Path) *field.Error {
	if strings.Contains(name, "/") || slices.Contains(plainFinalizers, name) {
		return nil
	}
	return field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")
}
