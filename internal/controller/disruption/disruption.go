// Package disruption says how many pods of each PodDisruptionBudget may be disrupted, and takes back announcements of disruptions that did not come.
//
// It watches PodDisruptionBudgets and Pods, and reads the scale of what controls them; it writes the budgets' status and the pods' condition
// DisruptionTarget. Always: a status is written only onto the very version of the budget that it was computed from, so no eviction that was
// granted meanwhile is forgotten; a budget that cannot be computed allows nothing.
package disruption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// Timeout is how long an evicted pod has to go.
const Timeout = 2 * time.Minute

// View shows the current objects, which are shared.
type View interface {
	// Budget is a budget and the pods that it selects, of one moment; nil if there is none.
	Budget(key loop.Key) (*policyv1.PodDisruptionBudget, []*corev1.Pod)
	Pod(key loop.Key) *corev1.Pod
	// Scale is the scale of a controller of pods: nil if there is no such object, an error if its kind has none.
	Scale(namespace string, controller metav1.OwnerReference) (*Scale, error)
}

// API is what this controller writes.
type API interface {
	// SetStatus sets the status of exactly that version of the budget; Conflict if it is another one by now.
	SetStatus(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error
	// UpdatePodStatus changes the status, unless the pod is gone or has another UID.
	UpdatePodStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller has two loops: of budgets, and of pods whose disruption was announced. Run runs both.
type Controller struct {
	view    View
	api     API
	events  Recorder
	budgets *loop.Loop
	pods    *loop.Loop
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.budgets = loop.New("disruption", c.Reconcile, loop.Options{Workers: 2, Metrics: metrics, Log: log})
	c.pods = loop.New("disruption-stale", c.ReconcilePod, loop.Options{Metrics: metrics, Log: log})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.pods.Run(ctx) }()
	err := c.budgets.Run(ctx)
	return errors.Join(err, <-done)
}

// Mark says that the budget, or one of its pods, has changed.
func (c *Controller) Mark(key loop.Key) { c.budgets.Mark(key) }

// PodDisrupted says that the pod may have the condition DisruptionTarget.
func (c *Controller) PodDisrupted(key loop.Key) { c.pods.Mark(key) }

// Reconcile brings the status of one budget up to date.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	b, pods := c.view.Budget(key)
	if b == nil {
		return nil
	}
	plan := Decide(b, pods, func(ref metav1.OwnerReference) (*Scale, error) { return c.view.Scale(b.Namespace, ref) }, time.Now())
	for _, e := range plan.Events {
		if e.Pod != nil {
			c.events.Record(e.Pod, e.Type, e.Reason, e.Words)
		} else {
			c.events.Record(b, e.Type, e.Reason, e.Words)
		}
	}
	if plan.Again > 0 {
		c.budgets.MarkAfter(key, plan.Again)
	}
	if plan.Status == nil {
		return nil
	}
	err := c.api.SetStatus(ctx, b, *plan.Status)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		c.budgets.Mark(key) // another eviction, or another spec
		return nil
	case err != nil:
		return fmt.Errorf("set status: %w", err)
	}
	return nil
}

// ReconcilePod takes the condition back from one pod whose time to go is over.
func (c *Controller) ReconcilePod(ctx context.Context, key loop.Key) error {
	pod := c.view.Pod(key)
	if pod == nil {
		return nil
	}
	in, stale := Stale(pod, time.Now())
	switch {
	case !stale:
		return nil
	case in > 0:
		c.pods.MarkAfter(key, in)
		return nil
	}
	err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { takeBack(s, pod.Generation, metav1.Now()) })
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take back condition: %w", err)
	}
	return nil
}

func takeBack(s *corev1.PodStatus, generation int64, now metav1.Time) {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.DisruptionTarget {
			s.Conditions[i] = corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: generation, LastTransitionTime: now.Rfc3339Copy(),
			}
		}
	}
}
