// Package deployment brings the pods of each Deployment to its present template, by way of ReplicaSets, without an outage.
//
// It watches Deployments and ReplicaSets; it creates, resizes and deletes ReplicaSets, and writes Deployments' status and revision.
// Always: the ReplicaSets of a rolling update never want, or have, more than spec.replicas + maxSurge pods, and what they are told to keep is never
// fewer available pods than spec.replicas - maxUnavailable. To know that, no size is changed while a ReplicaSet's controller still works for an
// earlier one (status.observedGeneration).
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/workload"
)

// Kind is what a ReplicaSet's controller reference names.
var Kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// View shows the current objects, which are shared.
type View interface {
	Deployment(key loop.Key) *appsv1.Deployment
	ReplicaSets(d *appsv1.Deployment) []*appsv1.ReplicaSet // those that it controls, and those without a controller that its selector matches
	ReplicaSet(key loop.Key) *appsv1.ReplicaSet
}

// API is what this controller writes. An object of another UID than given is left alone, as one that is gone.
type API interface {
	CreateReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet) error
	UpdateReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet, change func(*appsv1.ReplicaSet)) error
	DeleteReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet) error
	// SetStatus writes the status, and the annotations of the Deployment.
	SetStatus(ctx context.Context, d *appsv1.Deployment, change func(*appsv1.Deployment)) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view   View
	api    API
	events Recorder
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New("deployment", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings one Deployment a step closer to its spec.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	d := c.view.Deployment(key)
	if d == nil {
		return nil // garbage collection removes its ReplicaSets
	}
	if equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		c.events.Record(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
	}
	p := Decide(d, c.view.ReplicaSets(d), time.Now())
	if p.Again > 0 {
		c.MarkAfter(key, p.Again)
	}
	if err := c.claim(ctx, d, p); err != nil {
		return err
	}
	if p.Create != nil {
		if done, err := c.create(ctx, d, &p); !done {
			return err
		}
	}
	for _, change := range p.Change {
		if err := c.change(ctx, d, change); err != nil {
			return err
		}
	}
	for _, rs := range p.Delete {
		if err := c.api.DeleteReplicaSet(ctx, rs); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete ReplicaSet %s: %w", rs.Name, err)
		}
	}
	return c.tell(ctx, d, p)
}

// tell writes the status and the revision.
func (c *Controller) tell(ctx context.Context, d *appsv1.Deployment, p Plan) error {
	if p.Revision == d.Annotations[annotationRevision] && equality.Semantic.DeepEqual(p.Status, d.Status) {
		return nil
	}
	err := c.api.SetStatus(ctx, d, func(d *appsv1.Deployment) {
		d.Status = p.Status
		if p.Revision != "" {
			metav1.SetMetaDataAnnotation(&d.ObjectMeta, annotationRevision, p.Revision)
		}
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set status: %w", err)
	}
	return nil
}

func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, p Plan) error {
	var errs []error
	update := func(what string, rs *appsv1.ReplicaSet, change func([]metav1.OwnerReference) []metav1.OwnerReference) {
		err := c.api.UpdateReplicaSet(ctx, rs, func(rs *appsv1.ReplicaSet) { rs.OwnerReferences = change(rs.OwnerReferences) })
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s ReplicaSet %s: %w", what, rs.Name, err))
		}
	}
	for _, rs := range p.Adopt {
		update("adopt", rs, func(refs []metav1.OwnerReference) []metav1.OwnerReference {
			return workload.WithController(refs, d, Kind)
		})
	}
	for _, rs := range p.Release {
		update("release", rs, func(refs []metav1.OwnerReference) []metav1.OwnerReference { return workload.WithoutOwner(refs, d.UID) })
	}
	return errors.Join(errs...)
}

// create makes the newest ReplicaSet. It is not done if the name is taken: the next pass makes another, or finds this one.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, p *Plan) (done bool, err error) {
	rs := p.Create
	err = c.api.CreateReplicaSet(ctx, rs.DeepCopy())
	switch {
	case err == nil:
		if n := valueOf(rs.Spec.Replicas); n > 0 {
			c.events.Record(d, corev1.EventTypeNormal, "ScalingReplicaSet", fmt.Sprintf("Scaled up replica set %s from 0 to %d", rs.Name, n))
		}
		return true, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return false, nil
	case apierrors.IsAlreadyExists(err):
		there := c.view.ReplicaSet(loop.Key{Namespace: rs.Namespace, Name: rs.Name})
		if there == nil || metav1.IsControlledBy(there, d) && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
			return false, err // it has gone, or come, meanwhile
		}
		p.Status = *d.Status.DeepCopy()
		p.Status.CollisionCount = new(valueOf(d.Status.CollisionCount) + 1)
		p.Revision = d.Annotations[annotationRevision]
		return false, c.tell(ctx, d, *p) // which marks it again
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
	r := rollout{d: d, now: time.Now(), status: d.Status.DeepCopy()}
	if r.hasDeadline() {
		r.set(condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFailed, message))
		p.Status, p.Revision = *r.status, d.Annotations[annotationRevision]
		err = errors.Join(err, c.tell(ctx, d, *p))
	}
	c.events.Record(d, corev1.EventTypeWarning, reasonCreateFailed, message)
	return false, fmt.Errorf("create ReplicaSet %s: %w", rs.Name, err)
}

func (c *Controller) change(ctx context.Context, d *appsv1.Deployment, p Change) error {
	was := valueOf(p.Set.Spec.Replicas)
	err := c.api.UpdateReplicaSet(ctx, p.Set, func(rs *appsv1.ReplicaSet) {
		rs.Spec.Replicas, rs.Spec.MinReadySeconds, rs.Annotations = &p.Replicas, p.MinReadySeconds, p.Annotations
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update ReplicaSet %s: %w", p.Set.Name, err)
	}
	if was != p.Replicas {
		direction := "up"
		if p.Replicas < was {
			direction = "down"
		}
		c.events.Record(d, corev1.EventTypeNormal, "ScalingReplicaSet", fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, p.Set.Name, was, p.Replicas))
	}
	return nil
}
