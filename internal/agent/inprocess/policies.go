package inprocess

import (
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/netpol"
	"sampan.dev/internal/resource"
)

// Policies shows NetworkPolicies, and the pods and namespaces that they speak of, to who enforces them on a node.
type Policies struct {
	cache *cache.Cache
	kinds map[netpol.Kind]*resource.Kind
}

var _ netpol.View = (*Policies)(nil)

// NewPolicies makes the view. It must be made, and given to who reads it, before the cache runs.
func NewPolicies(table *resource.Table, c *cache.Cache) *Policies {
	kind := func(group, resource string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource})
		return k
	}
	return &Policies{cache: c, kinds: map[netpol.Kind]*resource.Kind{
		netpol.PolicyKind: kind("networking.k8s.io", "networkpolicies"), netpol.PodKind: kind("", "pods"), netpol.NamespaceKind: kind("", "namespaces"),
	}}
}

// Ready implements netpol.View.
func (p *Policies) Ready() <-chan struct{} { return p.cache.Ready() }

func (p *Policies) get(kind netpol.Kind, key loop.Key) *cache.Object {
	return p.cache.Snapshot().Get(p.kinds[kind], key.Namespace, key.Name)
}

// Policy implements netpol.View.
func (p *Policies) Policy(key loop.Key) *networking.NetworkPolicy {
	if o := p.get(netpol.PolicyKind, key); o != nil {
		return cache.Typed[*networking.NetworkPolicy](o)
	}
	return nil
}

// Pod implements netpol.View.
func (p *Policies) Pod(key loop.Key) *corev1.Pod {
	if o := p.get(netpol.PodKind, key); o != nil {
		return cache.Typed[*corev1.Pod](o)
	}
	return nil
}

// Namespace implements netpol.View.
func (p *Policies) Namespace(name string) *corev1.Namespace {
	if o := p.get(netpol.NamespaceKind, loop.Key{Name: name}); o != nil {
		return cache.Typed[*corev1.Namespace](o)
	}
	return nil
}

// All implements netpol.View.
func (p *Policies) All(each func(kind netpol.Kind, key loop.Key)) {
	snap := p.cache.Snapshot()
	for name, kind := range p.kinds {
		for o := range snap.List(kind, cache.Selection{}) {
			each(name, loop.Key{Namespace: o.Namespace(), Name: o.Name()})
		}
	}
}

// OnChange implements netpol.View.
func (p *Policies) OnChange(mark func(kind netpol.Kind, key loop.Key)) {
	for name, kind := range p.kinds {
		p.cache.OnChange(kind, func(old, new *cache.Object) {
			if new == nil {
				new = old
			}
			mark(name, loop.Key{Namespace: new.Namespace(), Name: new.Name()})
		})
	}
}
