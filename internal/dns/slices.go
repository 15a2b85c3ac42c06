package dns

import (
	"bytes"
	"cmp"
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
	s.next = r.of[s.service]
	r.of[s.service], r.slices[id] = s, s
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
		size := 4
		if sl.v6 {
			size = 16
		}
		for i := range len(sl.addrs) / size {
			if sl.notReady != nil && sl.notReady[i] && !s.all {
				continue
			}
			e := endpoint{v6: sl.v6, ports: sl.ports}
			raw := sl.addrs[i*size : (i+1)*size]
			e.addr = as16(raw)
			if sl.hosts != nil {
				e.host = sl.hosts[i]
			}
			s.endpoints = append(s.endpoints, e)
		}
	}
	slices.SortFunc(s.endpoints, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.host, b.host), bytes.Compare(a.addr[:], b.addr[:]))
	})
	// One endpoint can be in two slices while it moves from one to the other.
	s.endpoints = slices.Clip(slices.CompactFunc(s.endpoints, func(a, b endpoint) bool {
		return a.host == b.host && a.addr == b.addr && slices.Equal(a.ports, b.ports)
	}))
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
