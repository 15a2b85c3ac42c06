// Package podgc removes pods that nobody is left to end.
//
// It watches Nodes and Pods; it marks pods as failed and deletes them.
// Always: it deletes, without grace, only pods bound to a node that has been missing for a while, and pods that are
// being deleted and were never bound.
package podgc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// Quarantine is how long a node must be missing: it may be registering anew.
const Quarantine = 40 * time.Second

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Pod(key loop.Key) *corev1.Pod
	NodeExists(name string) bool
	PodsOn(node string) []*corev1.Pod
}

// API is what this controller writes.
type API interface {
	// UpdatePodStatus changes the status, unless the pod is gone or has another UID.
	UpdatePodStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error
	// DeletePod deletes the pod of that UID at once.
	DeletePod(ctx context.Context, pod *corev1.Pod) error
}

// Controller has two loops: of nodes that are missing, and of pods that were never bound. Run runs both.
type Controller struct {
	view  View
	api   API
	log   *slog.Logger
	nodes *loop.Loop
	pods  *loop.Loop

	mu      sync.Mutex
	missing map[string]time.Time // since when
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{view: view, api: api, log: log, missing: map[string]time.Time{}}
	c.nodes = loop.New("podgc-nodes", c.reconcileNode, loop.Options{Metrics: metrics, Log: log})
	c.pods = loop.New("podgc-pods", c.reconcilePod, loop.Options{Metrics: metrics, Log: log})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.pods.Run(ctx) }()
	err := c.nodes.Run(ctx)
	return errors.Join(err, <-done)
}

// NodeChanged says that the node has come or gone.
func (c *Controller) NodeChanged(name string) { c.nodes.Mark(loop.Key{Name: name}) }

// PodChanged says that the pod has come or changed: bound to node, or not bound if that is empty.
func (c *Controller) PodChanged(key loop.Key, node string, deleting bool) {
	switch {
	case node != "" && !c.view.NodeExists(node):
		c.NodeChanged(node)
	case node == "" && deleting:
		c.pods.Mark(key)
	}
}

// reconcileNode deletes the pods of one node if it is missing for long enough.
func (c *Controller) reconcileNode(ctx context.Context, key loop.Key) error {
	if c.view.NodeExists(key.Name) {
		c.found(key.Name)
		return nil
	}
	pods := c.view.PodsOn(key.Name)
	if len(pods) == 0 {
		c.found(key.Name)
		return nil
	}
	if left := Quarantine - c.missingFor(key.Name, time.Now()); left > 0 {
		c.nodes.MarkAfter(key, left)
		return nil
	}
	var errs []error
	for _, pod := range pods {
		errs = append(errs, c.remove(ctx, pod))
	}
	return errors.Join(errs...)
}

func (c *Controller) missingFor(node string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, known := c.missing[node]
	if !known {
		c.missing[node], since = now, now
	}
	return now.Sub(since)
}

func (c *Controller) found(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.missing, node)
}

// remove says why on the pod, and deletes it.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod) error {
	c.log.Info("pod removed: its node no longer exists", "pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName)
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { fail(s, pod.Generation, metav1.Now()) })
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return c.delete(ctx, pod)
}

func (c *Controller) delete(ctx context.Context, pod *corev1.Pod) error {
	err := c.api.DeletePod(ctx, pod)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// fail makes the status that of a pod whose node is gone.
func fail(s *corev1.PodStatus, generation int64, now metav1.Time) {
	s.Phase = corev1.PodFailed
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
		Message: "PodGC: node no longer exists", LastTransitionTime: now, ObservedGeneration: generation,
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == condition.Type {
			s.Conditions[i] = condition
			return
		}
	}
	s.Conditions = append(s.Conditions, condition)
}

// reconcilePod deletes one pod that is being deleted and was never bound: no agent will.
func (c *Controller) reconcilePod(ctx context.Context, key loop.Key) error {
	pod := c.view.Pod(key)
	if pod == nil || pod.DeletionTimestamp == nil || pod.Spec.NodeName != "" {
		return nil
	}
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed { // whoever holds it by a finalizer waits for its end
		err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update status of pod %s: %w", key, err)
		}
	}
	return c.delete(ctx, pod)
}
