// Package replicaset keeps the number of pods of each ReplicaSet, and of each ReplicationController, at spec.replicas.
//
// It watches the sets and Pods; it creates and deletes Pods, gives and takes their controller reference, and writes the sets' status.
// Always: it deletes only pods whose controller reference is the set being reconciled; it never has more than it wants of those that a snapshot with
// all its own writes shows.
package replicaset

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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/workload"
)

// Reasons of events and conditions.
const (
	reasonCreated      = "SuccessfulCreate"
	reasonFailedCreate = "FailedCreate"
	reasonDeleted      = "SuccessfulDelete"
	reasonFailedDelete = "FailedDelete"
)

// Object is a set as the API has it.
type Object interface {
	metav1.Object
	runtime.Object
}

// Set is what a ReplicaSet and a ReplicationController have in common. It is shared: nothing of it is changed here.
type Set struct {
	Object            Object
	Kind              schema.GroupVersionKind
	Replicas          int32
	MinReadySeconds   int32
	Selector          labels.Selector
	Template          *corev1.PodTemplateSpec
	Status            *appsv1.ReplicaSetStatus
	CountsTerminating bool // the status tells of pods that are being deleted
}

// View shows the current objects, which are shared.
type View interface {
	Set(key loop.Key) *Set            // nil if there is none, or its selector is broken
	Pods(s *Set) []*corev1.Pod        // those that it controls, and those without a controller that its selector matches
	RelatedPods(s *Set) []*corev1.Pod // those that it and its siblings control
}

// API is what this controller writes.
type API interface {
	CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	DeletePod(ctx context.Context, pod *corev1.Pod) error
	// UpdatePodOwners changes the owner references of the pod of that UID.
	UpdatePodOwners(ctx context.Context, pod *corev1.Pod, change func([]metav1.OwnerReference) []metav1.OwnerReference) error
	SetStatus(ctx context.Context, s *Set, status appsv1.ReplicaSetStatus) error
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

// New makes the controller of one of the two kinds; name is its loop's.
func New(name string, view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, events: events}
	c.Loop = loop.New(name, c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Reconcile brings one set a step closer to its spec.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	s := c.view.Set(key)
	if s == nil {
		return nil // garbage collection removes its pods
	}
	pods := c.view.Pods(s)
	var crowd map[string]int
	if int(s.Replicas) < len(pods) {
		crowd = Crowd(c.view.RelatedPods(s))
	}
	plan := Decide(s, pods, crowd, time.Now())
	failed, err := c.apply(ctx, s, plan)
	if plan.changes() {
		pods = c.view.Pods(s)
	}
	// Of this very generation: whoever changes the spec and finds it observed knows that nothing is done any more for an earlier one.
	status, again := Count(s, pods, failed, time.Now())
	if again > 0 {
		c.MarkAfter(key, again)
	}
	if !equality.Semantic.DeepEqual(&status, s.Status) {
		if e := c.api.SetStatus(ctx, s, status); e != nil && !apierrors.IsNotFound(e) {
			err = errors.Join(err, fmt.Errorf("set status: %w", e))
		}
	}
	if err == nil && (plan.Create == burst || len(plan.Delete) == burst) {
		c.Mark(key) // there is more to do than one pass does
	}
	return err
}

func (p Plan) changes() bool { return p.Create > 0 || len(p.Delete)+len(p.Adopt)+len(p.Release) > 0 }

// apply carries a plan out. What fails it tells as the status will.
func (c *Controller) apply(ctx context.Context, s *Set, p Plan) (failure, error) {
	if err := errors.Join(c.adopt(ctx, s, p.Adopt), c.release(ctx, s, p.Release)); err != nil {
		return failure{}, err // what is there is not known well enough
	}
	if p.Create > 0 {
		if err := c.create(ctx, s, p.Create); err != nil {
			return failure{reasonFailedCreate, err.Error()}, fmt.Errorf("create pods: %w", err)
		}
	}
	if err := c.delete(ctx, s, p.Delete); err != nil {
		return failure{reasonFailedDelete, err.Error()}, fmt.Errorf("delete pods: %w", err)
	}
	return failure{}, nil
}

func (c *Controller) create(ctx context.Context, s *Set, n int) error {
	var mu sync.Mutex
	var first error // the others of its batch mostly say the same
	_, err := workload.Batches(n, func(int) error {
		pod, err := c.api.CreatePod(ctx, workload.NewPod(s.Object, s.Kind, s.Template))
		if err == nil {
			c.events.Record(s.Object, corev1.EventTypeNormal, reasonCreated, "Created pod: "+pod.Name)
			return nil
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return errEnding
		}
		c.events.Record(s.Object, corev1.EventTypeWarning, reasonFailedCreate, "Error creating: "+err.Error())
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = err
		}
		return err
	})
	if err != nil && first == nil { // the namespace is going, and the set with it
		return nil
	}
	return first
}

// errEnding stops a batch whose namespace is being deleted.
var errEnding = errors.New("namespace is being deleted")

func (c *Controller) delete(ctx context.Context, s *Set, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var calls sync.WaitGroup
	for i, pod := range pods {
		calls.Go(func() {
			err := c.api.DeletePod(ctx, pod)
			switch {
			case err == nil:
				c.events.Record(s.Object, corev1.EventTypeNormal, reasonDeleted, "Deleted pod: "+pod.Name)
			case !apierrors.IsNotFound(err):
				c.events.Record(s.Object, corev1.EventTypeWarning, reasonFailedDelete, "Error deleting: "+err.Error())
				errs[i] = err
			}
		})
	}
	calls.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) adopt(ctx context.Context, s *Set, pods []*corev1.Pod) error {
	var errs []error
	for _, pod := range pods {
		err := c.api.UpdatePodOwners(ctx, pod, func(refs []metav1.OwnerReference) []metav1.OwnerReference {
			return workload.WithController(refs, s.Object, s.Kind)
		})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("adopt pod %s: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) release(ctx context.Context, s *Set, pods []*corev1.Pod) error {
	var errs []error
	for _, pod := range pods {
		err := c.api.UpdatePodOwners(ctx, pod, func(refs []metav1.OwnerReference) []metav1.OwnerReference {
			return workload.WithoutOwner(refs, s.Object.GetUID())
		})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("release pod %s: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}
