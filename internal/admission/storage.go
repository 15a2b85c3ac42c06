package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/storage"
)

// Storage gives a claim that does not say of which class it is the default one, lets only those grow whose class allows it, and puts
// finalizers on claims and volumes that keep them while they are used.
type Storage struct {
	classes *resource.Kind
	cache   state
}

func newStorage(table *resource.Table, c *cache.Cache) Storage {
	k, _ := table.ByKind(storagev1.SchemeGroupVersion.WithKind("StorageClass"))
	return Storage{k, c}
}

// The finalizers that keep claims while pods use them, and volumes while claims do.
const (
	ClaimProtection  = "kubernetes.io/pvc-protection"
	VolumeProtection = "kubernetes.io/pv-protection"
)

// Admit implements Step.
func (s Storage) Admit(_ context.Context, a *Attributes) error {
	if a.Sub != "" || s.classes == nil {
		return nil
	}
	switch o := a.Object.(type) {
	case *corev1.PersistentVolumeClaim:
		if a.Operation == Update {
			return s.resize(a, o, a.Old.(*corev1.PersistentVolumeClaim))
		}
		s.classify(o)
		protect(o, ClaimProtection)
	case *corev1.PersistentVolume:
		if a.Operation == Create {
			protect(o, VolumeProtection)
		}
	}
	return nil
}

func protect(o resource.Object, finalizer string) {
	if !slices.Contains(o.GetFinalizers(), finalizer) {
		o.SetFinalizers(append(o.GetFinalizers(), finalizer))
	}
}

// classify names the default class. An empty name is a name: that claim wants none.
func (s Storage) classify(c *corev1.PersistentVolumeClaim) {
	if _, named := c.Annotations[corev1.BetaStorageClassAnnotation]; named || c.Spec.StorageClassName != nil {
		return
	}
	var classes []*storagev1.StorageClass
	for o := range s.cache.Snapshot().List(s.classes, cache.Selection{}) {
		classes = append(classes, cache.Typed[*storagev1.StorageClass](o))
	}
	if class := storage.Default(classes); class != nil {
		c.Spec.StorageClassName = new(class.Name)
	}
}

func (s Storage) resize(a *Attributes, c, old *corev1.PersistentVolumeClaim) error {
	size, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(was) <= 0 {
		return nil
	}
	forbid := func(why string) error {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, errors.New(why))
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbid("Only bound persistent volume claims can be expanded")
	}
	name := core.ClaimClass(c)
	if o := s.cache.Snapshot().Get(s.classes, "", name); name != "" && name == core.ClaimClass(old) && o != nil {
		if allow := cache.Typed[*storagev1.StorageClass](o).AllowVolumeExpansion; allow != nil && *allow {
			return nil
		}
	}
	return forbid("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}
