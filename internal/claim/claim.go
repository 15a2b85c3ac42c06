// Package claim says which volume does for which claim, and what is written on both when they are brought together.
//
// It watches and writes nothing: it is plain functions over PersistentVolumes, PersistentVolumeClaims and the pods that name claims, for the binder, the
// scheduler and whoever asks what a pod uses. Always: a volume is found only for a claim that it is kept for, or that nobody else has a right to; of several
// that do it is the same one each time.
package claim

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"

	"sampan.dev/internal/resource/core"
)

// Annotations by which the binder, the scheduler and provisioners talk to each other. Of the first two the value means nothing.
const (
	Completed    = "pv.kubernetes.io/bind-completed"      // on a claim: it has been bound, and is lost if its volume goes
	ByController = "pv.kubernetes.io/bound-by-controller" // on a claim or a volume: no person has chosen the other
	Provisioned  = "pv.kubernetes.io/provisioned-by"      // on a volume: who has made it, and deletes it
	SelectedNode = "volume.kubernetes.io/selected-node"   // on a claim: where a provisioner is to make its volume

	Provisioner     = "volume.kubernetes.io/storage-provisioner" // on a claim: who is to make its volume
	ProvisionerBeta = "volume.beta.kubernetes.io/storage-provisioner"
)

// NoProvisioner is the provisioner of classes whose volumes people make.
const NoProvisioner = "kubernetes.io/no-provisioner"

// Names are the claims of its namespace that a pod uses, with the volumes that do. The claim of an ephemeral volume has a name made of both.
func Names(pod *corev1.Pod) iter.Seq2[string, *corev1.Volume] {
	return func(yield func(string, *corev1.Volume) bool) {
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; Name(pod, v) != "" && !yield(Name(pod, v), v) {
				return
			}
		}
	}
}

// Name is the claim behind one volume of a pod; empty: there is none.
func Name(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// Uses says whether the pod uses the claim of its namespace that has this name.
func Uses(pod *corev1.Pod, name string) bool {
	for n := range Names(pod) {
		if n == name {
			return true
		}
	}
	return false
}

// IsBound says whether the claim has its volume, and both have been told.
func IsBound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && metav1.HasAnnotation(c.ObjectMeta, Completed)
}

// Has says whether the volume is kept for the claim, or bound to it.
func Has(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	r := v.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name && (r.UID == "" || r.UID == c.UID)
}

// Size is how much a claim asks for, or a volume has, in bytes.
func Size(of corev1.ResourceList) int64 {
	q := of[corev1.ResourceStorage]
	return q.Value()
}

func mode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func attributes(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Allows says whether the volume can be used in all ways that the claim asks for.
func Allows(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	for _, m := range c.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return false
		}
	}
	return true
}

// Objection is why a claim cannot have the volume that it names, in Kubernetes' words; nil: it can.
func Objection(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case Size(v.Spec.Capacity) < Size(c.Spec.Resources.Requests):
		return errors.New("requested PV is too small")
	case core.VolumeClass(v) != core.ClaimClass(c):
		return errors.New("storageClassName does not match")
	case attributes(v.Spec.VolumeAttributesClassName) != attributes(c.Spec.VolumeAttributesClassName):
		return errors.New("volumeAttributesClassName does not match")
	case mode(v.Spec.VolumeMode) != mode(c.Spec.VolumeMode):
		return errors.New("incompatible volumeMode")
	case !Allows(v, c):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// Reaches says whether nodes with these labels can use the volume.
func Reaches(v *corev1.PersistentVolume, node map[string]string) bool {
	a := v.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return true
	}
	s, err := nodeaffinity.NewNodeSelector(a.Required)
	return err == nil && s.Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: node}})
}

// Give makes the volume the claim's. It says whether that changes anything. Who has not been kept for the claim before is marked as chosen by a controller.
func Give(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) (changed bool) {
	if !Has(v, c) && !metav1.HasAnnotation(v.ObjectMeta, ByController) {
		metav1.SetMetaDataAnnotation(&v.ObjectMeta, ByController, "yes")
		changed = true
	}
	if r := v.Spec.ClaimRef; r == nil || r.Namespace != c.Namespace || r.Name != c.Name || r.UID != c.UID {
		v.Spec.ClaimRef = &corev1.ObjectReference{
			Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
		}
		changed = true
	}
	return changed
}

// Waits says whether the claim is bound only once a pod that uses it is to be placed. Class is the claim's; nil: there is none.
func Waits(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}
