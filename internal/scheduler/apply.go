package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

func keyOf(pod *corev1.Pod) loop.Key { return loop.Key{Namespace: pod.Namespace, Name: pod.Name} }

// bind writes the decision, and hands a refusal back to the scheduler's goroutine.
func (s *Scheduler) bind(ctx context.Context, pod *corev1.Pod, node string, p *placement) bool {
	err := s.API.Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err == nil {
		s.recorder(pod).Record(pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node))
		return true
	}
	s.fail(ctx, pod, node, p, fmt.Errorf("binding rejected: %w", err))
	return false
}

// fail hands a decision that could not be carried out back to the scheduler's goroutine.
func (s *Scheduler) fail(ctx context.Context, pod *corev1.Pod, node string, p *placement, err error) {
	if ctx.Err() != nil {
		return
	}
	// A pod that is gone, replaced or bound by another is no failure of ours: the source will show what became of it.
	if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.Log.Warn("binding refused, will try again", "pod", keyOf(pod), "node", node, "error", err)
		s.tell(ctx, pod, corev1.PodReasonSchedulerError, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.failures = append(s.changed.failures, failure{key: keyOf(pod), placement: p})
	s.nudge()
}

func (s *Scheduler) tellUnschedulable(ctx context.Context, pod *corev1.Pod, message string) {
	s.tell(ctx, pod, corev1.PodReasonUnschedulable, message)
}

// tell says on the pod and in an event why it has no node.
func (s *Scheduler) tell(ctx context.Context, pod *corev1.Pod, reason, message string) {
	s.recorder(pod).Record(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	s.setCondition(ctx, pod, reason, message)
}

func (s *Scheduler) setCondition(ctx context.Context, pod *corev1.Pod, reason, message string) {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message {
			return
		}
	}
	err := s.API.SetCondition(ctx, keyOf(pod), pod.UID, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	})
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		s.Log.Warn("condition not written", "pod", keyOf(pod), "reason", reason, "error", err)
	}
}

// tellGated says on the pod that its gates hold it, in the words the API uses when it is created with them.
func (s *Scheduler) tellGated(ctx context.Context, pod *corev1.Pod) {
	s.setCondition(ctx, pod, corev1.PodReasonSchedulingGated, "Scheduling is blocked due to non-empty scheduling gates")
}

// recorder tells what the pod's profile has done.
func (s *Scheduler) recorder(pod *corev1.Pod) Recorder { return s.recorders[s.plans.of(pod).name] }

// ours reports whether the pod is to be given a node here, now or once its gates are gone.
func (s *Scheduler) ours(pod *corev1.Pod) bool {
	return s.plans.of(pod) != nil && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil && !ended(pod)
}

// ended reports whether the pod takes nothing of its node any more.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
