package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// PersistentVolumeClaim asks for storage, which pods use by the claim's name.
func PersistentVolumeClaim() *resource.Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("PersistentVolumeClaim"), Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
		Namespaced: true, Prefix: "/registry/persistentvolumeclaims/",
		New:     func() resource.Object { return &corev1.PersistentVolumeClaim{} },
		NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },

		Default: func(o resource.Object) {
			c := o.(*corev1.PersistentVolumeClaim)
			orDefault(&c.Status.Phase, corev1.ClaimPending)
			DefaultClaimSpec(&c.Spec)
		},
		PrepareCreate: func(o resource.Object) {
			c := o.(*corev1.PersistentVolumeClaim)
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			normalSource(&c.Spec, nil)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*corev1.PersistentVolumeClaim), old.(*corev1.PersistentVolumeClaim)
			n.Status = o.Status
			normalSource(&n.Spec, &o.Spec)
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList {
			return ValidateClaimSpec(&o.(*corev1.PersistentVolumeClaim).Spec, root("spec"))
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return claimUpdate(new.(*corev1.PersistentVolumeClaim), old.(*corev1.PersistentVolumeClaim))
		},
		Warnings: func(o resource.Object) []string { return claimWarnings(o.(*corev1.PersistentVolumeClaim)) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				new.(*corev1.PersistentVolumeClaim).Spec = old.(*corev1.PersistentVolumeClaim).Spec
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return claimStatus(&new.(*corev1.PersistentVolumeClaim).Status)
			},
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Status", "string", status["phase"], 0),
			column("Volume", "string", spec["volumeName"], 0),
			column("Capacity", "string", status["capacity"], 0),
			column("Access Modes", "string", status["accessModes"], 0),
			column("StorageClass", "string", "StorageClass of the pvc", 0),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc", 0),
			resource.AgeColumn(),
			column("VolumeMode", "string", spec["volumeMode"], 1),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*corev1.PersistentVolumeClaim)
			phase := string(c.Status.Phase)
			if c.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			capacity, modes := "", ""
			if c.Spec.VolumeName != "" {
				q := c.Status.Capacity[corev1.ResourceStorage]
				capacity, modes = q.String(), accessModes(c.Status.AccessModes)
			}
			return []any{
				c.Name, phase, c.Spec.VolumeName, capacity, modes, ClaimClass(c), orUnset(c.Spec.VolumeAttributesClassName), resource.Age(c, now), orUnset(c.Spec.VolumeMode),
			}
		},
	}
}

// DefaultClaimSpec fills in what a claim, or the template of one, leaves out.
func DefaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	orPointer(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
}

// normalSource keeps the two fields that name where the content comes from the same. Sources in other namespaces are not served.
func normalSource(s, old *corev1.PersistentVolumeClaimSpec) {
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && (old == nil || old.DataSourceRef == nil || old.DataSourceRef.Namespace == nil) {
		local := *r
		local.Namespace = nil
		s.DataSourceRef = &local
	}
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && s.DataSourceRef.Namespace == nil:
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}

func claimWarnings(c *corev1.PersistentVolumeClaim) (warnings []string) {
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		warnings = append(warnings, betaClassWarning)
	}
	for _, of := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", c.Spec.Resources.Requests}, {"limits", c.Spec.Resources.Limits}} {
		if q, ok := of.list[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			warnings = append(warnings, "spec.resources."+of.name+"[storage]: fractional byte value \""+q.String()+"\" is invalid, must be an integer")
		}
	}
	return warnings
}
