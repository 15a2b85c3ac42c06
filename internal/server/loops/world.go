package loops

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/garbage"
	"sampan.dev/internal/controller/namespace"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// world is the cache and the registry in the words of the loops: what each calls its View and its API.
type world struct {
	Config
	pods, nodes, namespaces, accounts, configs, events *resource.Kind

	storage storing

	mu     sync.Mutex
	ending map[string]struct{} // namespaces that are being deleted

	found atomic.Bool // all that was there when the loops began has been told
}

// started says that changes are news, and not what was found at the start.
func (w *world) started() bool { return w.found.Load() }

func newWorld(c Config) *world {
	w := &world{Config: c, ending: map[string]struct{}{}}
	core := func(kind string) *resource.Kind {
		k, _ := c.Table.ByKind(corev1.SchemeGroupVersion.WithKind(kind))
		if k == nil {
			panic(fmt.Sprintf("control loops: the table has no %s", kind))
		}
		return k
	}
	w.pods, w.nodes, w.namespaces = core("Pod"), core("Node"), core("Namespace")
	w.accounts, w.configs, w.events = core("ServiceAccount"), core("ConfigMap"), core("Event")
	w.storage = newStoring(w)
	return w
}

func (w *world) isEnding(namespace string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ending := w.ending[namespace]
	return ending
}

func (w *world) setEnding(namespace string, ending bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ending {
		w.ending[namespace] = struct{}{}
	} else {
		delete(w.ending, namespace)
	}
}

// get is the current object of that name, or nil.
func get[T any](w *world, kind *resource.Kind, namespace, name string) (object T) {
	if o := w.Cache.Snapshot().Get(kind, namespace, name); o != nil {
		return cache.Typed[T](o)
	}
	return object
}

func (w *world) Pod(key loop.Key) *corev1.Pod {
	return get[*corev1.Pod](w, w.pods, key.Namespace, key.Name)
}

// NamespaceLabels implements scheduler.Source.
func (w *world) NamespaceLabels(name string) map[string]string {
	if o := w.Cache.Snapshot().Get(w.namespaces, "", name); o != nil {
		return cache.Typed[*corev1.Namespace](o).Labels
	}
	return nil
}

func (w *world) Node(name string) *corev1.Node { return get[*corev1.Node](w, w.nodes, "", name) }

func (w *world) Namespace(name string) *corev1.Namespace {
	return get[*corev1.Namespace](w, w.namespaces, "", name)
}

func (w *world) ServiceAccount(namespace, name string) *corev1.ServiceAccount {
	return get[*corev1.ServiceAccount](w, w.accounts, namespace, name)
}

func (w *world) ConfigMap(namespace, name string) *corev1.ConfigMap {
	return get[*corev1.ConfigMap](w, w.configs, namespace, name)
}

func (w *world) Event(key loop.Key) *corev1.Event {
	return get[*corev1.Event](w, w.events, key.Namespace, key.Name)
}

func (w *world) NodeExists(name string) bool {
	return w.Cache.Snapshot().Get(w.nodes, "", name) != nil
}

func (w *world) PodsOn(node string) []*corev1.Pod {
	var pods []*corev1.Pod
	for o := range w.Cache.Snapshot().List(w.pods, cache.Selection{Fields: fields.OneTermEqualSelector("spec.nodeName", node)}) {
		pods = append(pods, cache.Typed[*corev1.Pod](o))
	}
	return pods
}

// Contents counts what is in a namespace.
func (w *world) Contents(ns string) []namespace.Content {
	s := w.Cache.Snapshot()
	var contents []namespace.Content
	for _, kind := range w.Table.All() {
		if !kind.Namespaced {
			continue
		}
		c := namespace.Content{Kind: kind}
		for o := range s.List(kind, cache.Selection{Namespace: ns}) {
			c.Count++
			m := metaOf(o)
			if !m.Deleting {
				c.Staying++
			}
			for _, f := range m.Finalizers {
				if c.Finalizers == nil {
					c.Finalizers = map[string]int{}
				}
				c.Finalizers[f]++
			}
		}
		if c.Count > 0 {
			contents = append(contents, c)
		}
	}
	return contents
}

func (w *world) Meta(ref garbage.Ref) *garbage.Meta {
	return metaOf(w.Cache.Snapshot().Get(ref.Kind, ref.Namespace, ref.Name))
}

func (w *world) Kind(gvk schema.GroupVersionKind) *resource.Kind {
	kind, _ := w.Table.ByKind(gvk)
	return kind
}

func (w *world) ByName(r schema.GroupResource) *resource.Kind {
	for _, kind := range w.Table.All() {
		if kind.GroupResource() == r {
			return kind
		}
	}
	return nil
}

// shown waits until the cache shows all that is written by now.
func (w *world) shown(ctx context.Context) error { return w.Cache.Wait(ctx, w.Revision()) }

func (w *world) create(ctx context.Context, kind *resource.Kind, object resource.Object) error {
	if _, err := w.Registry.Create(ctx, kind, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	return w.shown(ctx)
}

// update changes the current object, whatever its revision, if it has the UID (any, if that is empty).
func (w *world) update(ctx context.Context, kind *resource.Kind, sub, namespace, name string, uid types.UID, change func(resource.Object)) error {
	_, _, err := w.Registry.Update(ctx, kind, sub, namespace, name, func(current resource.Object) (resource.Object, error) {
		if current == nil || uid != "" && current.GetUID() != uid {
			return nil, apierrors.NewNotFound(kind.GroupResource(), name)
		}
		current.SetResourceVersion("")
		change(current)
		return current, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return w.shown(ctx)
}

// delete deletes the object as the options say. Another one of its name is left alone, as if it were gone.
func (w *world) delete(ctx context.Context, kind *resource.Kind, namespace, name string, o metav1.DeleteOptions) error {
	_, _, err := w.Registry.Delete(ctx, kind, namespace, name, o)
	if apierrors.IsConflict(err) && o.Preconditions != nil {
		return apierrors.NewNotFound(kind.GroupResource(), name)
	}
	if err != nil {
		return err
	}
	return w.shown(ctx)
}
