// Package cronjob begins the jobs of each CronJob at the times of its schedule, and keeps the last ones of those that have ended.
//
// It watches CronJobs and their Jobs; it creates and deletes Jobs and writes the CronJobs' status.
// Always: there is one job for a time at most; it deletes only jobs whose controller reference is the CronJob being reconciled.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	CronJob(key loop.Key) *batchv1.CronJob
	Jobs(j *batchv1.CronJob) []*batchv1.Job // those that it controls
}

// API is what this controller writes.
type API interface {
	CreateJob(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error)
	// DeleteJob deletes the job of that UID, and its pods in the background.
	DeleteJob(ctx context.Context, job *batchv1.Job) error
	// SetStatus writes the status if the CronJob still is as it was seen; else it returns a conflict.
	SetStatus(ctx context.Context, j *batchv1.CronJob, status batchv1.CronJobStatus) error
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
	c.Loop = loop.New("cronjob", c.Reconcile, loop.Options{Workers: 5, Metrics: metrics, Log: log})
	return c
}

// Reconcile does what the time demands of one CronJob.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	j := c.view.CronJob(key)
	if j == nil {
		return nil // garbage collection removes its jobs
	}
	plan := Decide(j, c.view.Jobs(j), time.Now())
	if plan.Again > 0 {
		c.MarkAfter(key, plan.Again)
	}
	if err := c.apply(ctx, j, &plan); err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(&plan.Status, &j.Status) {
		switch err := c.api.SetStatus(ctx, j, plan.Status); {
		case apierrors.IsConflict(err):
			c.Mark(key) // it has changed meanwhile
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("set status: %w", err)
		}
	}
	for _, e := range plan.Events { // now that they will not be found again
		c.events.Record(j, e.kind, e.reason, e.message)
	}
	return nil
}

// apply deletes and creates jobs.
func (c *Controller) apply(ctx context.Context, j *batchv1.CronJob, p *Plan) error {
	var errs []error
	for _, job := range p.Delete {
		switch err := c.api.DeleteJob(ctx, job); {
		case err == nil:
			c.events.Record(j, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job "+job.Name)
		case !apierrors.IsNotFound(err):
			c.events.Record(j, corev1.EventTypeWarning, "FailedDelete", "Deleted job: "+err.Error())
			errs = append(errs, fmt.Errorf("delete job %s: %w", job.Name, err))
		}
	}
	if len(errs) > 0 || p.Create == nil {
		return errors.Join(errs...)
	}
	job, err := c.api.CreateJob(ctx, p.Create)
	switch {
	case err == nil:
		c.events.Record(j, corev1.EventTypeNormal, "SuccessfulCreate", "Created job "+job.Name)
		p.Status.Active = append(p.Status.Active, reference(job))
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		p.Status = j.Status
		return nil
	case apierrors.IsAlreadyExists(err): // somebody else's: leave it alone, and go on with the next time
		p.Status.LastScheduleTime = j.Status.LastScheduleTime
		return nil
	}
	c.events.Record(j, corev1.EventTypeWarning, "FailedCreate", "Error creating job: "+err.Error())
	return fmt.Errorf("create job: %w", err)
}
