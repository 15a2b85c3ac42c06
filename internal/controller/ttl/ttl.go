// Package ttl deletes jobs that have ended, once the time is over for which they wished to be kept.
//
// It watches Jobs; it deletes Jobs, and waits with each until its pods are gone (foreground).
// Always: it deletes only jobs that have ended and that name a time (ttlSecondsAfterFinished).
package ttl

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/loop"
)

// View shows the current jobs, which are shared; nil if there is none.
type View interface {
	Job(key loop.Key) *batchv1.Job
}

// API is what this controller writes.
type API interface {
	// DeleteJob deletes the job of that UID after its pods.
	DeleteJob(ctx context.Context, j *batchv1.Job) error
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("ttl_jobs_to_delete", c.Reconcile, loop.Options{Metrics: metrics, Log: log})
	return c
}

// Expires says when the job is to go, if it has ended and is not to stay for ever.
func Expires(j *batchv1.Job) (at time.Time, ever bool) {
	if j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil {
		return at, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return at, false
}

// Reconcile deletes one job if its time has come.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	j := c.view.Job(key)
	if j == nil {
		return nil
	}
	at, ever := Expires(j)
	if !ever {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.MarkAfter(key, left)
		return nil
	}
	if err := c.api.DeleteJob(ctx, j); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete expired job: %w", err)
	}
	return nil
}
