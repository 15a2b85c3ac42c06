package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/resource"
)

// Bind puts a pod on a node. The binding's name and namespace are the pod's; a uid or resourceVersion in its metadata is a condition.
func (r *Registry) Bind(ctx context.Context, b *corev1.Binding, o ...metav1.CreateOptions) error {
	dry := len(o) > 0 && dryRun(o[0].DryRun)
	kind, _ := r.table.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	var errs field.ErrorList
	if k := b.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, b.Name, errs)
	}
	err := r.admit(ctx, &admission.Attributes{Operation: admission.Create, Kind: kind, Sub: "binding", Namespace: b.Namespace, Name: b.Name, DryRun: dry})
	if err != nil {
		return err
	}
	_, err = r.modify(ctx, kind, b.Namespace, b.Name, dry, func(old resource.Object) (resource.Object, bool, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		refuse := func(format string, args ...any) error {
			return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
		}
		var want metav1.Preconditions
		if b.UID != "" {
			want.UID = &b.UID
		}
		if b.ResourceVersion != "" {
			want.ResourceVersion = &b.ResourceVersion
		}
		if err := preconditions(kind, pod, &want); err != nil {
			return nil, false, err
		}
		switch {
		case pod.DeletionTimestamp != nil:
			return nil, false, refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
		case pod.Spec.NodeName != "":
			return nil, false, refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
		case len(pod.Spec.SchedulingGates) > 0:
			return nil, false, refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
		}
		pod.Spec.NodeName = b.Target.Name
		for key, value := range b.Annotations {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, key, value)
		}
		pod.Status.NominatedNodeName = "" // it has one now
		scheduled(pod, metav1.NewTime(r.now().Truncate(time.Second)))
		return pod, false, nil
	})
	return err
}

// scheduled sets the condition PodScheduled.
func scheduled(pod *corev1.Pod, now metav1.Time) {
	want := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, LastTransitionTime: now,
	}
	s := &pod.Status
	i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == want.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, want)
		return
	}
	if s.Conditions[i].Status == want.Status {
		want.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = want
}
