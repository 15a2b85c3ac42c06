// Package statefulset keeps the pods of each StatefulSet: each at its ordinal, with a name and storage of its own, made and replaced in order.
//
// It watches StatefulSets, Pods and ControllerRevisions; it creates, labels and deletes Pods, creates their PersistentVolumeClaims and says whom these go with,
// keeps the ControllerRevisions of each set's templates, gives and takes controller references, and writes the sets' status.
// Always: no two pods of one ordinal exist; an ordered set makes a pod only when all before it are available; what is deleted is the set's own.
package statefulset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	"sampan.dev/internal/revision"
	"sampan.dev/internal/workload"
)

// View shows the current objects, which are shared.
type View interface {
	StatefulSet(key loop.Key) *appsv1.StatefulSet
	Pods(set *appsv1.StatefulSet) []*corev1.Pod                     // those that it controls, and those without a controller that its selector matches
	Revisions(set *appsv1.StatefulSet) []*appsv1.ControllerRevision // likewise
	Revision(namespace, name string) *appsv1.ControllerRevision     // nil if there is none
}

// API is what this controller writes. What it changes is the object of that UID.
type API interface {
	CreatePod(ctx context.Context, pod *corev1.Pod) error
	UpdatePod(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error
	DeletePod(ctx context.Context, pod *corev1.Pod) error
	CreateRevision(ctx context.Context, r *appsv1.ControllerRevision) error
	UpdateRevision(ctx context.Context, r *appsv1.ControllerRevision, change func(*appsv1.ControllerRevision)) error
	DeleteRevision(ctx context.Context, r *appsv1.ControllerRevision) error
	SetStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error
}

// Claims are the claims of storage that pods of a set have.
type Claims interface {
	Claim(key loop.Key) *corev1.PersistentVolumeClaim // shared; nil if there is none
	CreateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim) error
	// UpdateClaim changes exactly that version of the claim, or returns Conflict.
	UpdateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error)
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
	claims Claims
	events Recorder
}

// New makes the controller.
func New(view View, api API, claims Claims, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, claims: claims, events: events}
	c.Loop = loop.New("statefulset", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings one set a step closer to its spec.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	set := c.view.StatefulSet(key)
	if set == nil {
		return nil // garbage collection removes what it had
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return nil // validation lets no such set in
	}
	if err := c.claim(ctx, set, workload.Claim(set, selector, c.view.Pods(set))); err != nil {
		return err
	}
	if set.DeletionTimestamp != nil {
		if err := c.retain(ctx, set, c.members(set, selector)); err != nil {
			return err
		}
		return c.status(ctx, set, c.members(set, selector), set.Status.CurrentRevision, set.Status.UpdateRevision, replicasOf(set.Status.CollisionCount))
	}
	h, err := c.history(ctx, set)
	if err != nil {
		return err
	}
	current, err := revision.Template(h.current)
	if err != nil {
		return err
	}
	pods := c.members(set, selector)
	if err := c.retain(ctx, set, pods); err != nil {
		return err
	}
	plan := Decide(set, pods, Revision{h.current.Name, current}, Revision{h.update.Name, &set.Spec.Template}, time.Now())
	err = c.apply(ctx, set, plan)
	if plan.changes() {
		pods = c.members(set, selector)
	}
	err = errors.Join(err, c.status(ctx, set, pods, h.current.Name, h.update.Name, h.collisions), c.truncate(ctx, set, h))
	if err == nil && plan.More {
		c.Mark(key)
	}
	return err
}

// members are the pods that are the set's own, by reference, labels and name.
func (c *Controller) members(set *appsv1.StatefulSet, selector labels.Selector) []*corev1.Pod {
	return slices.DeleteFunc(workload.Claim(set, selector, c.view.Pods(set)).Owned, func(pod *corev1.Pod) bool {
		_, ok := ordinal(set, pod)
		return !ok
	})
}

