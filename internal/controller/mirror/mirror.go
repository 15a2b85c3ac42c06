//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

// Package mirror tells in EndpointSlices what somebody has written into the Endpoints of a Service without selector: one slice for each set of ports and
// each family of addresses.
//
// It watches Endpoints, Services and EndpointSlices; it writes EndpointSlices that carry its name in their label managed-by. Always: Endpoints that
// are not to be mirrored have no such slices; a slice is written only over the very version that was looked at.
package mirror

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

	"sampan.dev/internal/loop"
)

// Scene is what there is of a name, all of one moment. It is shared.
type Scene struct {
	Service   *corev1.Service
	Endpoints *corev1.Endpoints
	Slices    []*discovery.EndpointSlice // of the Service, of this controller
}

// View shows the current objects, which are shared.
type View interface {
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
	view   View
	api    API
	events Recorder
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New("endpointslicemirroring", c.Reconcile, loop.Options{Workers: 5, BackoffFirst: time.Second, BackoffMost: 100 * time.Second, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings the slices of one name up to date.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	scene := c.view.Scene(key)
	p := Decide(scene.Service, scene.Endpoints, scene.Slices)
	if p.changes() || len(scene.Slices) == 0 { // told once, not again when its own writes come back
		c.tell(scene.Endpoints, p)
	}
	err := c.apply(ctx, p)
	if errors.Is(err, errChanged) {
		c.Mark(key)
		return c.api.Shown(ctx)
	}
	return err
}

// tell complains of what cannot be mirrored.
func (c *Controller) tell(e *corev1.Endpoints, p Plan) {
	if p.Invalid > 0 {
		c.events.Record(e, corev1.EventTypeWarning, "InvalidIPAddress", fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", p.Invalid))
	}
	if p.Skipped > p.Invalid {
		c.events.Record(e, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			fmt.Sprintf("A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", Capacity, p.Skipped))
	}
}

// errChanged says that somebody else has written a slice: what was decided is not true any more.
var errChanged = errors.New("slice changed since it was read")

// apply carries a plan out. What has become of Endpoints whose namespace is being deleted matters to nobody.
func (c *Controller) apply(ctx context.Context, p Plan) error {
	for _, s := range p.Create {
		if err := c.api.Create(ctx, s); apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		} else if err != nil {
			return fmt.Errorf("create slice: %w", err)
		}
	}
	for _, s := range p.Update {
		if err := c.api.Update(ctx, s); apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return errChanged
		} else if err != nil {
			return fmt.Errorf("update slice %s: %w", s.Name, err)
		}
	}
	for _, s := range p.Delete {
		if err := c.api.Delete(ctx, s); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete slice %s: %w", s.Name, err)
		}
	}
	if !p.changes() {
		return nil
	}
	return c.api.Shown(ctx)
}
