package loops

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/controller/replicaset"
	"sampan.dev/internal/resource"
)

// replicationControllers is the controller of ReplicationControllers: that of ReplicaSets, to which they are shown as such.
func replicationControllers(w *world) part {
	sets := sets{world: w, kind: w.kindOf(corev1.SchemeGroupVersion.WithKind("ReplicationController")), show: replicationController}
	c := replicaset.New("replicationmanager", sets, sets, w.Events.As("replication-controller", ""), w.Queues, w.Log)
	return sets.part("replication-controller", c)
}

func replicationController(o resource.Object) *replicaset.Set {
	rc := o.(*corev1.ReplicationController)
	if rc.Spec.Template == nil || len(rc.Spec.Selector) == 0 {
		return nil
	}
	status := &appsv1.ReplicaSetStatus{
		Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
		AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
	}
	for _, c := range rc.Status.Conditions {
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return &replicaset.Set{
		Object: rc, Kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"), Replicas: *rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
		Selector: labels.SelectorFromSet(rc.Spec.Selector), Template: rc.Spec.Template, Status: status,
	}
}

// setControllerStatus is the way back.
func setControllerStatus(to *corev1.ReplicationControllerStatus, s appsv1.ReplicaSetStatus) {
	*to = corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas, AvailableReplicas: s.AvailableReplicas,
		ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		to.Conditions = append(to.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
}
