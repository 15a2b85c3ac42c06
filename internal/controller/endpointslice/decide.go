package endpointslice

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/endpoint"
)

// ManagedBy is in the label of the slices that are this controller's.
const ManagedBy = "endpointslice-controller.k8s.io"

// Capacity is how many endpoints a slice has at most.
const Capacity = 100

// Zones tells the zone of a node, empty if it has none, and whether there is such a node.
type Zones func(node string) (zone string, found bool)

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Create, Update, Delete []*discovery.EndpointSlice // Update: with the resourceVersion that each was decided on
	Lost                   []string                   // what to complain of: pods on nodes that are not there
}

func (p *Plan) add(q Plan) {
	p.Create, p.Update, p.Delete = append(p.Create, q.Create...), append(p.Update, q.Update...), append(p.Delete, q.Delete...)
}

// Decide compares the slices that a Service shall have with those that it has. The pods are those that it selects.
func Decide(service *corev1.Service, pods []*corev1.Pod, zones Zones, existing []*discovery.EndpointSlice) (p Plan) {
	families := endpoint.Families(service)
	byFamily := map[discovery.AddressType][]*discovery.EndpointSlice{}
	var foreign []*discovery.EndpointSlice
	for _, s := range existing {
		switch {
		case s.DeletionTimestamp != nil: // it goes, whatever is written into it
		case !slices.Contains(families, s.AddressType):
			foreign = append(foreign, s)
		default:
			byFamily[s.AddressType] = append(byFamily[s.AddressType], s)
		}
	}
	behind, lost := candidates(service, pods, zones)
	p.Lost = lost
	for _, family := range families {
		p.add(decideFamily(service, family, behind, byFamily[family]))
	}
	p.Delete = append(p.Delete, foreign...)
	if service.DeletionTimestamp != nil {
		p.Create = nil // the garbage collector would have to find them
	}
	return p
}

// decideFamily decides on the slices of one family. Slices with the same ports are filled together.
func decideFamily(service *corev1.Service, family discovery.AddressType, behind []candidate, existing []*discovery.EndpointSlice) (p Plan) {
	m := newMaker(service, family)
	byPorts := map[string][]*discovery.EndpointSlice{}
	for _, s := range existing {
		if endpoint.Owned(s, "Service", service.UID) {
			key := endpoint.PortsKey(s.Ports)
			byPorts[key] = append(byPorts[key], s)
		} else {
			p.Delete = append(p.Delete, s) // of another Service of this name
		}
	}
	groups := group(service, family, behind)
	wanted := map[string]bool{}
	for _, g := range groups {
		wanted[g.ports.key] = true
		p.add(m.fill(g, byPorts[g.ports.key]))
	}
	for _, s := range existing {
		if endpoint.Owned(s, "Service", service.UID) && !wanted[endpoint.PortsKey(s.Ports)] {
			p.Delete = append(p.Delete, s)
		}
	}
	if len(existing) == len(p.Delete) && len(p.Create) == 0 {
		// A Service without endpoints has a slice that says so.
		if empty := m.slice(nil); len(p.Delete) == 1 && m.isPlaceholder(p.Delete[0]) {
			p.Delete = nil
		} else {
			p.Create = append(p.Create, empty)
		}
	}
	hint(&p, hintsOf(service), existing)
	m.reuse(&p)
	return p
}

// maker makes the slices of one Service and family.
type maker struct {
	service *corev1.Service
	family  discovery.AddressType
	labels  map[string]string
}

var reserved = []string{discovery.LabelServiceName, discovery.LabelManagedBy, corev1.IsHeadlessService}

func newMaker(service *corev1.Service, family discovery.AddressType) *maker {
	m := &maker{service: service, family: family, labels: make(map[string]string, len(service.Labels)+len(reserved))}
	maps.Copy(m.labels, service.Labels)
	delete(m.labels, corev1.IsHeadlessService)
	if endpoint.Headless(service) {
		m.labels[corev1.IsHeadlessService] = ""
	}
	m.labels[discovery.LabelServiceName], m.labels[discovery.LabelManagedBy] = service.Name, ManagedBy
	return m
}

// slice is a new slice.
func (m *maker) slice(ports []discovery.EndpointPort) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.service.Namespace, GenerateName: endpoint.NamePrefix(m.service.Name), Labels: maps.Clone(m.labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(m.service, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: m.family, Ports: ports, Endpoints: []discovery.Endpoint{},
	}
}

