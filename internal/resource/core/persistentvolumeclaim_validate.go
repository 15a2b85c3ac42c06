package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// ValidateClaimSpec checks what a claim asks for, be it a claim's own spec or the template of one.
func ValidateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	c := &podCheck{}
	c.someModes(s, at)
	c.Add(metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	c.modes(s.AccessModes, at.Child("accessModes"))
	c.size(s, at)
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		c.Subdomain(at.Child("storageClassName"), *s.StorageClassName)
	}
	if s.VolumeMode != nil {
		validate.OneOf(&c.List, at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	c.dataSource(s, at)
	if name := s.VolumeAttributesClassName; name != nil && *name != "" {
		c.Subdomain(at.Child("volumeAttributesClassName"), *name)
	}
	return c.Errs
}

// ValidateClaimLeast checks the least that a claim needs: modes and a size.
func ValidateClaimLeast(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	c := &podCheck{}
	c.someModes(s, at)
	for _, mode := range s.AccessModes {
		validate.OneOf(&c.List, at.Child("accessModes"), mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
	}
	c.size(s, at)
	return c.Errs
}

func (c *podCheck) someModes(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	if len(s.AccessModes) == 0 {
		c.Required(at.Child("accessModes"), "at least 1 access mode is required")
	}
}

func (c *podCheck) size(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	at = at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		c.Required(at, "")
	} else if q.Sign() <= 0 {
		c.Invalid(at, q.String(), validate.NotPositive)
	}
}

func (c *podCheck) dataSource(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	check := func(at *field.Path, group *string, kind, name string) {
		c.must(at, "name", name)
		c.must(at, "kind", kind)
		g := ""
		if group != nil {
			g = *group
		}
		if g == "" && kind != "PersistentVolumeClaim" {
			c.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
		if g != "" {
			c.Subdomain(at.Child("apiGroup"), g)
		}
	}
	d, r := s.DataSource, s.DataSourceRef
	if d != nil {
		check(at.Child("dataSource"), d.APIGroup, d.Kind, d.Name)
	}
	if r == nil {
		return
	}
	ref := at.Child("dataSourceRef")
	check(ref, r.APIGroup, r.Kind, r.Name)
	switch {
	case r.Namespace != nil && *r.Namespace != "":
		c.Label(ref.Child("namespace"), *r.Namespace)
		if d != nil {
			c.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
		}
	case d != nil && !equality.Semantic.DeepEqual(corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}, *r):
		c.Invalid(at, at.Child("dataSource"), "must match dataSourceRef")
	}
}

// claimUpdate lets a claim be bound once, get a class if it has none, and ask for more once it is bound.
func claimUpdate(new, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var l validate.List
	n, o := new.Spec.DeepCopy(), old.Spec.DeepCopy()
	if o.VolumeName == "" {
		o.VolumeName = n.VolumeName
	}
	const beta = corev1.BetaStorageClassAnnotation
	oldClass, had := old.Annotations[beta]
	if moved := had && o.StorageClassName == nil && n.StorageClassName != nil && *n.StorageClassName == oldClass && !has(new.Annotations, beta); moved {
		n.StorageClassName = nil // from the annotation to the field
	} else {
		if new.Annotations[beta] != oldClass {
			l.Invalid(root("metadata", "annotations").Key(beta), new.Annotations[beta], validate.Immutable)
		}
		if !had && o.StorageClassName == nil && n.StorageClassName != nil {
			n.StorageClassName = nil // a default class that came later
		}
	}
	if new.Status.Phase == corev1.ClaimBound {
		if n.Resources.Requests != nil {
			if q, ok := o.Resources.Requests[corev1.ResourceStorage]; ok {
				n.Resources.Requests[corev1.ResourceStorage] = q
			}
		}
		if n.VolumeAttributesClassName != nil {
			n.VolumeAttributesClassName = o.VolumeAttributesClassName
		}
	}
	if !equality.Semantic.DeepEqual(n, o) {
		l.Forbidden(root("spec"), fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(*o, *n)))
	}
	size, was, there := new.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(was) < 0 && size.Cmp(there) <= 0 {
		l.Forbidden(root("spec", "resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	l.Same(root("volumeMode"), new.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.VolumeAttributesClassName != nil && new.Spec.VolumeAttributesClassName == nil {
		l.Forbidden(root("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return l.Errs
}

func has(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

func claimStatus(s *corev1.PersistentVolumeClaimStatus) field.ErrorList {
	var l validate.List
	for _, of := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", s.Capacity}, {"allocatedResources", s.AllocatedResources}} {
		at := root("status", of.name)
		for name, q := range validate.InOrder(of.list) {
			l.Quantity(at.Key(string(name)), q, false)
		}
	}
	return l.Errs
}
