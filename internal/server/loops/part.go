package loops

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/garbage"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// part is a controller as the server runs it, one file a controller.
type part struct {
	account string // of kube-system, that it writes as
	run     func(ctx context.Context) error
	on      map[*resource.Kind]func(change) // marks what a change of an object of that kind concerns; it must not block
}

// parts are the controllers of the workloads, and of what is before and behind Services.
func parts(w *world) []part {
	ps := []part{replicaSets(w), replicationControllers(w), deployments(w), statefulSets(w), daemonSets(w), jobController(w), cronJobController(w), expiry(w), disruptions(w), autoscalers(w), loadBalancers(w), tokenCleaner(w)}
	return append(ps, slices.Concat(endpointParts(w), ownServices(w), serviceRanges(w), certificateRequests(w), lostNodes(w), nodeRanges(w), storageParts(w.storage))...)
}

// change is how an object has changed: old is nil if it has come (or was there at the start), new if it has gone.
type change struct {
	key      loop.Key
	old, new *cache.Object
	was, is  *garbage.Meta // of old and new
}

// controllers names the controllers of a kind that the object had and has.
func (c change) controllers(kind *resource.Kind) (keys []loop.Key) {
	for _, m := range []*garbage.Meta{c.was, c.is} {
		if m == nil {
			continue
		}
		o := controllerOf(m)
		if o == nil || o.Kind != kind.Kind {
			continue
		}
		gv, err := schema.ParseGroupVersion(o.APIVersion)
		key := loop.Key{Namespace: c.key.Namespace, Name: o.Name}
		if err == nil && gv.Group == kind.Group && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func controllerOf(m *garbage.Meta) *metav1.OwnerReference {
	for i := range m.Owners {
		if c := m.Owners[i].Controller; c != nil && *c {
			return &m.Owners[i]
		}
	}
	return nil
}

// orphaned says that the object has no controller now, and is to be looked at by those who may adopt it.
func (c change) orphaned() bool {
	if c.new == nil || c.is.Deleting || controllerOf(c.is) != nil {
		return false
	}
	return c.old == nil || controllerOf(c.was) != nil || !slices.Equal(c.old.LabelSet(), c.new.LabelSet())
}

// markControllers marks the controllers of a kind that a change of one of their objects concerns: those it had and has, and
// those that may adopt it.
func (w *world) markControllers(c change, kind *resource.Kind, selector func(resource.Object) (labels.Selector, error), mark func(loop.Key)) {
	for _, key := range c.controllers(kind) {
		mark(key)
	}
	if !c.orphaned() {
		return
	}
	for o := range w.Cache.Snapshot().List(kind, cache.Selection{Namespace: c.key.Namespace}) {
		if s, err := selector(o.Decoded()); err == nil && !s.Empty() && s.Matches(c.new.LabelSet()) {
			mark(keyOf(o))
		}
	}
}

// kindOf is a kind that must be in the table.
func (w *world) kindOf(gvk schema.GroupVersionKind) *resource.Kind {
	k, _ := w.Table.ByKind(gvk)
	if k == nil {
		panic(fmt.Sprintf("control loops: the table has no %s", gvk))
	}
	return k
}

// owned lists the objects of a kind whose controller has that UID.
func owned[T any](w *world, kind *resource.Kind, namespace string, controller types.UID) (all []T) {
	sel := cache.Selection{Namespace: namespace, Fields: fields.OneTermEqualSelector(cache.ControllerField, string(controller))}
	for o := range w.Cache.Snapshot().List(kind, sel) {
		all = append(all, cache.Typed[T](o))
	}
	return all
}

// orphans lists the objects of a kind that match the selector and have no controller.
func orphans[T any](w *world, kind *resource.Kind, namespace string, selector labels.Selector) (all []T) {
	sel := cache.Selection{Namespace: namespace, Labels: selector, Fields: fields.OneTermEqualSelector(cache.ControllerField, "")}
	for o := range w.Cache.Snapshot().List(kind, sel) {
		all = append(all, cache.Typed[T](o))
	}
	return all
}
