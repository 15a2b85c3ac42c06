package loops

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/statefulset"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// statefulSets is the controller of StatefulSets.
func statefulSets(w *world) part {
	s := stateful{revisioned{w, w.kindOf(statefulset.Kind), w.kindOf(appsv1.SchemeGroupVersion.WithKind("ControllerRevision"))}}
	c := statefulset.New(s, s, w.storage, w.Events.As("statefulset-controller", ""), w.Queues, w.Log)
	p := part{account: "statefulset-controller", run: c.Run, on: s.on(c.Mark, func(o resource.Object) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(o.(*appsv1.StatefulSet).Spec.Selector)
	})}
	p.on[w.storage.claims] = func(ch change) { // a pod waits for a claim of an earlier one to go
		if ch.new != nil {
			return
		}
		for o := range w.Cache.Snapshot().List(s.kind, cache.Selection{Namespace: ch.key.Namespace}) {
			if statefulset.Names(cache.Typed[*appsv1.StatefulSet](o), ch.key.Name) {
				c.Mark(keyOf(o))
			}
		}
	}
	return p
}

// revisioned is what the controllers of kinds with ControllerRevisions read and write.
type revisioned struct {
	*world
	kind, revisions *resource.Kind
}

// on marks the controllers that a change of their objects, of pods and of revisions concerns.
func (r revisioned) on(mark func(loop.Key), selector func(resource.Object) (labels.Selector, error)) map[*resource.Kind]func(change) {
	return map[*resource.Kind]func(change){
		r.kind:      func(ch change) { mark(ch.key) },
		r.pods:      func(ch change) { r.markControllers(ch, r.kind, selector, mark) },
		r.revisions: func(ch change) { r.markControllers(ch, r.kind, selector, mark) },
	}
}

// ofOwner lists the objects of a kind that the owner controls, and those without a controller that its selector matches.
func ofOwner[T any](r revisioned, kind *resource.Kind, owner metav1.Object, selector *metav1.LabelSelector) []T {
	all := owned[T](r.world, kind, owner.GetNamespace(), owner.GetUID())
	if sel, err := metav1.LabelSelectorAsSelector(selector); err == nil && !sel.Empty() {
		all = append(all, orphans[T](r.world, kind, owner.GetNamespace(), sel)...)
	}
	return all
}

func (r revisioned) Revision(namespace, name string) *appsv1.ControllerRevision {
	return get[*appsv1.ControllerRevision](r.world, r.revisions, namespace, name)
}

func (r revisioned) CreateRevision(ctx context.Context, rev *appsv1.ControllerRevision) error {
	return r.create(ctx, r.revisions, rev)
}

func (r revisioned) UpdateRevision(ctx context.Context, rev *appsv1.ControllerRevision, change func(*appsv1.ControllerRevision)) error {
	return r.update(ctx, r.revisions, "", rev.Namespace, rev.Name, rev.UID, func(o resource.Object) { change(o.(*appsv1.ControllerRevision)) })
}

func (r revisioned) DeleteRevision(ctx context.Context, rev *appsv1.ControllerRevision) error {
	return r.delete(ctx, r.revisions, rev.Namespace, rev.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &rev.UID}})
}

func (r revisioned) UpdatePod(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error {
	return r.update(ctx, r.pods, "", pod.Namespace, pod.Name, pod.UID, func(o resource.Object) { change(o.(*corev1.Pod)) })
}

func (r revisioned) DeletePod(ctx context.Context, pod *corev1.Pod) error {
	return r.delete(ctx, r.pods, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

// stateful shows StatefulSets and what is theirs to their controller.
type stateful struct{ revisioned }

func (s stateful) StatefulSet(key loop.Key) *appsv1.StatefulSet {
	return get[*appsv1.StatefulSet](s.world, s.kind, key.Namespace, key.Name)
}

func (s stateful) Pods(set *appsv1.StatefulSet) []*corev1.Pod {
	return ofOwner[*corev1.Pod](s.revisioned, s.pods, set, set.Spec.Selector)
}

func (s stateful) Revisions(set *appsv1.StatefulSet) []*appsv1.ControllerRevision {
	return ofOwner[*appsv1.ControllerRevision](s.revisioned, s.revisions, set, set.Spec.Selector)
}

func (s stateful) CreatePod(ctx context.Context, pod *corev1.Pod) error {
	return s.create(ctx, s.pods, pod)
}

func (s stateful) SetStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	return s.update(ctx, s.kind, "status", set.Namespace, set.Name, set.UID, func(o resource.Object) { o.(*appsv1.StatefulSet).Status = status })
}
