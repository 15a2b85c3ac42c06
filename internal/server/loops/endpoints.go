//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package loops

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/endpoints"
	"sampan.dev/internal/controller/endpointslice"
	"sampan.dev/internal/controller/mirror"
	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// endpointParts are the controllers of what is behind Services. The first keeps the index that they share, so it is told first.
func endpointParts(w *world) []part {
	b := newBackends(w)
	slices := endpointslice.New(slicing{sliceWriter{b}}, slicing{sliceWriter{b}}, w.Events.As("endpoint-slice-controller", ""), w.Queues, w.Log)
	objects := endpoints.New(objects{b}, objects{b}, w.Events.As("endpoint-controller", ""), w.Queues, w.Log)
	mirrors := mirror.New(mirroring{sliceWriter{b}}, mirroring{sliceWriter{b}}, w.Events.As("endpoint-slice-mirroring-controller", ""), w.Queues, w.Log)
	both := func(key loop.Key) { slices.Mark(key); objects.Mark(key) }
	return []part{
		{account: "endpointslice-controller", run: slices.Run, on: map[*resource.Kind]func(change){
			b.services: func(ch change) { b.serviceChanged(ch); slices.Mark(ch.key) },
			b.pods:     func(ch change) { b.podChanged(ch, both) },
			b.nodes:    func(ch change) { b.nodeChanged(ch, slices.Mark) },
			b.slices: func(ch change) {
				b.sliceChanged(ch, map[string]func(loop.Key){endpointslice.ManagedBy: slices.Mark, mirror.ManagedBy: mirrors.Mark})
			},
		}},
		{account: "endpoint-controller", run: objects.Run, on: map[*resource.Kind]func(change){
			b.services: func(ch change) { objects.Mark(ch.key) },
			b.endpoints: func(ch change) {
				if ch.new == nil || !b.started() && !mirror.Elects(cache.Typed[*corev1.Endpoints](ch.new)) {
					objects.Mark(ch.key) // deleted, or left over from a time when nobody looked
				}
			},
		}},
		{account: "endpointslicemirroring-controller", run: mirrors.Run, on: map[*resource.Kind]func(change){
			b.services: func(ch change) {
				if !selects(ch.old) || !selects(ch.new) {
					mirrors.Mark(ch.key)
				}
			},
			b.endpoints: func(ch change) { mirrors.Mark(ch.key) },
		}},
	}
}

// selects says that an object is a Service with a selector.
func selects(service *cache.Object) bool {
	return service != nil && cache.Typed[*corev1.Service](service).Spec.Selector != nil
}

// objects shows Services to the controller of Endpoints, and writes for it.
type objects struct{ *backends }

func (v objects) Scene(key loop.Key) (scene endpoints.Scene) {
	snap := v.Cache.Snapshot()
	if o := snap.Get(v.services, key.Namespace, key.Name); o != nil {
		if scene.Service = cache.Typed[*corev1.Service](o); !endpoint.FromPods(scene.Service) {
			return scene
		}
		scene.Pods = v.podsOf(snap, scene.Service)
	}
	if o := snap.Get(v.endpoints, key.Namespace, key.Name); o != nil {
		scene.Endpoints = cache.Typed[*corev1.Endpoints](o)
	}
	return scene
}

func (v objects) Create(ctx context.Context, e *corev1.Endpoints) error {
	_, err := v.Registry.Create(ctx, v.backends.endpoints, e.DeepCopy(), metav1.CreateOptions{})
	return err
}

func (v objects) Update(ctx context.Context, e *corev1.Endpoints) error {
	return v.replace(ctx, v.backends.endpoints, e)
}

func (v objects) Delete(ctx context.Context, e *corev1.Endpoints) error {
	return v.remove(ctx, v.backends.endpoints, e)
}

// mirroring shows Endpoints and their Services to the controller that mirrors them.
type mirroring struct{ sliceWriter }

func (v mirroring) Scene(key loop.Key) (scene mirror.Scene) {
	snap := v.Cache.Snapshot()
	scene.Slices = v.slicesOf(snap, key.Namespace, key.Name, mirror.ManagedBy)
	if o := snap.Get(v.services, key.Namespace, key.Name); o != nil {
		scene.Service = cache.Typed[*corev1.Service](o)
	}
	if o := snap.Get(v.endpoints, key.Namespace, key.Name); o != nil && scene.Service != nil && scene.Service.Spec.Selector == nil {
		scene.Endpoints = cache.Typed[*corev1.Endpoints](o)
	}
	return scene
}
