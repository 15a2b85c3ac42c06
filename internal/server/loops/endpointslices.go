package loops

import (
	"context"
	"iter"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/endpointslice"
	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// backends shows Services and what is behind them to the controllers of EndpointSlices and Endpoints. Neither all Services nor all pods are looked at
// when one of them changes.
type backends struct {
	*world
	services, slices, endpoints *resource.Kind

	index endpoint.Index   // pods and Services
	files *endpoint.Slices // slices of Services
}

func newBackends(w *world) *backends {
	b := &backends{
		world: w, services: w.kindOf(corev1.SchemeGroupVersion.WithKind("Service")),
		slices: w.kindOf(discovery.SchemeGroupVersion.WithKind("EndpointSlice")), endpoints: w.kindOf(corev1.SchemeGroupVersion.WithKind("Endpoints")),
		files: &endpoint.Slices{},
	}
	b.index.List = func(namespace string) iter.Seq2[string, labels.Labels] {
		return func(yield func(string, labels.Labels) bool) {
			for o := range w.Cache.Snapshot().List(w.pods, cache.Selection{Namespace: namespace}) {
				if !yield(o.Name(), o.LabelSet()) {
					return
				}
			}
		}
	}
	return b
}

// labelsOf are the labels of an object, and nil of none.
func labelsOf(o *cache.Object) labels.Labels {
	if o == nil {
		return nil
	}
	return o.LabelSet()
}

// serviceChanged keeps the index. It goes before all marks.
func (b *backends) serviceChanged(ch change) {
	var selector map[string]string
	if ch.new != nil {
		if s := cache.Typed[*corev1.Service](ch.new); endpoint.FromPods(s) {
			selector = s.Spec.Selector
		}
	}
	b.index.Set(ch.key.Namespace, ch.key.Name, selector)
}

// podChanged marks the Services that a pod's change concerns.
func (b *backends) podChanged(ch change, mark func(loop.Key)) {
	was, is := labelsOf(ch.old), labelsOf(ch.new)
	b.index.Pod(ch.key.Namespace, ch.key.Name, was, is)
	changed := func() bool {
		return endpoint.Changed(cache.Typed[*corev1.Pod](ch.old), cache.Typed[*corev1.Pod](ch.new))
	}
	for _, service := range b.index.Concerned(ch.key.Namespace, was, is, changed) {
		mark(loop.Key{Namespace: ch.key.Namespace, Name: service})
	}
}

// nodeChanged marks the Services that have pods on a node that has come, or is in another zone now.
func (b *backends) nodeChanged(ch change, mark func(loop.Key)) {
	if ch.new == nil || ch.old != nil && ch.old.LabelSet().Get(corev1.LabelTopologyZone) == ch.new.LabelSet().Get(corev1.LabelTopologyZone) {
		return
	}
	on := cache.Selection{Fields: fields.OneTermEqualSelector("spec.nodeName", ch.key.Name)}
	for pod := range b.Cache.Snapshot().List(b.pods, on) {
		for _, service := range b.index.Selecting(pod.Namespace(), pod.LabelSet()) {
			mark(loop.Key{Namespace: pod.Namespace(), Name: service})
		}
	}
}

// sliceChanged files a slice, and marks with each manager the Services that its slice was and is of.
func (b *backends) sliceChanged(ch change, managers map[string]func(loop.Key)) {
	var services [2]string
	for i, o := range []*cache.Object{ch.old, ch.new} {
		if o != nil {
			services[i] = o.LabelSet().Get(discovery.LabelServiceName)
		}
	}
	b.files.Move(ch.key.Namespace, ch.key.Name, services[0], services[1])
	for i, o := range []*cache.Object{ch.old, ch.new} {
		if services[i] == "" {
			continue
		}
		if mark := managers[o.LabelSet().Get(discovery.LabelManagedBy)]; mark != nil {
			mark(loop.Key{Namespace: ch.key.Namespace, Name: services[i]})
		}
	}
}

// podsOf lists the pods that a Service selects.
func (b *backends) podsOf(snap *cache.Snapshot, s *corev1.Service) (pods []*corev1.Pod) {
	selector := labels.SelectorFromSet(s.Spec.Selector)
	names, known := b.index.Pods(s.Namespace, s.Name, s.Spec.Selector)
	if !known {
		for o := range snap.List(b.pods, cache.Selection{Namespace: s.Namespace, Labels: selector}) {
			pods = append(pods, cache.Typed[*corev1.Pod](o))
		}
		return pods
	}
	for _, name := range names {
		if o := snap.Get(b.pods, s.Namespace, name); o != nil && selector.Matches(o.LabelSet()) {
			pods = append(pods, cache.Typed[*corev1.Pod](o))
		}
	}
	return pods
}

// slicesOf lists the slices that one manager has made for a Service.
func (b *backends) slicesOf(snap *cache.Snapshot, namespace, service, manager string) (all []*discovery.EndpointSlice) {
	for _, name := range b.files.Of(namespace, service) {
		o := snap.Get(b.slices, namespace, name)
		if o != nil && o.LabelSet().Get(discovery.LabelServiceName) == service && o.LabelSet().Get(discovery.LabelManagedBy) == manager {
			all = append(all, cache.Typed[*discovery.EndpointSlice](o))
		}
	}
	return all
}

// Shown waits until the cache shows what has been written.
func (b *backends) Shown(ctx context.Context) error { return b.shown(ctx) }

// remove deletes one object, if it still is that one. It does not wait until that shows.
func (b *backends) remove(ctx context.Context, kind *resource.Kind, o metav1.Object) error {
	uid := o.GetUID()
	_, _, err := b.Registry.Delete(ctx, kind, o.GetNamespace(), o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsConflict(err) {
		return apierrors.NewNotFound(kind.GroupResource(), o.GetName())
	}
	return err
}

// replace writes an object over the version that it carries. It does not wait until that shows.
func (b *backends) replace(ctx context.Context, kind *resource.Kind, o resource.Object) error {
	_, _, err := b.Registry.Update(ctx, kind, "", o.GetNamespace(), o.GetName(), func(resource.Object) (resource.Object, error) {
		return o.DeepCopyObject().(resource.Object), nil
	}, metav1.UpdateOptions{})
	return err
}

// sliceWriter writes slices for the controllers that make them.
type sliceWriter struct{ *backends }

func (w sliceWriter) Create(ctx context.Context, s *discovery.EndpointSlice) error {
	made, err := w.Registry.Create(ctx, w.slices, s.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	w.files.Note(s.Namespace, s.Labels[discovery.LabelServiceName], made.GetName())
	return nil
}

func (w sliceWriter) Update(ctx context.Context, s *discovery.EndpointSlice) error {
	return w.replace(ctx, w.slices, s)
}

func (w sliceWriter) Delete(ctx context.Context, s *discovery.EndpointSlice) error {
	return w.remove(ctx, w.slices, s)
}

// slicing shows Services to the controller of EndpointSlices.
type slicing struct{ sliceWriter }

func (v slicing) Scene(key loop.Key) (scene endpointslice.Scene) {
	snap := v.Cache.Snapshot()
	o := snap.Get(v.services, key.Namespace, key.Name)
	if o == nil {
		return scene
	}
	scene.Service = cache.Typed[*corev1.Service](o)
	if !endpoint.FromPods(scene.Service) {
		return scene
	}
	scene.Pods = v.podsOf(snap, scene.Service)
	scene.Slices = v.slicesOf(snap, key.Namespace, key.Name, endpointslice.ManagedBy)
	scene.Zones = func(node string) (string, bool) {
		o := snap.Get(v.nodes, "", node)
		if o == nil {
			return "", false
		}
		return o.LabelSet().Get(corev1.LabelTopologyZone), true
	}
	return scene
}
