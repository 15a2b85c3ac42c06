//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

// Package endpoints keeps the Endpoints of each Service that has a selector, for those who do not read EndpointSlices.
//
// It watches Services, Pods and Endpoints; it writes Endpoints of a Service's name, and deletes them once the Service is gone. Always: Endpoints of a
// Service without selector are somebody else's; they are written only over the very version that was looked at.
package endpoints

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
)

// Scene is a Service with what its Endpoints depend on, all of one moment. It is shared.
type Scene struct {
	Service   *corev1.Service
	Pods      []*corev1.Pod // that it selects
	Endpoints *corev1.Endpoints
}

// View shows the current objects, which are shared.
type View interface {
	// Scene looks at a name: without Service or Endpoints if there are none; without pods if the Service's endpoints are not pods.
	Scene(key loop.Key) Scene
}

// API is what this controller writes.
type API interface {
	Create(ctx context.Context, e *corev1.Endpoints) error
	// Update writes over exactly the version that e carries; Conflict if it is another one by now.
	Update(ctx context.Context, e *corev1.Endpoints) error
	Delete(ctx context.Context, e *corev1.Endpoints) error
	// Shown waits until the view shows what has been written.
	Shown(ctx context.Context) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view     View
	api      API
	events   Recorder
	triggers endpoint.Triggers
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New("endpoints", c.Reconcile, loop.Options{Workers: 16, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings the Endpoints of one name up to date.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	scene := c.view.Scene(key)
	service := scene.Service
	if service == nil {
		return c.remove(ctx, key, scene.Endpoints)
	}
	if !endpoint.FromPods(service) {
		return nil
	}
	plan := Decide(service, scene.Pods, scene.Endpoints)
	changed := c.triggers.Next(service, scene.Pods) // even if nothing is written
	switch {
	case plan.Create != nil:
		e := plan.Create
		e.Annotations = endpoint.SetTrigger(e.Annotations, changed)
		err := c.api.Create(ctx, e)
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil
		case apierrors.IsAlreadyExists(err):
			return c.again(ctx, key)
		case err != nil:
			c.events.Record(e, corev1.EventTypeWarning, "FailedToCreateEndpoint", fmt.Sprintf("Failed to create endpoint for service %s: %v", key, err))
			return fmt.Errorf("create endpoints: %w", err)
		}
	case plan.Update != nil:
		e := plan.Update
		e.Annotations = endpoint.SetTrigger(e.Annotations, changed)
		err := c.api.Update(ctx, e)
		switch {
		case apierrors.IsConflict(err), apierrors.IsNotFound(err):
			return c.again(ctx, key)
		case err != nil:
			c.events.Record(e, corev1.EventTypeWarning, "FailedToUpdateEndpoint", fmt.Sprintf("Failed to update endpoint %s: %v", key, err))
			return fmt.Errorf("update endpoints: %w", err)
		}
	default:
		return nil
	}
	return c.api.Shown(ctx)
}

// remove deletes the Endpoints of a Service that is gone.
func (c *Controller) remove(ctx context.Context, key loop.Key, e *corev1.Endpoints) error {
	c.triggers.Forget(key.Namespace, key.Name)
	if e == nil {
		return nil
	}
	if err := c.api.Delete(ctx, e); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints: %w", err)
	}
	return nil
}

// again has the key looked at once more: somebody else has written meanwhile.
func (c *Controller) again(ctx context.Context, key loop.Key) error {
	c.Mark(key)
	return c.api.Shown(ctx)
}
