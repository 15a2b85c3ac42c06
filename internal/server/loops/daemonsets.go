package loops

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/daemonset"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// daemonSets is the controller of DaemonSets.
func daemonSets(w *world) part {
	d := daemons{revisioned{w, w.kindOf(daemonset.Kind), w.kindOf(appsv1.SchemeGroupVersion.WithKind("ControllerRevision"))}}
	c := daemonset.New(d, d, w.Events.As("daemonset-controller", ""), w.Queues, w.Log)
	on := d.on(c.Mark, func(o resource.Object) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(o.(*appsv1.DaemonSet).Spec.Selector)
	})
	on[w.nodes] = func(ch change) { d.nodeChanged(ch, c.Mark) }
	return part{account: "daemon-set-controller", run: c.Run, on: on}
}

// daemons shows DaemonSets and what is theirs to their controller.
type daemons struct{ revisioned }

// nodeChanged marks the sets for which a node is another one now. A node that only reports its status concerns none.
func (d daemons) nodeChanged(ch change, mark func(loop.Key)) {
	var old, new *corev1.Node
	if ch.old != nil {
		old = cache.Typed[*corev1.Node](ch.old)
	}
	if ch.new != nil {
		new = cache.Typed[*corev1.Node](ch.new)
	}
	if old != nil && new != nil && equality.Semantic.DeepEqual(old.Labels, new.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) {
		return
	}
	for o := range d.Cache.Snapshot().List(d.kind, cache.Selection{}) {
		fit := daemonset.FitOf(cache.Typed[*appsv1.DaemonSet](o))
		var ran, stayed, runs, stays bool
		if old != nil {
			ran, stayed = fit.On(old)
		}
		if new != nil {
			runs, stays = fit.On(new)
		}
		if ran != runs || stayed != stays {
			mark(keyOf(o))
		}
	}
}

func (d daemons) DaemonSet(key loop.Key) *appsv1.DaemonSet {
	return get[*appsv1.DaemonSet](d.world, d.kind, key.Namespace, key.Name)
}

func (d daemons) Nodes() []*corev1.Node {
	var all []*corev1.Node
	for o := range d.Cache.Snapshot().List(d.nodes, cache.Selection{}) {
		all = append(all, cache.Typed[*corev1.Node](o))
	}
	return all
}

func (d daemons) Pods(ds *appsv1.DaemonSet) []*corev1.Pod {
	return ofOwner[*corev1.Pod](d.revisioned, d.pods, ds, ds.Spec.Selector)
}

func (d daemons) Revisions(ds *appsv1.DaemonSet) []*appsv1.ControllerRevision {
	return ofOwner[*appsv1.ControllerRevision](d.revisioned, d.revisions, ds, ds.Spec.Selector)
}

func (d daemons) CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return d.createPod(ctx, pod)
}

func (d daemons) SetStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	return d.update(ctx, d.kind, "status", ds.Namespace, ds.Name, ds.UID, func(o resource.Object) { o.(*appsv1.DaemonSet).Status = status })
}
