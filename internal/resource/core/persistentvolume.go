package core

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// PersistentVolume is a piece of storage that outlives pods.
func PersistentVolume() *resource.Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("PersistentVolume"), Plural: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
		Prefix:  "/registry/persistentvolumes/",
		New:     func() resource.Object { return &corev1.PersistentVolume{} },
		NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },

		Default: func(o resource.Object) { defaultPersistentVolume(o.(*corev1.PersistentVolume)) },
		PrepareCreate: func(o resource.Object) {
			o.(*corev1.PersistentVolume).Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: new(metav1.Now())}
		},
		PrepareUpdate: func(new, old resource.Object) {
			new.(*corev1.PersistentVolume).Status = old.(*corev1.PersistentVolume).Status
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return persistentVolume(o.(*corev1.PersistentVolume)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return persistentVolumeUpdate(new.(*corev1.PersistentVolume), old.(*corev1.PersistentVolume))
		},
		Warnings: func(o resource.Object) []string { return persistentVolumeWarnings(o.(*corev1.PersistentVolume)) },
		Status: &resource.Status{PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*corev1.PersistentVolume), old.(*corev1.PersistentVolume)
			n.Spec = o.Spec
			transition(&n.Status, &o.Status)
		}},

		Fields:     resource.MetaFields,
		FieldNames: []string{"metadata.name"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Capacity", "string", spec["capacity"], 0),
			column("Access Modes", "string", spec["accessModes"], 0),
			column("Reclaim Policy", "string", spec["persistentVolumeReclaimPolicy"], 0),
			column("Status", "string", status["phase"], 0),
			column("Claim", "string", spec["claimRef"], 0),
			column("StorageClass", "string", "StorageClass of the pv", 0),
			column("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv", 0),
			column("Reason", "string", status["reason"], 0),
			resource.AgeColumn(),
			column("VolumeMode", "string", spec["volumeMode"], 1),
		},
		Row: func(o resource.Object, now time.Time) []any {
			v := o.(*corev1.PersistentVolume)
			claim := ""
			if r := v.Spec.ClaimRef; r != nil {
				claim = r.Namespace + "/" + r.Name
			}
			phase := string(v.Status.Phase)
			if v.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			capacity := v.Spec.Capacity[corev1.ResourceStorage]
			return []any{
				v.Name, capacity.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, VolumeClass(v),
				orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, resource.Age(v, now), orUnset(v.Spec.VolumeMode),
			}
		},
	}
}

// transition notes when the phase changed, unless the writer did.
func transition(new, old *corev1.PersistentVolumeStatus) {
	if new.LastPhaseTransitionTime == nil {
		new.LastPhaseTransitionTime = old.LastPhaseTransitionTime
	}
	if new.Phase != old.Phase && (new.LastPhaseTransitionTime == nil || new.LastPhaseTransitionTime.Equal(old.LastPhaseTransitionTime)) {
		t := metav1.Now()
		new.LastPhaseTransitionTime = &t
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	orDefault(&v.Status.Phase, corev1.VolumePending)
	orDefault(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	orPointer(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	s := &v.Spec.PersistentVolumeSource
	if s.HostPath != nil {
		orPointer(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.ISCSI != nil {
		orDefault(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		orDefault(&s.RBD.RBDPool, "rbd")
		orDefault(&s.RBD.RadosUser, "admin")
		orDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.AzureDisk != nil {
		orPointer(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		orPointer(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		orPointer(&s.AzureDisk.FSType, "ext4")
		orPointer(&s.AzureDisk.ReadOnly, false)
	}
	if s.ScaleIO != nil {
		orDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		orDefault(&s.ScaleIO.FSType, "xfs")
	}
}

// VolumeClass is the storage class of a volume; "" if it has none. The annotation, which is older than the field, counts first.
func VolumeClass(v *corev1.PersistentVolume) string {
	if class, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return v.Spec.StorageClassName
}

// ClaimClass is the storage class that a claim asks for; "" if it asks for none or does not say.
func ClaimClass(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

// accessModes shows each mode once, in a fixed order, as `kubectl get` does.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, mode := range modes {
			if mode == m.mode {
				short = append(short, m.name)
				break
			}
		}
	}
	return strings.Join(short, ",")
}

func orUnset[T ~string](s *T) string {
	if s == nil {
		return "<unset>"
	}
	return string(*s)
}

func persistentVolumeWarnings(v *corev1.PersistentVolume) (warnings []string) {
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warnings = append(warnings, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if _, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		warnings = append(warnings, betaClassWarning)
	}
	if q, ok := v.Spec.Capacity[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
		warnings = append(warnings, "spec.capacity[storage]: fractional byte value \""+q.String()+"\" is invalid, must be an integer")
	}
	return warnings
}

const betaClassWarning = `metadata.annotations[` + corev1.BetaStorageClassAnnotation + `]: deprecated since v1.8; use "storageClassName" attribute instead`
