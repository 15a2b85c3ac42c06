package persistentvolume

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/resource/core"
)

// Scene is what a claim is decided by.
type Scene struct {
	Class   *storagev1.StorageClass // that the claim names; nil: it names none, or there is none
	Default *storagev1.StorageClass // of claims that name none; nil: there is none
	Volume  *corev1.PersistentVolume
	// Volumes are those that are kept for the claim, and those that nobody has. Volume is the one that the claim names.
	Volumes []*corev1.PersistentVolume
	Pods    []string // that use the claim and have no node yet, in order
}

// ClaimPlan is what one pass would do for a claim.
type ClaimPlan struct {
	Class string                            // to give to a claim without one; nothing else is done then
	Bind  *corev1.PersistentVolume          // to bring together with the claim
	Phase corev1.PersistentVolumeClaimPhase // of a claim that is not bound; empty: it stays
	Maker string                            // who is to make a volume, to be written on the claim
	Event *Event
}

// Event is what to tell.
type Event struct{ Type, Reason, Words string }

func normal(reason, words string) *Event  { return &Event{corev1.EventTypeNormal, reason, words} }
func warning(reason, words string) *Event { return &Event{corev1.EventTypeWarning, reason, words} }

// DecideClaim says what becomes of a claim.
func DecideClaim(c *corev1.PersistentVolumeClaim, s Scene) (ClaimPlan, error) {
	if metav1.HasAnnotation(c.ObjectMeta, claim.Completed) {
		return bound(c, s.Volume), nil
	}
	if c.Spec.VolumeName != "" {
		return named(c, s.Volume)
	}
	waits := claim.Waits(s.Class)
	if v := claim.Best(c, s.Volumes, waits); v != nil {
		return ClaimPlan{Bind: v}, nil
	}
	if core.ClaimClass(c) == "" && c.Spec.StorageClassName == nil && s.Default != nil && !metav1.HasAnnotation(c.ObjectMeta, corev1.BetaStorageClassAnnotation) {
		return ClaimPlan{Class: s.Default.Name}, nil
	}
	p := ClaimPlan{Phase: corev1.ClaimPending}
	switch {
	case waits && !metav1.HasAnnotation(c.ObjectMeta, claim.SelectedNode):
		p.Event = waiting(s.Pods)
	case core.ClaimClass(c) != "":
		p.Maker, p.Event = made(core.ClaimClass(c), s.Class)
	default:
		p.Event = normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return p, nil
}

// waiting tells for whom a claim waits that is bound only once a pod is placed.
func waiting(pods []string) *Event {
	switch len(pods) {
	case 0:
		return normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return normal("WaitForPodScheduled", fmt.Sprintf("waiting for pod %s to be scheduled", pods[0]))
	}
	return normal("WaitForPodScheduled", fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(pods, ",")))
}

// made tells who has to make the volume. Nobody here does: what is in upstream's own tree makes none any more either, and all others are programs of their own.
func made(name string, class *storagev1.StorageClass) (maker string, e *Event) {
	switch {
	case class == nil:
		return "", warning("ProvisioningFailed", fmt.Sprintf("storageclass.storage.k8s.io %q not found", name))
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		return "", warning("ProvisioningFailed", "no volume plugin matched name: "+class.Provisioner)
	}
	return class.Provisioner, normal("ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner))
}

// named is about a claim that asks for one volume and has not been bound.
func named(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (ClaimPlan, error) {
	p := ClaimPlan{Phase: corev1.ClaimPending}
	switch {
	case v == nil: // it may come
	case v.Spec.ClaimRef == nil:
		if err := claim.Objection(v, c); err != nil {
			p.Event = warning("VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, err))
			return p, nil
		}
		return ClaimPlan{Bind: v}, nil
	case claim.Has(v, c):
		return ClaimPlan{Bind: v}, nil
	case metav1.HasAnnotation(c.ObjectMeta, claim.ByController): // somebody has removed the other annotation
		r := v.Spec.ClaimRef
		return p, fmt.Errorf("invalid binding of claim %q to volume %q: volume already claimed by %q", c.Namespace+"/"+c.Name, v.Name, r.Namespace+"/"+r.Name)
	default:
		p.Event = warning("FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
	}
	return p, nil
}

// bound is about a claim that has been bound: a volume that is gone cannot be replaced, since what was on it is gone too.
func bound(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) ClaimPlan {
	lost := func(reason, words string) ClaimPlan {
		p := ClaimPlan{Phase: corev1.ClaimLost}
		if c.Status.Phase != corev1.ClaimLost {
			p.Event = warning(reason, words)
		}
		return p
	}
	switch {
	case c.Spec.VolumeName == "":
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case v == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == c.UID:
		return ClaimPlan{Bind: v}
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// VolumePlan is what one pass would do for a volume.
type VolumePlan struct {
	Phase   corev1.PersistentVolumePhase // empty: it stays
	Message string
	Event   *Event // told with the new phase
	Free    bool   // take the claim away, or only its UID if a person has put it there
	Claim   bool   // it is its claim's turn
}

// DecideVolume says what becomes of a volume. C is the claim of the name that it is kept for; nil: there is none.
func DecideVolume(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) VolumePlan {
	r := v.Spec.ClaimRef
	switch {
	case r == nil, r.UID == "": // of one that is kept for a claim, the claim takes care
		return VolumePlan{Phase: corev1.VolumeAvailable, Claim: r != nil}
	case c == nil || c.UID != r.UID:
		return reclaim(v)
	case c.Spec.VolumeName == "":
		return VolumePlan{Claim: true}
	case c.Spec.VolumeName == v.Name:
		return VolumePlan{Phase: corev1.VolumeBound}
	case metav1.HasAnnotation(v.ObjectMeta, claim.Provisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return reclaim(v) // made for a claim that has taken another
	}
	return VolumePlan{Free: true, Phase: corev1.VolumeAvailable}
}

// reclaim is about a volume whose claim is gone. What cannot be deleted here is kept, and says so; a failure stays to be seen.
func reclaim(v *corev1.PersistentVolume) VolumePlan {
	p := VolumePlan{Phase: corev1.VolumeReleased}
	fail := func(reason, words string) VolumePlan {
		if v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed { // it has been released before: now the next step
			p = VolumePlan{Phase: corev1.VolumeFailed, Message: words, Event: warning(reason, words)}
		}
		return p
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		if err := deletable(v); err != nil {
			return fail("VolumeFailedDelete", err.Error())
		}
	case corev1.PersistentVolumeReclaimRecycle:
		return fail("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	default:
	}
	if v.Status.Phase == corev1.VolumeFailed {
		p.Phase = "" // nobody overwrites it
	}
	return p
}

// deletable says why nobody deletes what is on the volume. Of one that a provisioner has made the provisioner takes care, once it is released.
func deletable(v *corev1.PersistentVolume) error {
	if by := v.Annotations[claim.Provisioned]; by != "" && !strings.HasPrefix(by, "kubernetes.io/") {
		return nil
	}
	if v.Spec.CSI != nil {
		return nil // likewise
	}
	err := errors.New("no deletable volume plugin matched")
	if h := v.Spec.HostPath; h != nil && !strings.HasPrefix(h.Path, "/tmp/") {
		return fmt.Errorf("host_path deleter only supports /tmp/.+ but received provided %s", h.Path)
	}
	return fmt.Errorf("error getting deleter volume plugin for volume %q: %w", v.Name, err)
}
