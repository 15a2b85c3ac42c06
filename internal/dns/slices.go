package dns

import (
	"bytes"
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// slice is an EndpointSlice.
type slice struct {
	service  string
	next     *slice
	v6       bool
	addrs    []byte   // 4 or 16 bytes each
	hosts    []string // nil if none has one
	notReady []bool   // nil if all are
	ports    []port
}

// SetSlice tells of an EndpointSlice, as it is now.
func (r *records) SetSlice(es *discovery.EndpointSlice) {
	r.writing.Lock()
	defer r.writing.Unlock()
	id := es.Namespace + "/" + es.Name
	was := r.slices[id]
	name := es.Labels[discovery.LabelServiceName]
	if name == "" || es.AddressType == discovery.AddressTypeFQDN {
		r.dropSlice(id, was)
		return
	}
	s := newSlice(es)
	s.ports = r.share(s.ports)
	s.service = r.interned(serviceKey(es.Namespace, name))
	if was != nil && was.service != s.service {
		r.dropSlice(id, was)
		was = nil
	}
	r.unlink(was)
	r.slices[id] = s
	r.mu.Lock()
	s.next = r.of[s.service]
	r.of[s.service] = s
	r.mu.Unlock()
	r.endpointsChanged(s.service)
}

// DeleteSlice tells that an EndpointSlice is gone.
func (r *records) DeleteSlice(namespace, name string) {
	r.writing.Lock()
	defer r.writing.Unlock()
	id := namespace + "/" + name
	r.dropSlice(id, r.slices[id])
}

func (r *records) dropSlice(id string, s *slice) {
	if s == nil {
		return
	}
	delete(r.slices, id)
	r.unlink(s)
	r.endpointsChanged(s.service)
}

// unlink takes a slice out of its Service's.
func (r *records) unlink(s *slice) {
	if s == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	head := r.of[s.service]
	if head == s {
		if s.next == nil {
			delete(r.of, s.service)
		} else {
			r.of[s.service] = s.next
		}
		return
	}
	for at := head; at != nil; at = at.next {
		if at.next == s {
			at.next = s.next
			return
		}
	}
}

// endpointsChanged makes a headless Service anew from its slices.
func (r *records) endpointsChanged(key string) {
	if was := r.services[key]; was != nil && was.headless { // writers may read what only they write
		s := &service{key: was.key, headless: true, all: was.all}
		r.gather(s)
		r.publish(key, s)
	}
}

// gather fills in the endpoints of a headless Service.
func (r *records) gather(s *service) {
	for sl := r.of[s.key]; sl != nil; sl = sl.next {
		for e := range sl.endpoints(s.all) {
			s.endpoints = append(s.endpoints, e)
		}
	}
	s.endpoints = slices.Clip(sorted(s.endpoints))
	for i := range s.endpoints {
		e := &s.endpoints[i]
		if e.v6 {
			s.v6 = append(s.v6, e.addr[:]...)
		} else {
			s.v4 = append(s.v4, e.addr[12:]...)
		}
	}
	s.v4, s.v6 = unique(s.v4, 4), unique(s.v6, 16)
}

// endpointsOf gives the endpoints of a Service that a label stands for. A headless Service has them sorted; in the slices of another they
// are looked for one by one, since hardly anybody asks for them.
func (r *records) endpointsOf(svc *service, label []byte) (found []endpoint) {
	if svc.headless {
		return svc.hosts(label)
	}
	ip, isIP := dashed(label)
	want := ip.As16()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for sl := r.of[svc.key]; sl != nil; sl = sl.next {
		for e := range sl.endpoints(svc.all) {
			if e.host == string(label) || isIP && e.host == "" && e.addr == want {
				found = append(found, e)
			}
		}
	}
	return sorted(found)
}

// endpoints gives the ready endpoints, or all.
func (s *slice) endpoints(all bool) iter.Seq[endpoint] {
	return func(yield func(endpoint) bool) {
		size := 4
		if s.v6 {
			size = 16
		}
		for i := range len(s.addrs) / size {
			if s.notReady != nil && s.notReady[i] && !all {
				continue
			}
			e := endpoint{v6: s.v6, ports: s.ports, addr: as16(s.addrs[i*size : (i+1)*size])}
			if s.hosts != nil {
				e.host = s.hosts[i]
			}
			if !yield(e) {
				return
			}
		}
	}
}

// sorted puts endpoints in their order, each once: one can be in two slices while it moves from one to the other.
func sorted(endpoints []endpoint) []endpoint {
	slices.SortFunc(endpoints, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.host, b.host), bytes.Compare(a.addr[:], b.addr[:]))
	})
	return slices.CompactFunc(endpoints, func(a, b endpoint) bool {
		return a.host == b.host && a.addr == b.addr && slices.Equal(a.ports, b.ports)
	})
}

func newSlice(es *discovery.EndpointSlice) *slice {
	s := &slice{v6: es.AddressType == discovery.AddressTypeIPv6}
	count := 0
	for i := range es.Endpoints {
		e := &es.Endpoints[i]
		for _, text := range e.Addresses {
			a, err := netip.ParseAddr(text)
			if a = a.WithZone("").Unmap(); err != nil || a.Is4() == s.v6 {
				continue
			}
			s.addrs = append(s.addrs, a.AsSlice()...)
			if e.Hostname != nil && *e.Hostname != "" {
				s.hosts = append(s.hosts, make([]string, count-len(s.hosts)+1)...)
				s.hosts[count] = strings.Clone(*e.Hostname)
			}
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				s.notReady = append(s.notReady, make([]bool, count-len(s.notReady)+1)...)
				s.notReady[count] = true
			}
			count++
		}
	}
	if s.hosts != nil {
		s.hosts = append(s.hosts, make([]string, count-len(s.hosts))...)
	}
	if s.notReady != nil {
		s.notReady = append(s.notReady, make([]bool, count-len(s.notReady))...)
	}
	s.addrs = slices.Clip(s.addrs)
	for i := range es.Ports {
		p := &es.Ports[i]
		if p.Port == nil {
			continue // stands for all ports: there is no number to tell
		}
		var name string
		if p.Name != nil {
			name = *p.Name
		}
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		s.ports = append(s.ports, newPort(name, proto, *p.Port))
	}
	return s
}

// unique sorts addresses of one size that stand one after another, and takes out what is there twice.
func unique(b []byte, size int) []byte {
	all := slices.Collect(slices.Chunk(b, size))
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(slices.CompactFunc(all, bytes.Equal), nil)
}
