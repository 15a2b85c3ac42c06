package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// records is what the server was told, in as few bytes as answers need. Services are found by their label and their namespace's as on
// the wire ("\x03web\x07default"), which is both key and part of every answer.
//
// A service, once it is in the map, is never changed but replaced: a reader holds mu for one look into a map, and so does a writer for
// its last step. What a writer prepares, it prepares under writing.
type records struct {
	writing sync.Mutex
	slices  map[string]*slice // by namespace and name
	shared  map[string][]port // by what they say: most Services have the same ports

	mu         sync.RWMutex
	services   map[string]*service
	of         map[string]*slice     // by service, linked: slices of one Service
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
	r.shared = map[string][]port{}
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
		} else {
			s.ports = r.share(s.ports)
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

// share gives ports that say the same, of which one copy is kept for all. What is remembered to that end is bounded, and then forgotten.
func (r *records) share(ports []port) []port {
	if len(ports) == 0 {
		return nil
	}
	var b []byte
	for _, p := range ports {
		b = append(append(append(append(b, p.name...), 0), p.proto...), byte(p.number>>8), byte(p.number))
	}
	if one, found := r.shared[string(b)]; found {
		return one
	}
	if len(r.shared) == 256 {
		clear(r.shared)
	}
	r.shared[string(b)] = slices.Clip(ports)
	return ports
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

func as16(ip []byte) [16]byte {
	a, _ := netip.AddrFromSlice(ip)
	return a.As16()
}
