package inprocess

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/proxy"
	"sampan.dev/internal/resource"
)

// Services shows Services and their EndpointSlices to a node's proxy and to its DNS server.
type Services struct {
	cache                               *cache.Cache
	node                                string
	services, slices, nodes, namespaces *resource.Kind
	cidrs                               *resource.Kind
	files                               endpoint.Slices // slices by Service
}

var _ proxy.View = (*Services)(nil)

// NewServices makes the view of one node. It must be made, and given to those who read it, before the cache runs.
func NewServices(table *resource.Table, c *cache.Cache, node string) *Services {
	kind := func(group, resource string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource})
		return k
	}
	s := &Services{
		cache: c, node: node, services: kind("", "services"), slices: kind("discovery.k8s.io", "endpointslices"), nodes: kind("", "nodes"), namespaces: kind("", "namespaces"),
		cidrs: kind("networking.k8s.io", "servicecidrs"),
	}
	c.OnChange(s.slices, func(old, new *cache.Object) {
		o := new
		if o == nil {
			o = old
		}
		s.files.Move(o.Namespace(), o.Name(), serviceOf(old), serviceOf(new))
	})
	return s
}

// serviceOf names the Service that a slice is of; empty for none.
func serviceOf(slice *cache.Object) string {
	if slice == nil {
		return ""
	}
	return slice.LabelSet().Get(discovery.LabelServiceName)
}

// Ready implements proxy.View.
func (s *Services) Ready() <-chan struct{} { return s.cache.Ready() }

// Services implements proxy.View.
func (s *Services) Services() (all []loop.Key) {
	for o := range s.cache.Snapshot().List(s.services, cache.Selection{}) {
		all = append(all, loop.Key{Namespace: o.Namespace(), Name: o.Name()})
	}
	return all
}

// Service implements proxy.View.
func (s *Services) Service(namespace, name string) (*corev1.Service, []*discovery.EndpointSlice) {
	snap := s.cache.Snapshot()
	o := snap.Get(s.services, namespace, name)
	if o == nil {
		return nil, nil
	}
	var slices []*discovery.EndpointSlice
	for _, file := range s.files.Of(namespace, name) {
		if slice := snap.Get(s.slices, namespace, file); slice != nil && serviceOf(slice) == name {
			slices = append(slices, cache.Typed[*discovery.EndpointSlice](slice))
		}
	}
	return cache.Typed[*corev1.Service](o), slices
}

// Zone implements proxy.View.
func (s *Services) Zone() string { return zoneOf(s.cache.Snapshot().Get(s.nodes, "", s.node)) }

func zoneOf(node *cache.Object) string {
	if node == nil {
		return ""
	}
	return node.LabelSet().Get(corev1.LabelTopologyZone)
}

// OnService implements proxy.View.
func (s *Services) OnService(mark func(namespace, name string)) {
	s.cache.OnChange(s.services, func(old, new *cache.Object) {
		if new == nil {
			new = old
		}
		mark(new.Namespace(), new.Name())
	})
	s.cache.OnChange(s.slices, func(old, new *cache.Object) {
		was, is := serviceOf(old), serviceOf(new)
		if was != "" {
			mark(old.Namespace(), was)
		}
		if is != "" && is != was {
			mark(new.Namespace(), is)
		}
	})
}

// OnZone implements proxy.View.
func (s *Services) OnZone(mark func()) {
	s.cache.OnChange(s.nodes, func(old, new *cache.Object) {
		if new != nil && new.Name() == s.node && zoneOf(old) != zoneOf(new) {
			mark()
		}
	})
}

// Ranges are those that Services have their addresses from.
func (s *Services) Ranges() (all []netip.Prefix) {
	for o := range s.cache.Snapshot().List(s.cidrs, cache.Selection{}) {
		for _, text := range cache.Typed[*networking.ServiceCIDR](o).Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				all = append(all, p.Masked())
			}
		}
	}
	return all
}

// OnRanges calls when they may have changed.
func (s *Services) OnRanges(mark func()) {
	s.cache.OnChange(s.cidrs, func(_, _ *cache.Object) { mark() })
}

// Names is who answers questions for names: dns.Server is one.
type Names interface {
	SetNamespace(name string, there bool)
	SetService(*corev1.Service)
	DeleteService(namespace, name string)
	SetSlice(*discovery.EndpointSlice)
	DeleteSlice(namespace, name string)
}

// Tell tells a DNS server of all that has a name, from the moment it has one.
func (s *Services) Tell(names Names) {
	s.cache.OnChange(s.namespaces, func(old, new *cache.Object) {
		if new == nil {
			names.SetNamespace(old.Name(), false)
		} else if old == nil {
			names.SetNamespace(new.Name(), true)
		}
	})
	s.cache.OnChange(s.services, func(old, new *cache.Object) {
		if new == nil {
			names.DeleteService(old.Namespace(), old.Name())
		} else {
			names.SetService(cache.Typed[*corev1.Service](new))
		}
	})
	s.cache.OnChange(s.slices, func(old, new *cache.Object) {
		if new == nil {
			names.DeleteSlice(old.Namespace(), old.Name())
		} else {
			names.SetSlice(cache.Typed[*discovery.EndpointSlice](new))
		}
	})
}