// changed is an existing slice with other endpoints, and the labels that it shall have.
func (m *maker) changed(s *discovery.EndpointSlice, endpoints []discovery.Endpoint) *discovery.EndpointSlice {
	next := *s
	next.Labels, next.Annotations = maps.Clone(m.labels), maps.Clone(s.Annotations)
	next.Endpoints = endpoints
	return &next
}

func (m *maker) isPlaceholder(s *discovery.EndpointSlice) bool {
	return len(s.Endpoints) == 0 && len(s.Ports) == 0 && maps.Equal(s.Labels, m.labels) && endpoint.Owned(s, "Service", m.service.UID)
}

// fill puts the endpoints of a group into its slices: those that are in one stay there; what is new goes into slices that change
// anyway, the fullest first; the rest into the one slice that it fills best, or into new ones.
func (m *maker) fill(g *wantedGroup, existing []*discovery.EndpointSlice) (p Plan) {
	var same []*discovery.EndpointSlice
	for _, s := range existing {
		keep := make([]discovery.Endpoint, 0, len(s.Endpoints))
		differs := false
		for i := range s.Endpoints {
			if want := g.take(endpoint.KeyOf(&s.Endpoints[i])); want != nil {
				differs = differs || !endpoint.Same(want, &s.Endpoints[i])
				keep = append(keep, *want)
			}
		}
		switch differs = differs || len(keep) != len(s.Endpoints); {
		case differs && len(keep) == 0:
			p.Delete = append(p.Delete, s)
		case differs:
			p.Update = append(p.Update, m.changed(s, keep))
		case !endpoint.SameLabels(s.Labels, m.labels, reserved...):
			p.Update = append(p.Update, m.changed(s, slices.Clone(s.Endpoints)))
		default:
			same = append(same, s)
		}
	}
	rest := g.rest()
	fullestFirst := slices.Clone(p.Update)
	slices.SortStableFunc(fullestFirst, func(a, b *discovery.EndpointSlice) int { return len(b.Endpoints) - len(a.Endpoints) })
	for _, s := range fullestFirst {
		rest = pour(rest, s)
	}
	for len(rest) > 0 {
		if i := best(same, len(rest)); i >= 0 {
			s := m.changed(same[i], slices.Clone(same[i].Endpoints))
			same = slices.Delete(same, i, i+1)
			rest = pour(rest, s)
			p.Update = append(p.Update, s)
			continue
		}
		s := m.slice(g.ports.ports)
		rest = pour(rest, s)
		p.Create = append(p.Create, s)
	}
	return p
}

// pour moves endpoints into a slice as long as it has room, and returns the others.
func pour(endpoints []*discovery.Endpoint, into *discovery.EndpointSlice) []*discovery.Endpoint {
	n := min(len(endpoints), max(Capacity-len(into.Endpoints), 0))
	for _, e := range endpoints[:n] {
		into.Endpoints = append(into.Endpoints, *e)
	}
	return endpoints[n:]
}

// best is the slice that is fullest once it has n more, or -1 if none has so much room, or they fill one of their own.
func best(all []*discovery.EndpointSlice, n int) int {
	found, least := -1, Capacity
	if n >= Capacity {
		return found
	}
	for i, s := range all {
		if left := Capacity - len(s.Endpoints) - n; left >= 0 && left < least {
			found, least = i, left
		}
	}
	return found
}

// reuse turns a slice to be deleted and one to be created into one to be changed.
func (m *maker) reuse(p *Plan) {
	var gone []*discovery.EndpointSlice
	for _, old := range p.Delete {
		n := len(p.Create)
		if n == 0 || !endpoint.Owned(old, "Service", m.service.UID) {
			gone = append(gone, old)
			continue
		}
		next := p.Create[n-1]
		p.Create = p.Create[:n-1]
		fresh := next.ObjectMeta
		next.ObjectMeta = old.ObjectMeta
		next.Labels, next.OwnerReferences, next.Annotations = fresh.Labels, fresh.OwnerReferences, nil
		p.Update = append(p.Update, next)
	}
	p.Delete = gone
}

func lostWords(pod *corev1.Pod, service *corev1.Service) string {
	return fmt.Sprintf("skipping Pod %s for Service %s/%s: Node %s Not Found", pod.Name, service.Namespace, service.Name, pod.Spec.NodeName)
}
