package dns

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// records is what the server was told, in as few bytes as answers need. Services are found by their label and their namespace's as on
// the wire ("\x03web\x07default"), which is both key and part of every answer.
//
// A service, once it is in the map, is never changed but replaced: a reader holds mu for one look into a map, and so does a writer for
// its last step. What a writer prepares, it prepares under writing.
type records struct {
	writing sync.Mutex
	slices  map[string]*slice // by namespace and name
	of      map[string]*slice // by service, linked: slices of one Service

	mu         sync.RWMutex
	services   map[string]*service
	namespaces map[string]namespace  // by label
	byIP       map[[16]byte]string   // to the service of an address
	alsoByIP   map[[16]byte][]string // to the others, where an address has several
}

type namespace struct {
	there    bool
	services int
}

// service is what a Service's name stands for: addresses, or another name.
type service struct {
	key       string
	v4, v6    []byte // the addresses one after another, sorted: the Service's own, or if it is headless its endpoints'
	ports     []port // of a Service with an address
	external  target // of an ExternalName
	headless  bool
	all       bool       // endpoints that are not ready too
	endpoints []endpoint // of a headless Service: sorted by hostname, then address
}

type port struct {
	name   string
	proto  string // in small letters, as in _tcp
	number uint16
}

type endpoint struct {
	addr  [16]byte
	v6    bool
	host  string // empty: the address stands for it
	ports []port
}

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

// target is a name as on the wire.
type target []byte

func (e *endpoint) ip() netip.Addr { return netip.AddrFrom16(e.addr).Unmap() }

func (e *endpoint) bytes() []byte {
	if e.v6 {
		return e.addr[:]
	}
	return e.addr[12:]
}

func (r *records) init() {
	r.slices, r.of, r.services = map[string]*slice{}, map[string]*slice{}, map[string]*service{}
	r.namespaces, r.byIP, r.alsoByIP = map[string]namespace{}, map[[16]byte]string{}, map[[16]byte][]string{}
}

// SetNamespace tells that a namespace is there, or no more.
func (r *records) SetNamespace(name string, there bool) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	ns := r.namespaces[name]
	ns.there = there
	r.setNamespace(strings.Clone(name), ns)
}

func (r *records) setNamespace(name string, ns namespace) {
	if ns == (namespace{}) {
		delete(r.namespaces, name)
	} else {
		r.namespaces[name] = ns
	}
}

// SetService tells of a Service, as it is now.
func (r *records) SetService(svc *corev1.Service) {
	r.writing.Lock()
	defer r.writing.Unlock()
	key := serviceKey(svc.Namespace, svc.Name)
	s := &service{key: key, all: svc.Spec.PublishNotReadyAddresses}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		if _, err := netip.ParseAddr(svc.Spec.ExternalName); err != nil { // what looks like an address is no name, and not resolved
			s.external = wireName(svc.Spec.ExternalName)
		}
		if s.external == nil {
			s = nil
		}
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		s.headless = true
		r.gather(s)
	default:
		ips := svc.Spec.ClusterIPs
		if len(ips) == 0 {
			ips = []string{svc.Spec.ClusterIP}
		}
		for _, ip := range ips {
			s.add(ip)
		}
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			s.ports = append(s.ports, newPort(p.Name, p.Protocol, p.Port))
		}
		if s.v4 == nil && s.v6 == nil {
			s = nil // it has no address yet
		}
	}
	r.publish(key, s)
}

// DeleteService tells that a Service is gone.
func (r *records) DeleteService(namespace, name string) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.publish(serviceKey(namespace, name), nil)
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

