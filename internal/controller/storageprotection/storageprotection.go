// Package storageprotection keeps claims that pods use, and volumes that claims have, from being deleted.
//
// It watches PersistentVolumeClaims, PersistentVolumes and Pods; it writes the finalizers kubernetes.io/pvc-protection and kubernetes.io/pv-protection. Admission
// puts them on what is created. Always: a claim keeps its finalizer as long as a pod that has a node names it; a volume, as long as it is bound.
package storageprotection

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// The finalizers.
const (
	ClaimFinalizer  = "kubernetes.io/pvc-protection"
	VolumeFinalizer = "kubernetes.io/pv-protection"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Claim(key loop.Key) *corev1.PersistentVolumeClaim
	Volume(name string) *corev1.PersistentVolume
	Users(claim loop.Key) []*corev1.Pod // the pods that name the claim
}

// API is what this controller writes: exactly that version of the object, or Conflict.
type API interface {
	UpdateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error)
	UpdateVolume(ctx context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) (*corev1.PersistentVolume, error)
}

// Controller runs as its Loop does. A key with a namespace is a claim's, one without a volume's.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("storage-protection", c.Reconcile, loop.Options{Workers: 2, Metrics: metrics, Log: log})
	return c
}

// Reconcile puts the finalizer on one claim or volume, or takes it away.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) (err error) {
	if key.Namespace == "" {
		v := c.view.Volume(key.Name)
		if v == nil {
			return nil
		}
		if change := Decide(v, VolumeFinalizer, v.Status.Phase == corev1.VolumeBound); change != nil {
			_, err = c.api.UpdateVolume(ctx, v, func(v *corev1.PersistentVolume) { change(v) })
		}
	} else {
		of := c.view.Claim(key)
		if of == nil {
			return nil
		}
		held := slices.ContainsFunc(c.view.Users(key), func(pod *corev1.Pod) bool { return Holds(pod, of) })
		if change := Decide(of, ClaimFinalizer, held); change != nil {
			_, err = c.api.UpdateClaim(ctx, of, func(of *corev1.PersistentVolumeClaim) { change(of) })
		}
	}
	switch {
	case apierrors.IsConflict(err):
		c.Mark(key)
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("change finalizers of %s: %w", key, err)
	}
	return nil
}

// Holds says whether a pod that names a claim keeps it. A pod without a node does not: once the claim is being deleted it gets none. The claim of an ephemeral
// volume goes with its pod, so it waits only until the node is done with that.
func Holds(pod *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	done := pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
	for name, v := range claim.Names(pod) {
		if name == c.Name && (v.Ephemeral == nil || !done && ephemeral.VolumeIsForPod(pod, c) == nil) {
			return true
		}
	}
	return false
}

// Decide is the change that an object's finalizers need; nil: none.
func Decide(o metav1.Object, finalizer string, used bool) func(metav1.Object) {
	has := slices.Contains(o.GetFinalizers(), finalizer)
	switch deleting := o.GetDeletionTimestamp() != nil; {
	case deleting && has && !used:
		return func(o metav1.Object) {
			o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == finalizer }))
		}
	case !deleting && !has:
		return func(o metav1.Object) { o.SetFinalizers(append(o.GetFinalizers(), finalizer)) }
	}
	return nil
}
