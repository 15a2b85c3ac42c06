// Package namespace empties namespaces that are being deleted, and keeps the four that every cluster has.
//
// It watches Namespaces, and everything in those that are Terminating; it deletes what is in them, pods before all
// else, writes what remains into their conditions, and takes their finalizer off when nothing does. It creates default,
// kube-system, kube-public and kube-node-lease.
// Always: a namespace loses the finalizer `kubernetes` only when no object of any kind is left in it. What is in it is
// known from the table of kinds and the cache alone: no other server that fails to answer can hold it.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// System are the namespaces that are made anew whenever they are missing.
var System = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// View shows the current objects, no older than what API has answered.
type View interface {
	Namespace(name string) *corev1.Namespace // shared; nil if there is none
	Contents(namespace string) []Content     // of each kind that has objects there
}

// API is what this controller writes.
type API interface {
	Create(ctx context.Context, ns *corev1.Namespace) error
	// DeleteAll asks all objects of the kind in the namespace to go, as a DELETE of the collection does.
	DeleteAll(ctx context.Context, kind *resource.Kind, namespace string) error
	SetStatus(ctx context.Context, name string, change func(*corev1.Namespace)) error
	Finalize(ctx context.Context, name string, change func(*corev1.Namespace)) error
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view View
	api  API

	mu   sync.Mutex           // guards told
	told map[string]time.Time // when the conditions of a namespace were written last
}

// New makes the controller. Its System namespaces are marked already.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, told: map[string]time.Time{}}
	c.Loop = loop.New("namespace", c.Reconcile, loop.Options{Workers: 4, BackoffMost: time.Minute, Metrics: metrics, Log: log})
	for _, name := range System {
		c.Mark(loop.Key{Name: name})
	}
	return c
}

// settle is how long changes in a namespace are gathered before it is looked at again; rewrite how often its
// conditions are written at most while only counts in them change.
const (
	settle  = 20 * time.Millisecond
	rewrite = time.Second
)

// ContentChanged says that an object in a namespace that is being deleted has changed or gone.
func (c *Controller) ContentChanged(namespace string) {
	c.MarkAfter(loop.Key{Name: namespace}, settle)
}

// Reconcile brings one namespace a step closer to its end, or to its beginning.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	ns := c.view.Namespace(key.Name)
	switch {
	case ns == nil:
		c.forget(key.Name)
		return c.create(ctx, key.Name)
	case ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes):
		return nil
	}
	failure := c.empty(ctx, key.Name)
	left := c.view.Contents(key.Name)
	if err := c.tell(ctx, ns, Conditions(left, failure)); err != nil {
		return err
	}
	if len(left) > 0 || failure != nil {
		return failure // what is left marks the namespace when it goes
	}
	err := c.api.Finalize(ctx, key.Name, func(ns *corev1.Namespace) {
		ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace: %w", err)
	}
	c.forget(key.Name)
	return nil
}

func (c *Controller) create(ctx context.Context, name string) error {
	if !slices.Contains(System, name) {
		return nil
	}
	err := c.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace: %w", err)
	}
	return nil
}

// empty asks everything in the namespace to go, wave after wave while one leaves nothing behind.
func (c *Controller) empty(ctx context.Context, name string) error {
	for range 3 { // pods, the rest, and what came meanwhile
		wave := Next(c.view.Contents(name))
		var errs []error
		for _, kind := range wave {
			if err := c.api.DeleteAll(ctx, kind, name); err != nil {
				errs = append(errs, fmt.Errorf("delete %s: %w", kind.GroupResource(), err))
			}
		}
		if len(wave) == 0 || errs != nil {
			return errors.Join(errs...)
		}
	}
	return nil
}

// tell writes the conditions if they say something new.
func (c *Controller) tell(ctx context.Context, ns *corev1.Namespace, conditions []corev1.NamespaceCondition) error {
	merged, news := Merge(ns.Status.Conditions, conditions, metav1.Now())
	if news == same {
		return nil
	}
	if wait := c.sinceTold(ns.Name); news == counts && wait < rewrite {
		c.MarkAfter(loop.Key{Name: ns.Name}, rewrite-wait)
		return nil
	}
	err := c.api.SetStatus(ctx, ns.Name, func(current *corev1.Namespace) {
		current.Status.Phase = corev1.NamespaceTerminating
		current.Status.Conditions = merged
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status of namespace: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told[ns.Name] = time.Now()
	return nil
}

func (c *Controller) sinceTold(name string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.told[name])
}

func (c *Controller) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, name)
}
