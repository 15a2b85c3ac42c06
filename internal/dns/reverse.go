package dns

import "net/netip"

var (
	inAddr = []byte("\x07in-addr\x04arpa\x00")
	ip6    = []byte("\x03ip6\x04arpa\x00")
)

// reverse reads the reverse name of an address, or of a part of one. ok says that it is answered here: because it lies in a range of the
// cluster, whose name then begins at zone in the packet, or because a Service has an endpoint there (zone is then 0: the name is its own). A full name without valid ip is
// of nothing: it stands beside or below all addresses.
func (s *Server) reverse(q *query) (zone int, ip netip.Addr, full, ok bool) {
	size, step := 4, 8 // labels of an address, bits of a label
	if q.under(ip6, 2) {
		size, step = 32, 4
	} else if !q.under(inAddr, 2) {
		return 0, ip, false, false
	}
	n, known := q.labels-2, 0
	var raw [16]byte
	for known < min(n, size) {
		label := q.label(n - 1 - known)
		if step == 8 {
			octet, valid := decimal(label)
			if !valid {
				break
			}
			raw[known] = octet
		} else {
			nibble, valid := hexadecimal(label)
			if !valid {
				break
			}
			raw[known/2] |= nibble << (4 * (1 - known%2))
		}
		known++
	}
	if step == 8 {
		ip = netip.AddrFrom4([4]byte(raw[:4]))
	} else {
		ip = netip.AddrFrom16(raw)
	}
	for _, p := range s.prefixes {
		if labels := (p.Bits() + step - 1) / step; known >= labels && p.Contains(ip) && labels > 0 {
			zone = headerSize + int(q.off[n-labels]) // of the smallest reverse zones that make up the range
			if known < n {
				return zone, netip.Addr{}, true, true
			}
			return zone, ip, known == size, true
		}
	}
	if known == size && n == size {
		first, _ := s.owners(ip.As16())
		return 0, ip, true, first != nil
	}
	return 0, ip, false, false
}

// lookupReverse answers about an address, whose zone begins at an offset of the packet; full says that it is a whole one.
func (s *Server) lookupReverse(q *query, r *reply, zone int, ip netip.Addr, full bool) where {
	if !full {
		r.no(rcodeSuccess, zone) // there may be addresses below it
		return here
	}
	var first *service
	var others []*service
	if ip.IsValid() {
		first, others = s.owners(ip.As16())
	}
	switch {
	case first == nil:
		r.no(rcodeName, zone)
	case q.qtype == typeANY:
		r.hinfo()
	case q.qtype != typePTR:
		r.no(rcodeSuccess, zone)
	default:
		s.point(r, first, ip)
		for _, svc := range others {
			s.point(r, svc, ip)
		}
	}
	return here
}

// point answers with the names that an address has in one Service.
func (s *Server) point(r *reply, svc *service, ip netip.Addr) {
	if !svc.headless {
		r.name(typePTR, []byte(svc.key), s.svcZone)
		return
	}
	want := ip.As16()
	last := ""
	for i := range svc.endpoints {
		e := &svc.endpoints[i]
		if e.addr != want || e.host == last && i > 0 && svc.endpoints[i-1].addr == want {
			continue
		}
		last = e.host
		var label [64]byte
		text := append(label[:1], e.host...)
		if e.host == "" {
			text = appendDashed(text, e)
		}
		text[0] = byte(len(text) - 1)
		r.name(typePTR, text, []byte(svc.key), s.svcZone)
	}
}

// decimal reads an octet as it is written in reverse names: without leading zeros.
func decimal(label []byte) (octet byte, ok bool) {
	n := 0
	for _, c := range label {
		if c < '0' || c > '9' || len(label) > 3 || label[0] == '0' && len(label) > 1 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return byte(n), n <= 255
}

func hexadecimal(label []byte) (nibble byte, ok bool) {
	if len(label) != 1 {
		return 0, false
	}
	switch c := label[0]; {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
