package inprocess

import (
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/announce"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// Balanced shows the addresses of load balancers, and the nodes that may take their packets, to a node's announcer.
type Balanced struct {
	cache                                    *cache.Cache
	services, slices, nodes, leases, configs *resource.Kind
	files                                    endpoint.Slices // slices by Service
	flags                                    loadbalancer.Config

	mu       sync.Mutex // guards the fields below
	settings loadbalancer.Config
	marks    []func(loop.Key)
}

var _ announce.View = (*Balanced)(nil)

// NewBalanced makes the view. It must be made, and given to announce.New, before the cache runs.
func NewBalanced(table *resource.Table, c *cache.Cache, flags loadbalancer.Config) *Balanced {
	kind := func(group, resource string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource})
		return k
	}
	b := &Balanced{
		cache: c, services: kind("", "services"), slices: kind("discovery.k8s.io", "endpointslices"), nodes: kind("", "nodes"),
		leases: kind("coordination.k8s.io", "leases"), configs: kind("", "configmaps"), flags: flags, settings: flags,
	}
	c.OnChange(b.slices, func(old, new *cache.Object) {
		o := new
		if o == nil {
			o = old
		}
		was, is := serviceOf(old), serviceOf(new)
		b.files.Move(o.Namespace(), o.Name(), was, is)
		for _, name := range []string{was, is} {
			if s := b.cache.Snapshot().Get(b.services, o.Namespace(), name); isBalanced(s) {
				b.mark(loop.Key{Namespace: o.Namespace(), Name: name})
			}
		}
	})
	c.OnChange(b.services, func(old, new *cache.Object) {
		if isBalanced(old) || isBalanced(new) {
			if new == nil {
				new = old
			}
			b.mark(loop.Key{Namespace: new.Namespace(), Name: new.Name()})
		}
	})
	c.OnChange(b.configs, func(old, new *cache.Object) {
		if o := new; o != nil && o.Namespace() == loadbalancer.Namespace && o.Name() == loadbalancer.Name {
			b.set(cache.Typed[*corev1.ConfigMap](o))
		} else if o == nil && old.Namespace() == loadbalancer.Namespace && old.Name() == loadbalancer.Name {
			b.set(nil)
		}
	})
	return b
}

func isBalanced(s *cache.Object) bool {
	return s != nil && s.Field("spec.type") == string(corev1.ServiceTypeLoadBalancer)
}

// set takes settings over. Those that cannot be read leave the former ones; the controller of load balancers says so.
func (b *Balanced) set(m *corev1.ConfigMap) {
	settings, err := b.flags.WithMap(m)
	if err != nil {
		return
	}
	b.mu.Lock()
	same := b.settings.Announce == settings.Announce
	b.settings = settings
	b.mu.Unlock()
	if !same {
		b.mark(b.Services()...)
	}
}

func (b *Balanced) mark(keys ...loop.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		for _, f := range b.marks {
			f(key)
		}
	}
}

// Ready implements announce.View.
func (b *Balanced) Ready() <-chan struct{} { return b.cache.Ready() }

// Services implements announce.View.
func (b *Balanced) Services() (keys []loop.Key) {
	of := cache.Selection{Fields: fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer))}
	for o := range b.cache.Snapshot().List(b.services, of) {
		keys = append(keys, loop.Key{Namespace: o.Namespace(), Name: o.Name()})
	}
	return keys
}

// Service implements announce.View.
func (b *Balanced) Service(key loop.Key) (w announce.Wanted) {
	snap := b.cache.Snapshot()
	o := snap.Get(b.services, key.Namespace, key.Name)
	b.mu.Lock()
	announced := b.settings.Announce
	b.mu.Unlock()
	if !announced || !isBalanced(o) {
		return w
	}
	s := cache.Typed[*corev1.Service](o)
	if !loadbalancer.Ours(s) {
		return w
	}
	w.UID = s.UID
	for _, in := range s.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(in.IP); err == nil {
			w.Addresses = append(w.Addresses, ip.Unmap())
		}
	}
	if s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return w
	}
	w.Nodes = map[string]bool{}
	for _, name := range b.files.Of(key.Namespace, key.Name) {
		slice := snap.Get(b.slices, key.Namespace, name)
		if slice == nil {
			continue
		}
		for _, e := range cache.Typed[*discovery.EndpointSlice](slice).Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				w.Nodes[*e.NodeName] = true
			}
		}
	}
	return w
}

// Nodes implements announce.View.
func (b *Balanced) Nodes() (names []string) {
	for o := range b.cache.Snapshot().List(b.nodes, cache.Selection{}) {
		names = append(names, o.Name())
	}
	return names
}

// Node implements announce.View.
func (b *Balanced) Node(name string) (n announce.Node, there bool) {
	snap := b.cache.Snapshot()
	o := snap.Get(b.nodes, "", name)
	if o == nil {
		return n, false
	}
	node := loadbalancer.NodeOf(cache.Typed[*corev1.Node](o))
	n.Serves, n.Addresses = node.Serves, node.Own
	if o := snap.Get(b.leases, corev1.NamespaceNodeLease, name); o != nil {
		lease := cache.Typed[*coordinationv1.Lease](o)
		if t := lease.Spec.RenewTime; t != nil && lease.Spec.LeaseDurationSeconds != nil {
			n.Renewed, n.Lease = t.Time, time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second
		}
	}
	return n, true
}

// OnService implements announce.View.
func (b *Balanced) OnService(mark func(loop.Key)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks = append(b.marks, mark)
}

// OnNode implements announce.View.
func (b *Balanced) OnNode(mark func(name string)) {
	tell := func(old, new *cache.Object) {
		if new == nil {
			new = old
		}
		if ns := new.Namespace(); ns == "" || ns == corev1.NamespaceNodeLease {
			mark(new.Name())
		}
	}
	b.cache.OnChange(b.nodes, tell)
	b.cache.OnChange(b.leases, tell)
}
