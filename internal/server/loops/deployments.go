package loops

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/controller/deployment"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// deployments is the controller of Deployments.
func deployments(w *world) part {
	d := deploying{world: w, kind: w.kindOf(deployment.Kind), sets: w.kindOf(appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	c := deployment.New(d, d, w.Events.As("deployment-controller", ""), w.Queues, w.Log)
	selector := func(o resource.Object) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(o.(*appsv1.Deployment).Spec.Selector)
	}
	return part{account: "deployment-controller", run: c.Run, on: map[*resource.Kind]func(change){
		d.kind: func(ch change) { c.Mark(ch.key) },
		d.sets: func(ch change) { w.markControllers(ch, d.kind, selector, c.Mark) },
	}}
}

// deploying shows Deployments and their ReplicaSets to their controller.
type deploying struct {
	*world
	kind, sets *resource.Kind
}

func (d deploying) Deployment(key loop.Key) *appsv1.Deployment {
	return get[*appsv1.Deployment](d.world, d.kind, key.Namespace, key.Name)
}

func (d deploying) ReplicaSet(key loop.Key) *appsv1.ReplicaSet {
	return get[*appsv1.ReplicaSet](d.world, d.sets, key.Namespace, key.Name)
}

func (d deploying) ReplicaSets(of *appsv1.Deployment) []*appsv1.ReplicaSet {
	all := owned[*appsv1.ReplicaSet](d.world, d.sets, of.Namespace, of.UID)
	if sel, err := metav1.LabelSelectorAsSelector(of.Spec.Selector); err == nil {
		all = append(all, orphans[*appsv1.ReplicaSet](d.world, d.sets, of.Namespace, sel)...)
	}
	return all
}

func (d deploying) CreateReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet) error {
	return d.create(ctx, d.sets, rs)
}

func (d deploying) UpdateReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet, change func(*appsv1.ReplicaSet)) error {
	return d.update(ctx, d.sets, "", rs.Namespace, rs.Name, rs.UID, func(o resource.Object) { change(o.(*appsv1.ReplicaSet)) })
}

func (d deploying) DeleteReplicaSet(ctx context.Context, rs *appsv1.ReplicaSet) error {
	background := metav1.DeletePropagationBackground
	return d.delete(ctx, d.sets, rs.Namespace, rs.Name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &rs.UID}})
}

func (d deploying) SetStatus(ctx context.Context, of *appsv1.Deployment, change func(*appsv1.Deployment)) error {
	return d.update(ctx, d.kind, "status", of.Namespace, of.Name, of.UID, func(o resource.Object) { change(o.(*appsv1.Deployment)) })
}
