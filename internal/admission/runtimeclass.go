package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// RuntimeClass gives a pod what its class says: what it takes besides its containers, and on which nodes it may run.
type RuntimeClass struct {
	state   state
	classes *resource.Kind
}

func newRuntimeClass(table *resource.Table, c *cache.Cache) *RuntimeClass {
	k, _ := table.ByKind(nodev1.SchemeGroupVersion.WithKind("RuntimeClass"))
	return &RuntimeClass{state: c, classes: k}
}

// Admit implements Step.
func (r *RuntimeClass) Admit(_ context.Context, a *Attributes) error {
	pod := newPod(a)
	if pod == nil {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(format, args...))
	}
	var class nodev1.RuntimeClass
	if name := pod.Spec.RuntimeClassName; name != nil {
		o := r.state.Snapshot().Get(r.classes, "", *name)
		if o == nil {
			return refuse("pod rejected: RuntimeClass %q not found", *name)
		}
		class = *cache.Typed[*nodev1.RuntimeClass](o)
	}
	switch {
	case class.Overhead == nil && pod.Spec.Overhead != nil:
		return refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	case class.Overhead == nil:
	case pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead):
		return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	default:
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, has := pod.Spec.NodeSelector[key]; has && own != value {
			return refuse("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	pod.Spec.Tolerations = joined(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// joined are the tolerations of both without those that another one covers; of equals the first stays.
func joined(a, b []corev1.Toleration) (list []corev1.Toleration) {
	all := append(append([]corev1.Toleration{}, a...), b...)
	for i := range all {
		needed := true
		for k := range list {
			needed = needed && !covers(&list[k], &all[i])
		}
		for k := i + 1; k < len(all); k++ {
			needed = needed && (equality.Semantic.DeepEqual(all[i], all[k]) || !covers(&all[k], &all[i]))
		}
		if needed {
			list = append(list, *all[i].DeepCopy())
		}
	}
	return list
}

// covers says whether what the second tolerates, the first does, too.
func covers(wide, t *corev1.Toleration) bool {
	exists := wide.Operator == corev1.TolerationOpExists
	switch {
	case equality.Semantic.DeepEqual(wide, t):
		return true
	case t.Key != wide.Key && (wide.Key != "" || !exists), t.Effect != wide.Effect && wide.Effect != "":
		return false
	case wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	}
	equal := func(op corev1.TolerationOperator) bool { return op == corev1.TolerationOpEqual || op == "" }
	return exists || equal(wide.Operator) && equal(t.Operator) && t.Value == wide.Value
}
