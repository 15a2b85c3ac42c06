package loops

import (
	"context"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// loadBalancers is the controller of the addresses of Services of type LoadBalancer.
func loadBalancers(w *world) part {
	b := &balancing{
		world: w, services: w.kindOf(corev1.SchemeGroupVersion.WithKind("Service")),
		slices: w.kindOf(discovery.SchemeGroupVersion.WithKind("EndpointSlice")),
	}
	c := loadbalancer.New(w.LoadBalancer, b, b, w.Events.As("service-controller", ""), w.Queues, w.Log)
	return part{account: "service-controller", run: c.Run, on: map[*resource.Kind]func(change){
		b.services: func(ch change) {
			if was, is := balanced(ch.old), balanced(ch.new); was || is || ch.old == nil {
				c.ServiceChanged(ch.key, serviceIn(ch.old), serviceIn(ch.new))
			}
		},
		b.slices: func(ch change) { b.sliceChanged(ch, c.Mark) },
		w.nodes: func(ch change) {
			// Heartbeats, images and what pods take are nothing to an address.
			if ch.old == nil || ch.new == nil || !reflect.DeepEqual(loadbalancer.NodeOf(nodeIn(ch.old)), loadbalancer.NodeOf(nodeIn(ch.new))) {
				c.GroundChanged()
			}
		},
		w.configs: func(ch change) {
			if ch.key.Namespace == loadbalancer.Namespace && ch.key.Name == loadbalancer.Name {
				c.GroundChanged()
			}
		},
	}}
}

const serviceType = "spec.type"

func balanced(service *cache.Object) bool {
	return service != nil && service.Field(serviceType) == string(corev1.ServiceTypeLoadBalancer)
}

func serviceIn(o *cache.Object) *corev1.Service {
	if o == nil {
		return nil
	}
	return cache.Typed[*corev1.Service](o)
}

// balancing shows Services and nodes to the controller of addresses.
type balancing struct {
	*world
	services, slices *resource.Kind

	files endpoint.Slices // of Services
}

// sliceChanged files a slice, and marks the Services whose addresses depend on where their endpoints are.
func (b *balancing) sliceChanged(ch change, mark func(loop.Key)) {
	was, is := labelsOf(ch.old), labelsOf(ch.new)
	var services [2]string
	if was != nil {
		services[0] = was.Get(discovery.LabelServiceName)
	}
	if is != nil {
		services[1] = is.Get(discovery.LabelServiceName)
	}
	b.files.Move(ch.key.Namespace, ch.key.Name, services[0], services[1])
	for _, name := range services {
		o := b.Cache.Snapshot().Get(b.services, ch.key.Namespace, name)
		if balanced(o) && serviceIn(o).Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			mark(keyOf(o))
		}
	}
}

func (b *balancing) Service(key loop.Key) *corev1.Service {
	return get[*corev1.Service](b.world, b.services, key.Namespace, key.Name)
}

func (b *balancing) Balanced() (all []*corev1.Service) {
	of := cache.Selection{Fields: fields.OneTermEqualSelector(serviceType, string(corev1.ServiceTypeLoadBalancer))}
	for o := range b.Cache.Snapshot().List(b.services, of) {
		all = append(all, serviceIn(o))
	}
	return all
}

func (b *balancing) Nodes() (all []*corev1.Node) {
	for o := range b.Cache.Snapshot().List(b.nodes, cache.Selection{}) {
		all = append(all, cache.Typed[*corev1.Node](o))
	}
	return all
}

func (b *balancing) Ends(key loop.Key) map[string]bool {
	snap, on := b.Cache.Snapshot(), map[string]bool{}
	for _, name := range b.files.Of(key.Namespace, key.Name) {
		o := snap.Get(b.slices, key.Namespace, name)
		if o == nil {
			continue
		}
		for _, e := range cache.Typed[*discovery.EndpointSlice](o).Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				on[*e.NodeName] = true
			}
		}
	}
	return on
}

func (b *balancing) Settings() *corev1.ConfigMap {
	return b.ConfigMap(loadbalancer.Namespace, loadbalancer.Name)
}

func (b *balancing) SetIngress(ctx context.Context, s *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	return b.update(ctx, b.services, "status", s.Namespace, s.Name, s.UID, func(o resource.Object) {
		o.(*corev1.Service).Status.LoadBalancer.Ingress = ingress
	})
}
