// Package job runs the pods of each Job until as many as it wants have ended well, and counts them exactly.
//
// It watches Jobs and Pods; it creates and deletes Pods, gives and takes their controller reference and the finalizer
// batch.kubernetes.io/job-tracking, and writes the jobs' status.
// Always: a pod that has ended is counted once, however often the program is killed: none of a job's pods is let go before the status names
// it, and a name becomes a number only when its pod is let go.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/workload"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Job(key loop.Key) *batchv1.Job
	Pod(key loop.Key) *corev1.Pod
	Pods(j *batchv1.Job, sel labels.Selector) []*corev1.Pod // those that it controls, and those without a controller that match
}

// API is what this controller writes.
type API interface {
	CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	DeletePod(ctx context.Context, pod *corev1.Pod) error
	// UpdatePod changes the metadata of the pod of that UID, which change is given as it is now.
	UpdatePod(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error
	// SetStatus writes the status if the job still is as it was seen; else it returns a conflict.
	SetStatus(ctx context.Context, j *batchv1.Job, status batchv1.JobStatus) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller has two loops: of jobs, and of pods that no job will let go. Run runs both.
type Controller struct {
	*loop.Loop
	view    View
	api     API
	events  Recorder
	orphans *loop.Loop

	mu      sync.Mutex
	records map[loop.Key]record // of jobs that are not finished
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events, records: map[loop.Key]record{}}
	c.Loop = loop.New("job", c.Reconcile, loop.Options{Workers: 5, BackoffFirst: time.Second, BackoffMost: time.Minute, Metrics: metrics, Log: log})
	c.orphans = loop.New("job_orphan_pod", c.reconcileOrphan, loop.Options{BackoffFirst: time.Second, BackoffMost: time.Minute, Metrics: metrics, Log: log})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.orphans.Run(ctx) }()
	err := c.Loop.Run(ctx)
	return errors.Join(err, <-done)
}

// Reconcile brings one job a step further.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	j := c.view.Job(key)
	if j == nil || isOthers(j) {
		c.forget(key)
		return nil
	}
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	pods := c.view.Pods(j, sel)
	if isFinished(j) {
		c.forget(key)
		return c.let(ctx, slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return !isTracked(p) || !metav1.IsControlledBy(p, j) }))
	}
	if mode := deref(j.Spec.CompletionMode); mode != batchv1.NonIndexedCompletion && mode != batchv1.IndexedCompletion {
		c.events.Record(j, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return nil
	}
	was := c.recall(key, j, pods)
	plan := Decide(j, sel, pods, was, time.Now())
	if plan.Again > 0 {
		c.MarkAfter(key, plan.Again)
	}
	if len(plan.Adopt)+len(plan.Release) > 0 {
		return c.claim(ctx, j, plan) // and then look again
	}
	err = c.apply(ctx, j, plan)
	if len(plan.Create)+len(plan.Delete)+len(plan.Hold) > 0 {
		pods = c.view.Pods(j, sel)
	}
	return errors.Join(err, c.track(ctx, key, j, workload.Claim(j, sel, pods).Owned, was))
}

// track takes a step of the count.
func (c *Controller) track(ctx context.Context, key loop.Key, j *batchv1.Job, own []*corev1.Pod, was record) error {
	step := Track(j, own, was, time.Now())
	if !equality.Semantic.DeepEqual(&step.Status, &j.Status) {
		err := c.api.SetStatus(ctx, j, step.Status)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err):
			c.Mark(key) // it has changed meanwhile, and nothing is lost: what is not written down is still there to be found
			return nil
		case err != nil:
			return fmt.Errorf("set status: %w", err)
		}
		for _, e := range step.Events {
			c.events.Record(j, e.kind, e.reason, e.message)
		}
	}
	c.remember(key, step.record)
	return c.let(ctx, step.Let)
}

// apply carries out what a plan has about pods.
func (c *Controller) apply(ctx context.Context, j *batchv1.Job, p Plan) error {
	errs := each(p.Hold, func(pod *corev1.Pod) error {
		return describe("hold", pod, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) {
			if p.DeletionTimestamp == nil { // nothing can be held any more that is going
				track(p)
			}
		}))
	})
	errs = errors.Join(errs, each(p.Delete, func(pod *corev1.Pod) error { return c.delete(ctx, j, pod, p.Unwanted) }))
	var mu sync.Mutex
	var first error // the others of its batch mostly say the same
	_, _ = workload.Batches(len(p.Create), func(i int) error {
		n := p.Create[i]
		pod, err := c.api.CreatePod(ctx, newPod(j, n.index, n.before))
		switch {
		case err == nil:
			c.events.Record(j, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+pod.Name)
			return nil
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return err // it is going, and the job with it
		}
		c.events.Record(j, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+err.Error())
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = fmt.Errorf("create pod: %w", err)
		}
		return err
	})
	return errors.Join(errs, first)
}

func (c *Controller) delete(ctx context.Context, j *batchv1.Job, pod *corev1.Pod, unwanted bool) error {
	var err error
	if unwanted && isTracked(pod) {
		ended := false
		err = c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) {
			if ended = !workload.Active(p); !ended {
				untrack(p)
			}
		})
		if ended && err == nil {
			return nil // meanwhile, so that it counts
		}
	}
	if err == nil {
		err = c.api.DeletePod(ctx, pod)
	}
	switch {
	case err == nil:
		c.events.Record(j, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name)
	case !apierrors.IsNotFound(err):
		c.events.Record(j, corev1.EventTypeWarning, "FailedDelete", "Error deleting: "+err.Error())
	}
	return describe("delete", pod, err)
}

func (c *Controller) claim(ctx context.Context, j *batchv1.Job, p Plan) error {
	ref := *metav1.NewControllerRef(j, kind)
	adopt := each(p.Adopt, func(pod *corev1.Pod) error {
		return describe("adopt", pod, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) {
			if metav1.GetControllerOfNoCopy(p) == nil && p.DeletionTimestamp == nil { // else somebody was faster
				p.OwnerReferences = append(p.OwnerReferences, ref)
				track(p)
			}
		}))
	})
	return errors.Join(adopt, each(p.Release, func(pod *corev1.Pod) error {
		return describe("release", pod, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) {
			p.OwnerReferences = workload.WithoutOwner(p.OwnerReferences, j.UID)
			untrack(p)
		}))
	}))
}

// let frees pods of the finalizer.
func (c *Controller) let(ctx context.Context, pods []*corev1.Pod) error {
	return each(pods, func(pod *corev1.Pod) error { return describe("let go", pod, c.api.UpdatePod(ctx, pod, untrack)) })
}

// describe makes an error say what was done to which pod. That it is gone is none.
func describe(what string, pod *corev1.Pod, err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s pod %s: %w", what, pod.Name, err)
}

// each calls do for all pods at once, and returns one of the errors.
func each(pods []*corev1.Pod, do func(*corev1.Pod) error) error {
	errs := make([]error, len(pods))
	var calls sync.WaitGroup
	for i, pod := range pods {
		calls.Go(func() { errs[i] = do(pod) })
	}
	calls.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// recall is what is known of the job's pods that have been counted.
func (c *Controller) recall(key loop.Key, j *batchv1.Job, pods []*corev1.Pod) record {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, known := c.records[key]
	if !known || r.job != j.UID {
		r = remains(j, pods)
		c.records[key] = r
	}
	return r
}

func (c *Controller) remember(key loop.Key, r record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records[key] = r
}

func (c *Controller) forget(key loop.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.records, key)
}
