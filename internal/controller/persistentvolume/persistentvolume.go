// Package persistentvolume binds claims to volumes, and takes volumes back whose claims are gone.
//
// It watches PersistentVolumes, PersistentVolumeClaims and StorageClasses, and reads which pods use a claim; it writes the volumes' claimRef and phase, and the
// claims' volumeName, class and status. Volumes are made and deleted by people, or by provisioners that run as programs of their own.
// Always: a volume is bound to one claim and a claim to one volume; the volume is written first, onto the very version that was seen, so that no claim takes what
// another has got; a claim whose volume is gone never gets another.
package persistentvolume

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Volume(name string) *corev1.PersistentVolume
	Claim(key loop.Key) *corev1.PersistentVolumeClaim
	// Scene is what the claim is decided by.
	Scene(c *corev1.PersistentVolumeClaim) Scene
}

// API is what this controller writes: exactly that version of the object, or Conflict. It returns what is there then.
type API interface {
	UpdateVolume(ctx context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) (*corev1.PersistentVolume, error)
	SetVolumeStatus(ctx context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolumeStatus)) (*corev1.PersistentVolume, error)
	UpdateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error)
	SetClaimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaimStatus)) (*corev1.PersistentVolumeClaim, error)
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does. A key with a namespace is a claim's, one without a volume's. Of workers that choose one volume for two claims the second to write
// it finds that it has changed, and looks for another.
type Controller struct {
	*loop.Loop
	view   View
	api    API
	events Recorder
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New("persistentvolume-binder", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings one claim or volume a step closer to where it belongs.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	var err error
	if key.Namespace == "" {
		err = c.volume(ctx, key)
	} else {
		err = c.claim(ctx, key)
	}
	switch {
	case apierrors.IsConflict(err):
		c.Mark(key) // it has changed meanwhile
		return nil
	case apierrors.IsNotFound(err):
		return nil
	}
	return err
}

func (c *Controller) claim(ctx context.Context, key loop.Key) error {
	obj := c.view.Claim(key)
	if obj == nil {
		return nil // its volume is marked by who has seen it go
	}
	plan, err := DecideClaim(obj, c.view.Scene(obj))
	if err != nil {
		return err
	}
	switch {
	case plan.Class != "":
		_, err := c.api.UpdateClaim(ctx, obj, func(o *corev1.PersistentVolumeClaim) { o.Spec.StorageClassName = &plan.Class })
		return wrap("set class of claim", key, err)
	case plan.Bind != nil:
		return c.bind(ctx, plan.Bind, obj)
	}
	if plan.Maker != "" && (obj.Annotations[claim.Provisioner] != plan.Maker || obj.Annotations[claim.ProvisionerBeta] != plan.Maker) {
		if obj, err = c.api.UpdateClaim(ctx, obj, func(o *corev1.PersistentVolumeClaim) {
			metav1.SetMetaDataAnnotation(&o.ObjectMeta, claim.Provisioner, plan.Maker)
			metav1.SetMetaDataAnnotation(&o.ObjectMeta, claim.ProvisionerBeta, plan.Maker)
		}); err != nil {
			return wrap("name provisioner of claim", key, err)
		}
	}
	if plan.Event != nil {
		c.events.Record(obj, plan.Event.Type, plan.Event.Reason, plan.Event.Words)
	}
	return c.unbound(ctx, obj, plan.Phase)
}

// unbound writes the status of a claim that has no volume.
func (c *Controller) unbound(ctx context.Context, obj *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase) error {
	if s := &obj.Status; s.Phase == phase && s.AccessModes == nil && s.Capacity == nil {
		return nil
	}
	_, err := c.api.SetClaimStatus(ctx, obj, func(s *corev1.PersistentVolumeClaimStatus) { s.Phase, s.AccessModes, s.Capacity = phase, nil, nil })
	return wrap("set status of claim", loop.Key{Namespace: obj.Namespace, Name: obj.Name}, err)
}

// bind brings a volume and a claim together in four writes, each only where it is missing: whoever is stopped in the midst of it goes on where it was.
func (c *Controller) bind(ctx context.Context, v *corev1.PersistentVolume, obj *corev1.PersistentVolumeClaim) error {
	key, name, err := loop.Key{Namespace: obj.Namespace, Name: obj.Name}, v.Name, error(nil)
	if claim.Give(v.DeepCopy(), obj) {
		if v, err = c.api.UpdateVolume(ctx, v, func(v *corev1.PersistentVolume) { claim.Give(v, obj) }); err != nil {
			return wrap("bind volume "+name+" to claim", key, err)
		}
	}
	if v, err = c.phase(ctx, v, corev1.VolumeBound, ""); err != nil {
		return err
	}
	take := func(o *corev1.PersistentVolumeClaim) {
		if o.Spec.VolumeName != v.Name {
			o.Spec.VolumeName = v.Name
			metav1.SetMetaDataAnnotation(&o.ObjectMeta, claim.ByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, claim.Completed, "yes")
	}
	if obj.Spec.VolumeName != v.Name || !metav1.HasAnnotation(obj.ObjectMeta, claim.Completed) {
		if obj, err = c.api.UpdateClaim(ctx, obj, take); err != nil {
			return wrap("bind claim", key, err)
		}
	}
	had := obj.Status.Capacity[corev1.ResourceStorage]
	if s := &obj.Status; s.Phase == corev1.ClaimBound && equality.Semantic.DeepEqual(s.AccessModes, v.Spec.AccessModes) && had.Cmp(v.Spec.Capacity[corev1.ResourceStorage]) == 0 {
		return nil
	}
	_, err = c.api.SetClaimStatus(ctx, obj, func(s *corev1.PersistentVolumeClaimStatus) {
		s.Phase, s.AccessModes, s.Capacity = corev1.ClaimBound, v.Spec.AccessModes, v.Spec.Capacity
		s.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	})
	return wrap("set status of claim", key, err)
}

func (c *Controller) volume(ctx context.Context, key loop.Key) error {
	v := c.view.Volume(key.Name)
	if v == nil {
		return nil // likewise its claim
	}
	var owner *corev1.PersistentVolumeClaim
	of := loop.Key{}
	if r := v.Spec.ClaimRef; r != nil {
		of = loop.Key{Namespace: r.Namespace, Name: r.Name}
		owner = c.view.Claim(of)
	}
	plan, err := DecideVolume(v, owner), error(nil)
	if plan.Claim && owner != nil {
		c.Mark(of)
	}
	if plan.Free {
		if v, err = c.api.UpdateVolume(ctx, v, free); err != nil {
			return wrap("take back volume", key, err)
		}
	}
	was := v.Status.Phase
	if plan.Phase == "" || plan.Phase == was {
		return nil
	}
	if v, err = c.phase(ctx, v, plan.Phase, plan.Message); err != nil {
		return err
	}
	if plan.Event != nil {
		c.events.Record(v, plan.Event.Type, plan.Event.Reason, plan.Event.Words)
	}
	return nil
}

// free takes a volume's claim away if a controller has put it there. What a person has written stays, but that it is not bound.
func free(v *corev1.PersistentVolume) {
	if metav1.HasAnnotation(v.ObjectMeta, claim.ByController) {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, claim.ByController)
		return
	}
	v.Spec.ClaimRef.UID = ""
}

func (c *Controller) phase(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase {
		return v, nil
	}
	next, err := c.api.SetVolumeStatus(ctx, v, func(s *corev1.PersistentVolumeStatus) { s.Phase, s.Message = phase, message })
	return next, wrap("set phase of volume", loop.Key{Name: v.Name}, err)
}

func wrap(what string, key loop.Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, key, err)
}
