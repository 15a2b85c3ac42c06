package loops

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/controller/replicaset"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// replicaSets is the controller of ReplicaSets.
func replicaSets(w *world) part {
	sets := sets{world: w, kind: w.kindOf(appsv1.SchemeGroupVersion.WithKind("ReplicaSet")), show: replicaSet}
	c := replicaset.New("replicaset", sets, sets, w.Events.As("replicaset-controller", ""), w.Queues, w.Log)
	return sets.part("replicaset-controller", c)
}

// sets shows ReplicaSets, or ReplicationControllers, to their controller.
type sets struct {
	*world
	kind *resource.Kind
	show func(resource.Object) *replicaset.Set // nil: its selector is broken
}

func (s sets) part(account string, c *replicaset.Controller) part {
	selector := func(o resource.Object) (labels.Selector, error) {
		if set := s.show(o); set != nil {
			return set.Selector, nil
		}
		return nil, fmt.Errorf("selector is broken")
	}
	return part{account: account, run: c.Run, on: map[*resource.Kind]func(change){
		s.kind: func(ch change) { c.Mark(ch.key) },
		s.pods: func(ch change) { s.markControllers(ch, s.kind, selector, c.Mark) },
	}}
}

func replicaSet(o resource.Object) *replicaset.Set {
	rs := o.(*appsv1.ReplicaSet)
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil
	}
	return &replicaset.Set{
		Object: rs, Kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), Replicas: *rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds,
		Selector: sel, Template: &rs.Spec.Template, Status: &rs.Status, CountsTerminating: true,
	}
}

func (s sets) Set(key loop.Key) *replicaset.Set {
	if o := get[resource.Object](s.world, s.kind, key.Namespace, key.Name); o != nil {
		return s.show(o)
	}
	return nil
}

func (s sets) Pods(set *replicaset.Set) []*corev1.Pod {
	ns := set.Object.GetNamespace()
	return append(owned[*corev1.Pod](s.world, s.pods, ns, set.Object.GetUID()), orphans[*corev1.Pod](s.world, s.pods, ns, set.Selector)...)
}

func (s sets) RelatedPods(set *replicaset.Set) (all []*corev1.Pod) {
	ns := set.Object.GetNamespace()
	siblings := []types.UID{set.Object.GetUID()}
	if owner := metav1.GetControllerOfNoCopy(set.Object); owner != nil {
		siblings = nil
		for _, o := range owned[resource.Object](s.world, s.kind, ns, owner.UID) {
			siblings = append(siblings, o.GetUID())
		}
	}
	for _, uid := range siblings {
		all = append(all, owned[*corev1.Pod](s.world, s.pods, ns, uid)...)
	}
	return all
}

func (s sets) CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return s.createPod(ctx, pod)
}

func (s sets) DeletePod(ctx context.Context, pod *corev1.Pod) error {
	return s.delete(ctx, s.pods, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

func (s sets) UpdatePodOwners(ctx context.Context, pod *corev1.Pod, change func([]metav1.OwnerReference) []metav1.OwnerReference) error {
	return s.updateOwners(ctx, s.pods, pod, change)
}

func (s sets) SetStatus(ctx context.Context, set *replicaset.Set, status appsv1.ReplicaSetStatus) error {
	o := set.Object
	return s.update(ctx, s.kind, "status", o.GetNamespace(), o.GetName(), o.GetUID(), func(o resource.Object) {
		switch o := o.(type) {
		case *appsv1.ReplicaSet:
			o.Status = status
		case *corev1.ReplicationController:
			setControllerStatus(&o.Status, status)
		}
	})
}
