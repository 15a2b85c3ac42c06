// Package ephemeralvolume makes the claims of pods' ephemeral volumes.
//
// It watches Pods and PersistentVolumeClaims; it creates PersistentVolumeClaims, owned by their pods: they go with them.
// Always: a claim of such a name that is not the pod's is left alone, and the pod is told.
package ephemeralvolume

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/storage/ephemeral"

	"sampan.dev/internal/loop"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Pod(key loop.Key) *corev1.Pod
	Claim(key loop.Key) *corev1.PersistentVolumeClaim
}

// API is what this controller writes.
type API interface {
	CreateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does. Its keys are pods.
type Controller struct {
	*loop.Loop
	view   View
	api    API
	events Recorder
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New("ephemeral_volume", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Concerns says whether the pod has volumes that claims are made for.
func Concerns(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// Reconcile makes the claims that one pod lacks.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	pod := c.view.Pod(key)
	if pod == nil || pod.DeletionTimestamp != nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		if err := c.claim(ctx, pod, v); err != nil {
			c.events.Record(pod, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("ephemeral volume %s: %v", v.Name, err))
			return fmt.Errorf("pod %s, ephemeral volume %s: %w", key, v.Name, err)
		}
	}
	return nil
}

func (c *Controller) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	want := Claim(pod, v)
	if have := c.view.Claim(loop.Key{Namespace: want.Namespace, Name: want.Name}); have != nil {
		return ephemeral.VolumeIsForPod(pod, have)
	}
	err := c.api.CreateClaim(ctx, want)
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	return fmt.Errorf("create PVC %s: %w", want.Name, err)
}

// Claim is the claim of an ephemeral volume as it is to be.
func Claim(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	t := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v), Annotations: t.Annotations, Labels: t.Labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: new(true), BlockOwnerDeletion: new(true),
			}},
		},
		Spec: t.Spec,
	}
}
