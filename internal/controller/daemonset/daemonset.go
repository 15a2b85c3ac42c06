// Package daemonset keeps one pod of each DaemonSet on each node that fits it.
//
// It watches DaemonSets, Nodes, Pods and ControllerRevisions; it creates and deletes Pods, keeps the ControllerRevisions of each set's templates, gives
// and takes controller references, and writes the sets' status.
// Always: a pod is made for one node and fits no other; a rollout makes no more nodes go without an available pod than the set allows; what
// is deleted is the set's own.
package daemonset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/workload"
)

// View shows the current objects, which are shared.
type View interface {
	DaemonSet(key loop.Key) *appsv1.DaemonSet
	Nodes() []*corev1.Node
	Pods(ds *appsv1.DaemonSet) []*corev1.Pod                     // those that it controls, and those without a controller that its selector matches
	Revisions(ds *appsv1.DaemonSet) []*appsv1.ControllerRevision // likewise
	Revision(namespace, name string) *appsv1.ControllerRevision  // nil if there is none
}

// API is what this controller writes. What it changes is the object of that UID.
type API interface {
	CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	UpdatePod(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error
	DeletePod(ctx context.Context, pod *corev1.Pod) error
	CreateRevision(ctx context.Context, r *appsv1.ControllerRevision) error
	UpdateRevision(ctx context.Context, r *appsv1.ControllerRevision, change func(*appsv1.ControllerRevision)) error
	DeleteRevision(ctx context.Context, r *appsv1.ControllerRevision) error
	SetStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view    View
	api     API
	events  Recorder
	backoff backoff
}

// New makes the controller.
func New(view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events, backoff: backoff{since: map[place]failure{}}}
	c.Loop = loop.New("daemonset", c.Reconcile, loop.Options{Workers: 2, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings one set a step closer to its spec.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	ds := c.view.DaemonSet(key)
	if ds == nil || ds.DeletionTimestamp != nil {
		return nil // garbage collection removes what it had
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		return nil // validation lets no such set in
	}
	if err := c.claim(ctx, ds, selector); err != nil {
		return err
	}
	pods := workload.Claim(ds, selector, c.view.Pods(ds)).Owned
	h, err := c.history(ctx, ds, workload.Claim(ds, selector, c.view.Revisions(ds)).Owned, pods)
	if err != nil {
		return err
	}
	now := time.Now()
	s := State{Set: ds, Hash: hashOf(h.Current), Nodes: c.view.Nodes(), Pods: pods, Now: now, Wait: func(node string) time.Duration {
		return c.backoff.wait(place{ds.UID, ds.Status.ObservedGeneration, node}, now)
	}}
	plan := Decide(s)
	err = c.apply(ctx, ds, s.Hash, plan)
	if plan.Again > 0 {
		c.MarkAfter(key, plan.Again)
	}
	if plan.changes() {
		s.Pods = workload.Claim(ds, selector, c.view.Pods(ds)).Owned
	}
	err = errors.Join(err, c.truncate(ctx, ds, h.Old, s.Pods))
	status, again := Count(s)
	if again > 0 {
		c.MarkAfter(key, again)
	}
	if !equality.Semantic.DeepEqual(&status, &ds.Status) {
		if e := c.api.SetStatus(ctx, ds, status); e != nil && !apierrors.IsNotFound(e) {
			err = errors.Join(err, fmt.Errorf("set status: %w", e))
		}
	}
	if err == nil && (len(plan.Create) == burst || len(plan.Delete) == burst) {
		c.Mark(key) // there is more to do than one pass does
	}
	return err
}

// claim adopts and releases pods and revisions.
func (c *Controller) claim(ctx context.Context, ds *appsv1.DaemonSet, selector labels.Selector) error {
	var errs []error
	note := func(what, name string, err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s %s: %w", what, name, err))
		}
	}
	take := func(o metav1.Object) { o.SetOwnerReferences(workload.WithController(o.GetOwnerReferences(), ds, Kind)) }
	leave := func(o metav1.Object) { o.SetOwnerReferences(workload.WithoutOwner(o.GetOwnerReferences(), ds.UID)) }
	pods := workload.Claim(ds, selector, c.view.Pods(ds))
	for _, pod := range pods.Adopt {
		note("adopt pod", pod.Name, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) { take(p) }))
	}
	for _, pod := range pods.Release {
		note("release pod", pod.Name, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) { leave(p) }))
	}
	revisions := workload.Claim(ds, selector, c.view.Revisions(ds))
	for _, r := range revisions.Adopt {
		note("adopt revision", r.Name, c.api.UpdateRevision(ctx, r, func(r *appsv1.ControllerRevision) { take(r) }))
	}
	for _, r := range revisions.Release {
		note("release revision", r.Name, c.api.UpdateRevision(ctx, r, func(r *appsv1.ControllerRevision) { leave(r) }))
	}
	return errors.Join(errs...)
}

// apply carries a plan out.
func (c *Controller) apply(ctx context.Context, ds *appsv1.DaemonSet, hash string, p Plan) error {
	for _, pod := range p.Failed {
		node := nodeOf(pod)
		c.backoff.failed(place{ds.UID, ds.Status.ObservedGeneration, node}, time.Now())
		c.events.Record(ds, corev1.EventTypeWarning, "FailedDaemonPod",
			fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node))
	}
	for _, pod := range p.Ended {
		c.events.Record(ds, corev1.EventTypeNormal, "SucceededDaemonPod",
			fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, nodeOf(pod)))
	}
	_, err := workload.Batches(len(p.Create), func(i int) error { return c.create(ctx, ds, newPod(ds, hash, p.Create[i])) })
	errs := make([]error, len(p.Delete), len(p.Delete)+1)
	var calls sync.WaitGroup
	for i, pod := range p.Delete {
		calls.Go(func() {
			err := c.api.DeletePod(ctx, pod)
			switch {
			case err == nil:
				c.events.Record(ds, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name)
			case !apierrors.IsNotFound(err):
				c.events.Record(ds, corev1.EventTypeWarning, "FailedDelete", "Error deleting: "+err.Error())
				errs[i] = fmt.Errorf("delete pod %s: %w", pod.Name, err)
			}
		})
	}
	calls.Wait()
	return errors.Join(append(errs, err)...)
}

func (c *Controller) create(ctx context.Context, ds *appsv1.DaemonSet, pod *corev1.Pod) error {
	made, err := c.api.CreatePod(ctx, pod)
	switch {
	case err == nil:
		c.events.Record(ds, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+made.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the set is going with it
	default:
		c.events.Record(ds, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+err.Error())
		return fmt.Errorf("create pod: %w", err)
	}
	return nil
}
