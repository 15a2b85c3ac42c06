package endpointslice

import (
	"encoding/binary"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/workload"
)

// portSet is a set of ports that some pods have in common. It is shared by their slices.
type portSet struct {
	key   string // endpoint.PortsKey
	ports []discovery.EndpointPort
}

// candidate is a pod behind a Service. One that is lost has ports and gives no endpoint.
type candidate struct {
	pod   *corev1.Pod
	ports *portSet
	zone  string
	lost  bool
}

// candidates are the pods that have an address and have not ended. A pod whose node is not there is left out, unless the Service is told to publish all.
func candidates(service *corev1.Service, pods []*corev1.Pod, zones Zones) (behind []candidate, lost []string) {
	ports := portSets{service: service}
	for i := range service.Spec.Ports {
		ports.named = ports.named || service.Spec.Ports[i].TargetPort.Type == intstr.String
	}
	behind = make([]candidate, 0, len(pods))
	for _, pod := range pods {
		if !endpoint.Belongs(pod, true) {
			continue
		}
		c := candidate{pod: pod, ports: ports.of(pod)}
		var found bool
		if c.zone, found = zones(pod.Spec.NodeName); !found && !service.Spec.PublishNotReadyAddresses {
			c.lost = true
			lost = append(lost, lostWords(pod, service))
		}
		behind = append(behind, c)
	}
	return behind, lost
}

// portSets computes ports of pods; those whose names lead to the same numbers share them.
type portSets struct {
	service *corev1.Service
	named   bool // a port of the Service is the name of a port of the pod
	known   map[string]*portSet
}

func (p *portSets) of(pod *corev1.Pod) *portSet {
	var numbers []byte
	if p.named {
		for i := range p.service.Spec.Ports {
			n, found := endpoint.Port(pod, &p.service.Spec.Ports[i])
			if !found {
				n = -1
			}
			numbers = binary.BigEndian.AppendUint32(numbers, uint32(n))
		}
	}
	if set := p.known[string(numbers)]; set != nil {
		return set
	}
	if p.known == nil {
		p.known = map[string]*portSet{}
	}
	set := &portSet{ports: portsOf(p.service, pod)}
	set.key = endpoint.PortsKey(set.ports)
	p.known[string(numbers)] = set
	return set
}

func portsOf(service *corev1.Service, pod *corev1.Pod) []discovery.EndpointPort {
	ports := []discovery.EndpointPort{}
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if n, found := endpoint.Port(pod, p); found {
			ports = append(ports, discovery.EndpointPort{Name: new(p.Name), Port: new(n), Protocol: new(p.Protocol), AppProtocol: p.AppProtocol})
		}
	}
	endpoint.SortPorts(ports)
	return ports
}

// wantedGroup are the endpoints that have one set of ports.
type wantedGroup struct {
	ports     *portSet
	endpoints []*discovery.Endpoint // nil where one was taken
	index     map[endpoint.Key]int
}

// group makes the endpoints of one family. A set of ports has a group even if no pod has an address of that family.
func group(service *corev1.Service, family discovery.AddressType, behind []candidate) (groups []*wantedGroup) {
	byPorts := map[string]*wantedGroup{}
	for i := range behind {
		c := &behind[i]
		g := byPorts[c.ports.key]
		if g == nil {
			g = &wantedGroup{ports: c.ports, index: make(map[endpoint.Key]int, len(behind))}
			byPorts[c.ports.key] = g
			groups = append(groups, g)
		}
		if ips := endpoint.Addresses(c.pod, family); len(ips) > 0 && !c.lost {
			g.add(newEndpoint(service, c, ips))
		}
	}
	return groups
}

func (g *wantedGroup) add(e *discovery.Endpoint) {
	key := endpoint.KeyOf(e)
	if i, there := g.index[key]; there {
		g.endpoints[i] = e
		return
	}
	g.index[key] = len(g.endpoints)
	g.endpoints = append(g.endpoints, e)
}

// take returns the wanted endpoint of that key, once.
func (g *wantedGroup) take(key endpoint.Key) *discovery.Endpoint {
	i, wanted := g.index[key]
	if !wanted {
		return nil
	}
	e := g.endpoints[i]
	g.endpoints[i] = nil
	return e
}

// rest are the endpoints that nobody has taken, in the order of the pods.
func (g *wantedGroup) rest() (all []*discovery.Endpoint) {
	for _, e := range g.endpoints {
		if e != nil {
			all = append(all, e)
		}
	}
	return all
}

func newEndpoint(service *corev1.Service, c *candidate, ips []string) *discovery.Endpoint {
	pod := c.pod
	made := &struct { // all in one piece
		e                           discovery.Endpoint
		target                      corev1.ObjectReference
		ready, serving, terminating bool
		node, zone, hostname        string
	}{
		target:  corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		serving: workload.Ready(pod), terminating: pod.DeletionTimestamp != nil,
		node: pod.Spec.NodeName, zone: c.zone, hostname: endpoint.Hostname(pod, service),
	}
	// One that is being deleted is never ready, unless readiness does not count.
	made.ready = service.Spec.PublishNotReadyAddresses || made.serving && !made.terminating
	e := &made.e
	e.Addresses, e.TargetRef = ips, &made.target
	e.Conditions = discovery.EndpointConditions{Ready: &made.ready, Serving: &made.serving, Terminating: &made.terminating}
	for _, f := range []struct {
		to    **string
		value *string
	}{{&e.NodeName, &made.node}, {&e.Zone, &made.zone}, {&e.Hostname, &made.hostname}} {
		if *f.value != "" {
			*f.to = f.value
		}
	}
	return e
}
