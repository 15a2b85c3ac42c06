package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// newPod returns the pod that a write creates, or nil.
func newPod(a *Attributes) *corev1.Pod {
	if a.Operation != Create || a.Sub != "" {
		return nil
	}
	pod, _ := a.Object.(*corev1.Pod)
	return pod
}

// Priority turns a pod's priority class into a number. Classes of one's own come with their kind; these two are always there.
type Priority struct{}

var systemPriorities = map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}

// Admit implements Step.
func (Priority) Admit(_ context.Context, a *Attributes) error {
	pod := newPod(a)
	if pod == nil {
		return nil
	}
	value := int32(0)
	if name := pod.Spec.PriorityClassName; name != "" {
		known, ok := systemPriorities[name]
		if !ok {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("no PriorityClass with name %v was found", name))
		}
		value = known
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	pod.Spec.Priority = &value
	if pod.Spec.PreemptionPolicy == nil {
		lower := corev1.PreemptLowerPriority
		pod.Spec.PreemptionPolicy = &lower
	}
	return nil
}

// DefaultTolerationSeconds lets each pod stay on a node that is not ready or not reachable for a while before it is evicted, unless the pod says otherwise.
type DefaultTolerationSeconds struct {
	Seconds *int64 // nil: TolerationSeconds
}

// TolerationSeconds is the default of the default; in Kubernetes it is 300.
const TolerationSeconds = 30

// Admit implements Step.
func (d DefaultTolerationSeconds) Admit(_ context.Context, a *Attributes) error {
	pod := newPod(a)
	if pod == nil {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if tolerates(pod.Spec.Tolerations, key) {
			continue
		}
		seconds := int64(TolerationSeconds)
		if d.Seconds != nil {
			seconds = *d.Seconds
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return nil
}

func tolerates(list []corev1.Toleration, key string) bool {
	for _, t := range list {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
