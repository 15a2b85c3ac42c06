package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the conditions Available and Progressing.
const (
	reasonEnough       = "MinimumReplicasAvailable"
	reasonTooFew       = "MinimumReplicasUnavailable"
	reasonCreated      = "NewReplicaSetCreated"
	reasonFound        = "FoundNewReplicaSet"
	reasonUpdated      = "ReplicaSetUpdated"
	reasonAvailable    = "NewReplicaSetAvailable"
	reasonCreateFailed = "ReplicaSetCreateError"
	reasonTimedOut     = "ProgressDeadlineExceeded"
	reasonPaused       = "DeploymentPaused"
	reasonResumed      = "DeploymentResumed"
)

func condition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message}
}

func findCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

func dropCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// setCondition puts the condition in the place of one of its type, unless that says the same for the same reason.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition, now time.Time) {
	c.LastUpdateTime = metav1.NewTime(now).Rfc3339Copy()
	c.LastTransitionTime = c.LastUpdateTime
	if was := findCondition(s, c.Type); was != nil {
		if was.Status == c.Status && was.Reason == c.Reason {
			return
		}
		if was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	dropCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func (r *rollout) set(c appsv1.DeploymentCondition) { setCondition(r.status, c, r.now) }

// hasDeadline says that progress is watched: the largest number means that it is not.
func (r *rollout) hasDeadline() bool {
	return r.d.Spec.ProgressDeadlineSeconds != nil && *r.d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// pausedCondition tells of a pause, and of its end.
func (r *rollout) pausedCondition() {
	c := findCondition(r.status, appsv1.DeploymentProgressing)
	if !r.hasDeadline() || c != nil && c.Reason == reasonTimedOut {
		return
	}
	told := c != nil && c.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !told:
		r.set(condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	case !r.d.Spec.Paused && told:
		r.set(condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"))
	}
}

// count makes the numbers of the status, and the condition Available.
func (r *rollout) count() {
	s := r.status
	s.ObservedGeneration = r.d.Generation
	s.Replicas = sum(r.all, func(s *set) int32 { return s.Status.Replicas })
	s.ReadyReplicas = sum(r.all, func(s *set) int32 { return s.Status.ReadyReplicas })
	s.AvailableReplicas = sum(r.all, func(s *set) int32 { return s.Status.AvailableReplicas })
	s.UnavailableReplicas = max(sum(r.all, size)-s.AvailableReplicas, 0)
	s.TerminatingReplicas = new(sum(r.all, func(s *set) int32 { return valueOf(s.Status.TerminatingReplicas) }))
	s.UpdatedReplicas = 0
	if r.newest != nil {
		s.UpdatedReplicas = r.newest.Status.Replicas
	}
	_, unavailable := bounds(r.d)
	if s.AvailableReplicas >= replicas(r.d)-unavailable {
		r.set(condition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonEnough, "Deployment has minimum availability."))
	} else {
		r.set(condition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonTooFew, "Deployment does not have minimum availability."))
	}
}

// progress tells how the rollout goes on, and what fails.
func (r *rollout) progress() {
	what := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.newest != nil {
		what = fmt.Sprintf("ReplicaSet %q", r.newest.Name)
	}
	c := findCondition(r.status, appsv1.DeploymentProgressing)
	s := r.status
	done := s.Replicas == s.UpdatedReplicas && c != nil && c.Reason == reasonAvailable
	switch {
	case !r.hasDeadline():
		dropCondition(s, appsv1.DeploymentProgressing)
	case done:
	case isComplete(r.d, s):
		r.set(condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, what+" has successfully progressed."))
	case progresses(&r.d.Status, s):
		next := condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, what+" is progressing.")
		var since *metav1.Time
		if c != nil && c.Status == corev1.ConditionTrue {
			since = &c.LastTransitionTime
		}
		if since != nil {
			next.LastTransitionTime = *since
		}
		r.renew(next)
	case r.timedOut(c):
		r.set(condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, what+" has timed out progressing."))
	}
	r.failures()
	r.wake()
}

// renew replaces the condition even by one that says the same: its time of update is when there was progress last.
func (r *rollout) renew(c appsv1.DeploymentCondition) {
	c.LastUpdateTime = metav1.NewTime(r.now).Rfc3339Copy()
	if c.LastTransitionTime.IsZero() {
		c.LastTransitionTime = c.LastUpdateTime
	}
	dropCondition(r.status, c.Type)
	r.status.Conditions = append(r.status.Conditions, c)
}

// progresses says that there are more new, fewer old, or more serving pods than there were.
func progresses(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas || is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

func (r *rollout) deadline(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func (r *rollout) timedOut(c *appsv1.DeploymentCondition) bool {
	return c != nil && c.Reason != reasonAvailable && (c.Reason == reasonTimedOut || r.deadline(c).Before(r.now))
}

// wake has a rollout that stands still looked at when its deadline has passed.
func (r *rollout) wake() {
	c := findCondition(r.status, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonTimedOut || c.Reason == reasonAvailable || !r.hasDeadline() {
		return
	}
	r.plan.Again = max(r.deadline(c).Sub(r.now), 0) + time.Second
}

// failures shows that a set cannot make or delete pods: the newest, or else any.
func (r *rollout) failures() {
	sets := r.all
	if r.newest != nil {
		sets = append([]*set{r.newest}, r.all...)
	}
	for _, s := range sets {
		for _, c := range s.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				failed := condition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				r.set(failed)
				return
			}
		}
	}
	dropCondition(r.status, appsv1.DeploymentReplicaFailure)
}
