package dns

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"sort"
	"strings"
)

// schema is the version of the specification that the answers follow.
const schema = "1.1.0"

// where says who answers a question.
type where int

const (
	outside where = iota // somebody else
	here                 // the reply is complete
	alias                // the reply holds aliases; the last is of an outside name
)

// maxAliases is how many ExternalNames of the cluster may lead to each other.
const maxAliases = 8

// lookup answers a question about the cluster.
func (s *Server) lookup(q *query, r *reply) (where, target) {
	if !s.inZone(q) {
		if zone, ip, full, ok := s.reverse(q); ok {
			r.begin(q)
			return s.lookupReverse(q, r, max(zone, headerSize), ip, full), nil
		}
		return outside, nil
	}
	svc := s.lookupZone(q, r, headerSize)
	if svc == nil {
		return here, nil
	}
	return s.follow(q, r, svc)
}

// follow answers with an alias, and with what the alias stands for as far as that is known here.
func (s *Server) follow(q *query, r *reply, svc *service) (where, target) {
	next := *q // what is asked after each step
	for range maxAliases {
		to := svc.external
		r.cname(to)
		if r.full {
			return here, nil
		}
		if q.qtype == typeCNAME || q.qtype == typeANY {
			return here, nil
		}
		next.setName(to)
		at := int(r.owner & 0x3fff)
		if !s.inZone(&next) {
			if zone, ip, full, ok := s.reverse(&next); ok {
				return s.lookupReverse(&next, r, max(zone, headerSize)-headerSize+at, ip, full), nil
			}
			return alias, to
		}
		if svc = s.lookupZone(&next, r, at); svc == nil {
			return here, nil
		}
	}
	r.rcode = rcodeServer // they lead to each other
	return here, nil
}

func (s *Server) inZone(q *query) bool { return q.under(s.zone, s.zoneLabels) }

// lookupZone answers about a name below the cluster's domain, which begins at an offset of the packet; an alias it only gives back.
func (s *Server) lookupZone(q *query, r *reply, at int) *service {
	zone := at + q.nameSize - len(s.zone)
	n := q.labels - s.zoneLabels
	if n == 0 {
		s.apex(q, r, zone)
		return nil
	}
	switch top := q.label(n - 1); {
	case string(top) == "svc":
		return s.lookupService(q, r, n-1, zone)
	case string(top) == "pod":
		s.lookupPod(q, r, n-1, zone)
	case string(top) == "dns-version" && n == 1:
		s.one(q, r, zone, typeTXT, func() { r.text(schema) })
	case string(top) == "dns" && n == 1:
		r.no(rcodeSuccess, zone)
	case string(top) == "dns" && n == 2 && string(q.label(0)) == "ns":
		s.lookupSelf(q, r, zone)
	default:
		r.no(rcodeName, zone)
	}
	return nil
}

func (s *Server) apex(q *query, r *reply, zone int) {
	switch q.qtype {
	case typeSOA:
		r.soa(zone, true)
	case typeNS:
		pointer := 0xc000 | zone
		r.name(typeNS, []byte("\x02ns\x03dns"), []byte{byte(pointer >> 8), byte(pointer)})
	case typeANY:
		r.hinfo()
	default:
		r.no(rcodeSuccess, zone)
	}
}

// one answers for a name that has records of one type.
func (s *Server) one(q *query, r *reply, zone int, kind uint16, answer func()) {
	switch q.qtype {
	case kind:
		answer()
	case typeANY:
		r.hinfo()
	default:
		r.no(rcodeSuccess, zone)
	}
}

// lookupSelf answers for the server's own name.
func (s *Server) lookupSelf(q *query, r *reply, zone int) {
	s.addrs.RLock()
	var v4, v6 []byte
	for _, ap := range s.addrs.list {
		switch a := ap.Addr(); {
		case a.IsUnspecified():
		case a.Is4():
			v4 = append(v4, a.AsSlice()...)
		default:
			v6 = append(v6, a.AsSlice()...)
		}
	}
	s.addrs.RUnlock()
	s.addresses(q, r, v4, v6, zone)
}

// addresses answers with addresses, beginning anywhere, so that each is first as often as the others.
func (s *Server) addresses(q *query, r *reply, v4, v6 []byte, zone int) {
	ips, size := v4, 4
	switch q.qtype {
	case typeANY:
		r.hinfo()
		return
	case typeAAAA:
		ips, size = v6, 16
	case typeA:
	default:
		ips = nil
	}
	n := len(ips) / size
	if n == 0 {
		r.no(rcodeSuccess, zone)
		return
	}
	start := 0
	if n > 1 {
		start = rand.IntN(n)
	}
	for i := range n {
		at := (start + i) % n * size
		r.address(q.qtype, ips[at:at+size])
		if r.full {
			return
		}
	}
}

