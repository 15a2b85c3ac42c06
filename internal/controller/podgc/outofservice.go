package podgc

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/loop"
)

// NodeView shows nodes too.
type NodeView interface {
	View
	Node(name string) *corev1.Node
}

// OutOfService removes pods that are being deleted from nodes of which a person has said, by the taint node.kubernetes.io/out-of-service, that they are off.
// What gets the pods deleted is that taint's effect, NoExecute; those that tolerate it stay. Its keys are pods.
type OutOfService struct {
	*loop.Loop
	view NodeView
	api  API
	log  *slog.Logger
}

// NewOutOfService makes the controller.
func NewOutOfService(view NodeView, api API, metrics *loop.Metrics, log *slog.Logger) *OutOfService {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o := &OutOfService{view: view, api: api, log: log}
	o.Loop = loop.New("podgc-out-of-service", o.Reconcile, loop.Options{Metrics: metrics, Log: log})
	return o
}

// NodeChanged says that a node has come or changed: nil is none.
func (o *OutOfService) NodeChanged(node *corev1.Node) {
	if node == nil || !off(node) {
		return
	}
	for _, pod := range o.view.PodsOn(node.Name) {
		o.PodChanged(loop.Key{Namespace: pod.Namespace, Name: pod.Name}, node.Name, pod.DeletionTimestamp != nil)
	}
}

// PodChanged says that the pod has come or changed, and whether it is being deleted.
func (o *OutOfService) PodChanged(key loop.Key, node string, deleting bool) {
	if deleting && node != "" {
		if n := o.view.Node(node); n != nil && off(n) {
			o.Mark(key)
		}
	}
}

// off says that the node is neither ready nor in service.
func off(node *corev1.Node) bool {
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return false
	}
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// Reconcile removes one pod if nobody is left to end it.
func (o *OutOfService) Reconcile(ctx context.Context, key loop.Key) error {
	pod := o.view.Pod(key)
	if pod == nil || pod.DeletionTimestamp == nil || pod.Spec.NodeName == "" {
		return nil
	}
	if node := o.view.Node(pod.Spec.NodeName); node == nil || !off(node) {
		return nil
	}
	o.log.Info("pod removed: its node is out of service", "pod", key, "node", pod.Spec.NodeName)
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		err := o.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update status of pod %s: %w", key, err)
		}
	}
	err := o.api.DeletePod(ctx, pod)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", key, err)
	}
	return nil
}