// publish puts a service, or none, where readers find it.
func (r *records) publish(key string, s *service) {
	was := r.services[key]
	gone, came := was.ips(), s.ips()
	r.mu.Lock()
	defer r.mu.Unlock()
	for ip := range gone {
		if _, stays := came[ip]; !stays {
			r.forgetIP(ip, key)
		}
	}
	for ip := range came {
		if _, stayed := gone[ip]; !stayed {
			r.learnIP(ip, key)
		}
	}
	label := key[int(key[0])+2:]
	ns := r.namespaces[label]
	if was != nil {
		ns.services--
	}
	if s == nil {
		delete(r.services, key)
	} else {
		ns.services++
		r.services[key] = s
	}
	r.setNamespace(label, ns)
}

// ips is the set of a service's addresses.
func (s *service) ips() map[[16]byte]struct{} {
	if s == nil || s.v4 == nil && s.v6 == nil {
		return nil
	}
	set := make(map[[16]byte]struct{}, len(s.v4)/4+len(s.v6)/16)
	for ip := range slices.Chunk(s.v4, 4) {
		set[as16(ip)] = struct{}{}
	}
	for ip := range slices.Chunk(s.v6, 16) {
		set[as16(ip)] = struct{}{}
	}
	return set
}

func (r *records) learnIP(ip [16]byte, key string) {
	if _, taken := r.byIP[ip]; taken {
		r.alsoByIP[ip] = append(slices.Clip(r.alsoByIP[ip]), key)
		return
	}
	r.byIP[ip] = key
}

func (r *records) forgetIP(ip [16]byte, key string) {
	rest := slices.DeleteFunc(slices.Clone(r.alsoByIP[ip]), func(k string) bool { return k == key })
	if r.byIP[ip] == key {
		if len(rest) == 0 {
			delete(r.byIP, ip)
			return
		}
		r.byIP[ip], rest = rest[0], rest[1:]
	}
	if len(rest) == 0 {
		delete(r.alsoByIP, ip)
	} else {
		r.alsoByIP[ip] = rest
	}
}

// interned gives the string that is kept already, if one is.
func (r *records) interned(key string) string {
	if s := r.services[key]; s != nil {
		return s.key
	}
	return key
}

// find gives the service of a key; nil if there is none.
func (r *records) find(key []byte) *service {
	r.mu.RLock()
	s := r.services[string(key)]
	r.mu.RUnlock()
	return s
}

// hasNamespace says whether a namespace is there, by its label.
func (r *records) hasNamespace(label []byte) bool {
	r.mu.RLock()
	_, there := r.namespaces[string(label)]
	r.mu.RUnlock()
	return there
}

// owners gives the services that an address belongs to.
func (r *records) owners(ip [16]byte) (first *service, others []*service) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	first = r.services[r.byIP[ip]]
	for _, key := range r.alsoByIP[ip] {
		others = append(others, r.services[key])
	}
	return first, others
}

func serviceKey(namespace, name string) string {
	b := make([]byte, 0, len(namespace)+len(name)+2)
	b = append(append(b, byte(len(name))), name...)
	b = append(append(b, byte(len(namespace))), namespace...)
	return string(b)
}

func (s *service) add(ip string) {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
	case a.Unmap().Is4():
		s.v4 = append(s.v4, a.Unmap().AsSlice()...)
	default:
		s.v6 = append(s.v6, a.AsSlice()...)
	}
}

func newPort(name string, proto corev1.Protocol, number int32) port {
	p := port{name: strings.Clone(name), number: uint16(number)}
	switch proto {
	case corev1.ProtocolUDP:
		p.proto = "udp"
	case corev1.ProtocolSCTP:
		p.proto = "sctp"
	default:
		p.proto = "tcp"
	}
	return p
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

func as16(ip []byte) [16]byte {
	a, _ := netip.AddrFromSlice(ip)
	return a.As16()
}

// unique sorts addresses of one size that stand one after another, and takes out what is there twice.
func unique(b []byte, size int) []byte {
	all := slices.Collect(slices.Chunk(b, size))
	slices.SortFunc(all, bytes.Compare)
	return bytes.Join(slices.CompactFunc(all, bytes.Equal), nil)
}