// lookupService answers for SERVICE.NS.svc and what is below it; n labels stand before svc.
func (s *Server) lookupService(q *query, r *reply, n, zone int) *service {
	if n < 2 {
		s.emptyName(r, n == 0 || s.hasNamespace(q.label(0)), zone)
		return nil
	}
	svc := s.find(q.from(n-2, n))
	if svc == nil || svc.headless && len(svc.endpoints) == 0 {
		r.no(rcodeName, zone)
		return nil
	}
	switch {
	case n == 2 && svc.external != nil:
		return svc
	case n == 2 && q.qtype == typeSRV: // beyond the specification, as CoreDNS has it: all ports, also those without a name
		s.serve(svc, r, zone, "", "")
	case n == 2:
		s.addresses(q, r, svc.v4, svc.v6, zone)
	case n == 3 && q.label(0)[0] == '_':
		s.emptyName(r, svc.has("", q.label(0)[1:]), zone)
	case n == 3:
		s.lookupHost(q, r, svc, zone)
	case n == 4 && len(q.label(0)) > 1 && q.label(0)[0] == '_' && q.label(1)[0] == '_' && svc.has(string(q.label(0)[1:]), q.label(1)[1:]):
		switch q.qtype {
		case typeSRV:
			s.serve(svc, r, zone, string(q.label(0)[1:]), string(q.label(1)[1:]))
		case typeANY:
			r.hinfo()
		default:
			r.no(rcodeSuccess, zone)
		}
	default:
		r.no(rcodeName, zone)
	}
	return nil
}

// emptyName answers for a name that has no records, but may have names below it.
func (s *Server) emptyName(r *reply, there bool, zone int) {
	code := rcodeName
	if there {
		code = rcodeSuccess
	}
	r.no(code, zone)
}

// has says whether there is a named port of a protocol: one name, or any.
func (svc *service) has(name string, proto []byte) bool {
	is := func(ports []port) bool {
		for i := range ports {
			if p := &ports[i]; p.name != "" && (name == "" || p.name == name) && p.proto == string(proto) {
				return true
			}
		}
		return false
	}
	for i := range svc.endpoints {
		if is(svc.endpoints[i].ports) {
			return true
		}
	}
	return is(svc.ports)
}

// hosts gives the endpoints, one behind the other, that a label stands for: a hostname, or an address written with dashes.
func (svc *service) hosts(label []byte) (found []endpoint) {
	all := svc.endpoints
	from := sort.Search(len(all), func(i int) bool { return all[i].host >= string(label) })
	to := from
	for to < len(all) && all[to].host == string(label) {
		to++
	}
	if from < to {
		return all[from:to]
	}
	ip, ok := dashed(label)
	if !ok {
		return nil
	}
	want := ip.As16()
	nameless := sort.Search(len(all), func(i int) bool { return all[i].host != "" })
	from = sort.Search(nameless, func(i int) bool { return bytes.Compare(all[i].addr[:], want[:]) >= 0 })
	for to = from; to < nameless && all[to].addr == want; {
		to++
	}
	return all[from:to]
}

// lookupHost answers for one endpoint of a Service; the specification asks for that where it is headless, Kubernetes' documentation everywhere.
func (s *Server) lookupHost(q *query, r *reply, svc *service, zone int) {
	found := s.endpointsOf(svc, q.label(0))
	if len(found) == 0 {
		r.no(rcodeName, zone)
		return
	}
	if q.qtype == typeSRV {
		s.serveAt(svc, found, r, zone, func(*port) bool { return true })
		return
	}
	var v4, v6 [8 * 16]byte // enough for nearly every endpoint
	a, b := v4[:0], v6[:0]
	for i := range found {
		e := &found[i]
		switch {
		case i > 0 && e.addr == found[i-1].addr:
		case e.v6:
			b = append(b, e.addr[:]...)
		default:
			a = append(a, e.addr[12:]...)
		}
	}
	s.addresses(q, r, a, b, zone)
}

// lookupPod answers for A-B-C-D.NS.pod, whatever address that is; n labels stand before pod.
func (s *Server) lookupPod(q *query, r *reply, n, zone int) {
	if n < 2 {
		s.emptyName(r, n == 0 || s.hasNamespace(q.label(0)), zone)
		return
	}
	ip, ok := dashed(q.label(0))
	if n > 2 || !ok || !s.hasNamespace(q.label(1)) {
		r.no(rcodeName, zone)
		return
	}
	raw := ip.As16()
	if ip.Is4() {
		s.addresses(q, r, raw[12:], nil, zone)
	} else {
		s.addresses(q, r, nil, raw[:], zone)
	}
}

// dashed reads an address whose dots or colons are written as dashes.
func dashed(label []byte) (netip.Addr, bool) {
	if label[0] != '-' && (label[0] < '0' || label[0] > '9') && (label[0] < 'a' || label[0] > 'f') || len(label) > 39 {
		return netip.Addr{}, false
	}
	text := string(label)
	mark := ":"
	if strings.Count(text, "-") == 3 && !strings.Contains(text, "--") {
		mark = "."
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(text, "-", mark))
	return ip, err == nil && !ip.Is4In6() && ip.Zone() == ""
}
