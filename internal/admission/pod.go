package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// newPod returns the pod that a write creates, or nil.
func newPod(a *Attributes) *corev1.Pod {
	if a.Operation != Create || a.Sub != "" {
		return nil
	}
	pod, _ := a.Object.(*corev1.Pod)
	return pod
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
