package resource

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateMeta checks the metadata of an object to be created, whose name has been generated where that was asked for.
func ValidateMeta(kind *Kind, obj Object) field.ErrorList {
	rule := kind.NameRule
	if rule == nil {
		rule = path.ValidatePathSegmentName
	}
	return apivalidation.ValidateObjectMetaAccessor(obj, kind.Namespaced, rule, field.NewPath("metadata"))
}

// ValidateMetaUpdate checks what an update may do to metadata. New must carry a resourceVersion: the caller fills in
// the current one for an update without condition.
func ValidateMetaUpdate(kind *Kind, new, old Object) field.ErrorList {
	return apivalidation.ValidateObjectMetaAccessorUpdate(new, old, field.NewPath("metadata"))
}