func replicasOf(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func (p Plan) changes() bool { return len(p.Create)+len(p.Delete)+len(p.Identify) > 0 }

// status writes it where it differs. It is of the generation that was read: whoever finds that observed knows that nothing is done for an earlier one.
func (c *Controller) status(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, collisions int32) error {
	status, again := Count(set, pods, current, update, collisions, time.Now())
	if again > 0 {
		c.MarkAfter(loop.Key{Namespace: set.Namespace, Name: set.Name}, again)
	}
	if equality.Semantic.DeepEqual(&status, &set.Status) {
		return nil
	}
	if err := c.api.SetStatus(ctx, set, status); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set status: %w", err)
	}
	return nil
}

// claim adopts and releases pods and revisions. Of pods it takes only those whose names are the set's.
func (c *Controller) claim(ctx context.Context, set *appsv1.StatefulSet, pods workload.Claims[*corev1.Pod]) error {
	var errs []error
	note := func(what, name string, err error) {
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("%s %s: %w", what, name, err))
		}
	}
	for _, pod := range pods.Adopt {
		if _, ok := ordinal(set, pod); ok {
			note("adopt pod", pod.Name, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) { p.OwnerReferences = workload.WithController(p.OwnerReferences, set, Kind) }))
		}
	}
	for _, pod := range pods.Release {
		note("release pod", pod.Name, c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) { p.OwnerReferences = workload.WithoutOwner(p.OwnerReferences, set.UID) }))
	}
	if set.DeletionTimestamp != nil {
		return errors.Join(errs...)
	}
	for _, r := range c.view.Revisions(set) {
		if metav1.GetControllerOfNoCopy(r) == nil && r.DeletionTimestamp == nil {
			note("adopt revision", r.Name, c.api.UpdateRevision(ctx, r, func(r *appsv1.ControllerRevision) {
				r.OwnerReferences = workload.WithController(r.OwnerReferences, set, Kind)
			}))
		}
	}
	return errors.Join(errs...)
}

// apply carries a plan out. Deletions do not wait for creations: where a quota is used up they make room.
func (c *Controller) apply(ctx context.Context, set *appsv1.StatefulSet, p Plan) error {
	var errs []error
	for _, pod := range p.Identify {
		err := c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) {
			if n, ok := ordinal(set, p); ok {
				identify(set, p, n)
			}
		})
		c.tell(set, "update", "Update", pod, err)
		errs = append(errs, err)
	}
	_, err := workload.Batches(len(p.Create), func(i int) error { return c.create(ctx, set, p.Create[i]) })
	errs = append(errs, err)
	gone := make([]error, len(p.Delete))
	var calls sync.WaitGroup
	for i, pod := range p.Delete {
		calls.Go(func() {
			err := c.api.DeletePod(ctx, pod)
			if apierrors.IsNotFound(err) {
				return
			}
			c.tell(set, "delete", "Delete", pod, err)
			gone[i] = err
		})
	}
	calls.Wait()
	return errors.Join(append(errs, gone...)...)
}

// create makes the claims of a pod and then the pod.
func (c *Controller) create(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if err := c.ensure(ctx, set, pod); err != nil {
		c.tell(set, "create", "Create", pod, err)
		return err
	}
	err := c.api.CreatePod(ctx, pod)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the set is going with it
	case apierrors.IsAlreadyExists(err): // somebody else's: it is tried again until that is gone
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	c.tell(set, "create", "Create", pod, err)
	if err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return nil
}

// tell records what was done to a pod, or why it was not.
func (c *Controller) tell(set *appsv1.StatefulSet, verb, reason string, pod *corev1.Pod, err error) {
	if err != nil {
		c.events.Record(set, corev1.EventTypeWarning, "Failed"+reason,
			fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod.Name, set.Name, err))
		return
	}
	c.events.Record(set, corev1.EventTypeNormal, "Successful"+reason, fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod.Name, set.Name))
}
