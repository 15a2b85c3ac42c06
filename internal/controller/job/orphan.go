package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// PodOrphaned says that a pod with the finalizer seems to have no job that will count it.
func (c *Controller) PodOrphaned(key loop.Key) { c.orphans.Mark(key) }

// reconcileOrphan lets one pod go if no job will.
func (c *Controller) reconcileOrphan(ctx context.Context, key loop.Key) error {
	pod := c.view.Pod(key)
	if pod == nil || !isTracked(pod) || !c.isOrphan(pod) {
		return nil
	}
	if err := c.api.UpdatePod(ctx, pod, untrack); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let go pod that has no job: %w", err)
	}
	return nil
}

func (c *Controller) isOrphan(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return true
	}
	if ref.Kind != kind.Kind || ref.APIVersion != batchv1.SchemeGroupVersion.String() {
		return false
	}
	j := c.view.Job(loop.Key{Namespace: pod.Namespace, Name: ref.Name})
	return j == nil || j.UID != ref.UID || isFinished(j) && !isOthers(j)
}
