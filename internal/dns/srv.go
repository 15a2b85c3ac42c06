package dns

import "math/rand/v2"

// serve answers with the ports of a name and protocol, or with all if that is empty: at the Service, or at each of its endpoints.
func (s *Server) serve(svc *service, r *reply, zone int, name, proto string) {
	fits := func(p *port) bool { return proto == "" || p.name == name && p.proto == proto }
	if !svc.headless {
		count := 0
		for i := range svc.ports {
			if fits(&svc.ports[i]) {
				count++
			}
		}
		at := 0
		for i := range svc.ports {
			if p := &svc.ports[i]; fits(p) {
				at = r.srv(weight(count), p.number, nil, []byte(svc.key), s.svcZone)
			}
		}
		if count == 0 {
			r.no(rcodeSuccess, zone)
		} else {
			also(r, at, svc.v4, svc.v6)
		}
		return
	}
	s.serveAt(svc, svc.endpoints, r, zone, fits)
}

// serveAt answers with the ports of endpoints, and with the endpoints' addresses.
func (s *Server) serveAt(svc *service, endpoints []endpoint, r *reply, zone int, fits func(*port) bool) {
	count := 0
	for i := range endpoints {
		for j := range endpoints[i].ports {
			if fits(&endpoints[i].ports[j]) {
				count++
			}
		}
	}
	if count == 0 {
		r.no(rcodeSuccess, zone)
		return
	}
	type place struct{ at, endpoint int }
	var places []place // of the targets, for their addresses
	start := rand.IntN(len(endpoints))
	for i := range endpoints {
		i = (start + i) % len(endpoints)
		e := &endpoints[i]
		var label [64]byte
		text := append(label[:0], e.host...)
		if e.host == "" {
			text = appendDashed(text, e)
		}
		at := 0
		for j := range e.ports {
			if p := &e.ports[j]; fits(p) {
				at = r.srv(weight(count), p.number, text, []byte(svc.key), s.svcZone)
			}
		}
		if r.full {
			return
		}
		if at > 0 {
			places = append(places, place{at, i})
		}
	}
	for _, p := range places {
		e := &endpoints[p.endpoint]
		if e.v6 {
			also(r, p.at, nil, e.bytes())
		} else {
			also(r, p.at, e.bytes(), nil)
		}
	}
}

func also(r *reply, at int, v4, v6 []byte) {
	for i := 0; i < len(v4); i += 4 {
		r.also(at, typeA, v4[i:i+4])
	}
	for i := 0; i < len(v6); i += 16 {
		r.also(at, typeAAAA, v6[i:i+16])
	}
}

// weight shares a hundred among equals.
func weight(count int) int { return max(1, 100/max(1, count)) }
