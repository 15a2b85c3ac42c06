// Package endpointslice keeps the EndpointSlices of each Service that has a selector: one endpoint for each pod that it selects and each family of
// addresses that it has.
//
// It watches Services, Pods, Nodes and EndpointSlices; it writes EndpointSlices that carry its name in their label managed-by. Always: an endpoint is in
// one slice of its ports; it stays there while it lasts; a slice is written only over the very version that was looked at.
package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
)

// Scene is a Service with what its slices depend on, all of one moment. It is shared.
type Scene struct {
	Service *corev1.Service
	Pods    []*corev1.Pod              // that it selects
	Slices  []*discovery.EndpointSlice // its own, of this controller
	Zones   Zones
}

// View shows the current objects, which are shared.
type View interface {
	// Scene looks at a Service: without Service if there is none; without the rest if its endpoints are not pods.
	Scene(key loop.Key) Scene
}

// API is what this controller writes.
type API interface {
	Create(ctx context.Context, s *discovery.EndpointSlice) error
	// Update writes over exactly the version that s carries; Conflict if it is another one by now.
	Update(ctx context.Context, s *discovery.EndpointSlice) error
	Delete(ctx context.Context, s *discovery.EndpointSlice) error
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
	// Writes that wait at the same time share a sync of the disk, so there are many workers. A failure is told as an event each time: not too often.
	c.Loop = loop.New("endpointslice", c.Reconcile, loop.Options{Workers: 16, BackoffFirst: time.Second, BackoffMost: 1000 * time.Second, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings the slices of one Service up to date.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	scene := c.view.Scene(key)
	service := scene.Service
	if service == nil {
		c.triggers.Forget(key.Namespace, key.Name)
		return nil // garbage collection removes its slices
	}
	if !endpoint.FromPods(service) {
		return nil // somebody else writes them
	}
	plan := Decide(service, scene.Pods, scene.Zones, scene.Slices)
	changed := c.triggers.Next(service, scene.Pods) // even if nothing is written
	err := c.apply(ctx, service, plan, changed)
	if errors.Is(err, errChanged) {
		c.Mark(key)
		return c.api.Shown(ctx)
	}
	all := []error{err}
	for _, words := range plan.Lost {
		all = append(all, errors.New(words))
	}
	if err := utilerrors.NewAggregate(all); err != nil {
		c.events.Record(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			fmt.Sprintf("Error updating Endpoint Slices for Service %s/%s: %v", service.Namespace, service.Name, err))
		return err
	}
	return nil
}

// errChanged says that somebody else has written a slice: what was decided is not true any more.
var errChanged = errors.New("slice changed since it was read")

// apply carries a plan out. What has become of a Service whose namespace is being deleted matters to nobody.
func (c *Controller) apply(ctx context.Context, service *corev1.Service, p Plan, changed time.Time) error {
	of := service.Namespace + "/" + service.Name
	for _, s := range p.Create {
		s.Annotations = endpoint.SetTrigger(s.Annotations, changed)
		if err := c.api.Create(ctx, s); apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		} else if err != nil {
			return fmt.Errorf("failed to create EndpointSlice for Service %s: %w", of, err)
		}
	}
	for _, s := range p.Update {
		s.Annotations = endpoint.SetTrigger(s.Annotations, changed)
		if err := c.api.Update(ctx, s); apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return errChanged
		} else if err != nil {
			return fmt.Errorf("failed to update %s EndpointSlice for Service %s: %w", s.Name, of, err)
		}
	}
	for _, s := range p.Delete {
		if err := c.api.Delete(ctx, s); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("failed to delete %s EndpointSlice for Service %s: %w", s.Name, of, err)
		}
	}
	if len(p.Create)+len(p.Update)+len(p.Delete) == 0 {
		return nil
	}
	return c.api.Shown(ctx)
}
