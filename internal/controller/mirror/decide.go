//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package mirror

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/endpoint"
)

// ManagedBy is in the label of the slices that are this controller's.
const ManagedBy = "endpointslicemirroring-controller.k8s.io"

// Capacity is how many addresses of one subset are mirrored at most.
const Capacity = 1000

// leader is the annotation of Endpoints by which programs elect a leader: those lead to nobody.
const leader = "control-plane.alpha.kubernetes.io/leader"

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Create, Update, Delete []*discovery.EndpointSlice // Update: with the resourceVersion that each was decided on
	Invalid                int                        // addresses that are none
	Skipped                int                        // addresses that are not mirrored: those, and what is too much
}

func (p *Plan) changes() bool { return len(p.Create)+len(p.Update)+len(p.Delete) > 0 }

// Wanted says that Endpoints are to be mirrored: they are of a Service without selector, and nobody has asked that they be not.
func Wanted(service *corev1.Service, e *corev1.Endpoints) bool {
	if service == nil || service.Spec.Selector != nil || e == nil || e.Labels[discovery.LabelSkipMirror] == "true" {
		return false
	}
	return !Elects(e)
}

// Elects says that a program elects its leader by these Endpoints.
func Elects(e *corev1.Endpoints) bool {
	_, elects := e.Annotations[leader]
	return elects
}

// Decide compares the slices that shall mirror a Service's Endpoints with those that there are. Both may be nil: then there shall be none.
func Decide(service *corev1.Service, e *corev1.Endpoints, existing []*discovery.EndpointSlice) (p Plan) {
	existing = slices.DeleteFunc(slices.Clone(existing), func(s *discovery.EndpointSlice) bool { return s.DeletionTimestamp != nil })
	if !Wanted(service, e) {
		p.Delete = existing
		return p
	}
	byKey := map[groupKey][]*discovery.EndpointSlice{}
	for _, s := range existing {
		key := groupKey{s.AddressType, endpoint.PortsKey(s.Ports)}
		byKey[key] = append(byKey[key], s)
	}
	m := maker{e: e, labels: maps.Clone(e.Labels), annotations: maps.Clone(e.Annotations)}
	if m.labels == nil {
		m.labels = map[string]string{}
	}
	m.labels[discovery.LabelServiceName], m.labels[discovery.LabelManagedBy] = e.Name, ManagedBy
	delete(m.annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(m.annotations, corev1.LastAppliedConfigAnnotation)

	groups := p.groups(e)
	for _, g := range groups {
		m.decide(&p, g, byKey[g.key])
		delete(byKey, g.key)
	}
	for _, s := range existing {
		if slices.Contains(byKey[groupKey{s.AddressType, endpoint.PortsKey(s.Ports)}], s) {
			p.Delete = append(p.Delete, s)
		}
	}
	m.reuse(&p)
	if e.DeletionTimestamp != nil {
		p.Create = nil
	}
	return p
}

// groupKey is what all endpoints of one slice have in common.
type groupKey struct {
	family discovery.AddressType
	ports  string
}

type group struct {
	key       groupKey
	ports     []discovery.EndpointPort
	endpoints []discovery.Endpoint
	index     map[endpoint.Key]int
}

// groups sorts the addresses by family and ports, and counts those that cannot be mirrored.
func (p *Plan) groups(e *corev1.Endpoints) (all []*group) {
	known := map[groupKey]*group{}
	for _, subset := range endpoint.Repack(e.Subsets) {
		ports := portsOf(subset.Ports)
		key := endpoint.PortsKey(ports)
		added := 0
		for i, list := range [][]corev1.EndpointAddress{subset.Addresses, subset.NotReadyAddresses} {
			for j := range list {
				if added == Capacity {
					break
				}
				a := &list[j]
				ip, family, ok := endpoint.Address(a.IP)
				if !ok {
					p.Invalid++
					continue
				}
				g := known[groupKey{family, key}]
				if g == nil {
					g = &group{key: groupKey{family, key}, ports: ports, index: map[endpoint.Key]int{}}
					known[g.key] = g
					all = append(all, g)
				}
				g.add(a, ip, i == 0)
				added++
			}
		}
		p.Skipped += len(subset.Addresses) + len(subset.NotReadyAddresses) - added
	}
	return all
}

func portsOf(ports []corev1.EndpointPort) []discovery.EndpointPort {
	all := make([]discovery.EndpointPort, len(ports))
	for i := range ports {
		p := &ports[i]
		all[i] = discovery.EndpointPort{Name: new(p.Name), Port: new(p.Port), Protocol: new(p.Protocol), AppProtocol: p.AppProtocol}
	}
	endpoint.SortPorts(all)
	return all
}

func (g *group) add(a *corev1.EndpointAddress, ip string, ready bool) {
	e := discovery.Endpoint{Addresses: []string{ip}, Conditions: discovery.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName}
	if a.Hostname != "" {
		e.Hostname = new(a.Hostname)
	}
	key := endpoint.KeyOf(&e)
	if i, there := g.index[key]; there {
		g.endpoints[i] = e
		return
	}
	g.index[key] = len(g.endpoints)
	g.endpoints = append(g.endpoints, e)
}

// maker makes the slices of one object.
type maker struct {
	e                   *corev1.Endpoints
	labels, annotations map[string]string
}

// decide keeps the first of the slices of a group, and makes it tell all of it.
func (m *maker) decide(p *Plan, g *group, existing []*discovery.EndpointSlice) {
	next := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.e.Namespace, GenerateName: endpoint.NamePrefix(m.e.Name), Labels: maps.Clone(m.labels), Annotations: maps.Clone(m.annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(m.e, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: g.key.family, Ports: g.ports, Endpoints: g.endpoints,
	}
	if len(existing) == 0 {
		p.Create = append(p.Create, next)
		return
	}
	p.Delete = append(p.Delete, existing[1:]...)
	if s := existing[0]; !g.same(s) || !maps.Equal(s.Labels, m.labels) || !maps.Equal(s.Annotations, m.annotations) || !endpoint.Owned(s, "Endpoints", m.e.UID) {
		p.Update = append(p.Update, over(s, next))
	}
}

// same says that a slice tells each endpoint of the group once, and no other.
func (g *group) same(s *discovery.EndpointSlice) bool {
	if len(s.Endpoints) != len(g.endpoints) {
		return false
	}
	seen := make(map[int]bool, len(s.Endpoints))
	for i := range s.Endpoints {
		at, wanted := g.index[endpoint.KeyOf(&s.Endpoints[i])]
		if !wanted || seen[at] || !endpoint.Same(&g.endpoints[at], &s.Endpoints[i]) {
			return false
		}
		seen[at] = true
	}
	return true
}

// over is the new slice in the place of an old one.
func over(old, next *discovery.EndpointSlice) *discovery.EndpointSlice {
	fresh := next.ObjectMeta
	next.ObjectMeta = old.ObjectMeta
	next.Labels, next.Annotations, next.OwnerReferences = fresh.Labels, fresh.Annotations, fresh.OwnerReferences
	return next
}

// reuse turns a slice to be deleted and one to be created of its family into one to be changed.
func (m *maker) reuse(p *Plan) {
	var gone []*discovery.EndpointSlice
	for _, old := range p.Delete {
		i := slices.IndexFunc(p.Create, func(s *discovery.EndpointSlice) bool { return s.AddressType == old.AddressType })
		if i < 0 {
			gone = append(gone, old)
			continue
		}
		p.Update = append(p.Update, over(old, p.Create[i]))
		p.Create = slices.Delete(p.Create, i, i+1)
	}
	p.Delete = gone
}
