// Package event lets Events expire.
//
// It watches and deletes Events.
// Always: an event is kept until an hour after its last occurrence, and goes soon after. Nothing is polled: each event
// has its place in the loop's one timer heap, and is looked at when it may be due.
package event

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/loop"
)

// Keep is how long an event is kept after its last occurrence.
const Keep = time.Hour

// View shows the current events, which are shared; nil if there is none.
type View interface {
	Event(key loop.Key) *corev1.Event
}

// API is what this controller writes.
type API interface {
	// DeleteEvent deletes the event if it is still at that revision.
	DeleteEvent(ctx context.Context, key loop.Key, resourceVersion string) error
}

// Controller runs as its Loop does. Mark each event that is there at the start.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("event", c.Reconcile, loop.Options{Metrics: metrics, Log: log})
	return c
}

// Changed says that the event has just come or occurred again: it need not be looked at before it can be due.
func (c *Controller) Changed(key loop.Key) { c.MarkAfter(key, Keep) }

// Reconcile deletes one event if it is due, or sets its time.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	e := c.view.Event(key)
	if e == nil {
		return nil
	}
	if left := Left(e, time.Now()); left > 0 {
		c.MarkAfter(key, left)
		return nil
	}
	err := c.api.DeleteEvent(ctx, key, e.ResourceVersion)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete event: %w", err)
	}
	return nil // if it has occurred again meanwhile, that marks it
}

// Left is how long the event is still kept. Times that lie ahead are not believed.
func Left(e *corev1.Event, now time.Time) time.Duration {
	last := e.CreationTimestamp.Time
	times := []time.Time{e.FirstTimestamp.Time, e.LastTimestamp.Time, e.EventTime.Time}
	if e.Series != nil {
		times = append(times, e.Series.LastObservedTime.Time)
	}
	for _, t := range times {
		if t.After(last) && !t.After(now.Add(time.Minute)) {
			last = t
		}
	}
	return min(Keep, last.Add(Keep).Sub(now))
}
