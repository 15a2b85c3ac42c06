package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// ends are the endpoints that packets for one port are sent to.
type ends struct {
	cluster []netip.AddrPort // by those who may go anywhere
	local   []netip.AddrPort // by those who have to stay on this node
	any     bool             // some endpoint could be used somewhere
	// Those of cluster, or of local, are ending: they are sent to since nobody else is ready.
	lastCluster, lastLocal bool
	hosts                  int // endpoints on this node that are ready, as load balancers count them
}

// end is an endpoint as far as it decides.
type end struct {
	at             netip.AddrPort
	ready, serving bool
	ending, here   bool
	zones          []discovery.ForZone
	nodes          []discovery.ForNode
}

// chosen picks among the endpoints of a port: those that are ready and meant for this node or its zone if all say whom they are meant for; if none is
// ready, those that are ending and serve still (KEP-1669, KEP-4444, KEP-3015).
func chosen(all []*discovery.EndpointSlice, port *corev1.ServicePort, v6 bool, at Where) ends {
	list := listed(all, port, v6, at.Node)
	var e ends
	near := nearness(list, at)
	e.cluster, e.lastCluster = pick(list, func(x *end) bool { return near(x) })
	e.local, e.lastLocal = pick(list, func(x *end) bool { return x.here })
	for i := range list {
		if list[i].ready || list[i].serving && list[i].ending {
			e.any = true
		}
		if list[i].ready && list[i].here {
			e.hosts++
		}
	}
	return e
}

// pick is the ready ones of those that fit; the ending ones that serve still if there are none, which are the last.
func pick(list []end, fits func(*end) bool) (ends []netip.AddrPort, last bool) {
	var ready, ending []netip.AddrPort
	for i := range list {
		switch x := &list[i]; {
		case !fits(x):
		case x.ready:
			ready = append(ready, x.at)
		case x.serving && x.ending:
			ending = append(ending, x.at)
		}
	}
	if len(ready) == 0 {
		return ending, true
	}
	return ready, false
}

// listed is each endpoint of the port once. One that several slices have counts as ready if one of them says so.
func listed(all []*discovery.EndpointSlice, port *corev1.ServicePort, v6 bool, node string) []end {
	wanted := discovery.AddressTypeIPv4
	if v6 {
		wanted = discovery.AddressTypeIPv6
	}
	var list []end
	seen := map[netip.AddrPort]int{}
	for _, s := range all {
		if s.AddressType != wanted {
			continue
		}
		number := numberOf(s, port)
		if number == 0 {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0]) // all of them are the same host's
			if err != nil {
				continue
			}
			x := end{at: netip.AddrPortFrom(ip.Unmap(), number), here: e.NodeName != nil && *e.NodeName == node}
			x.ready = e.Conditions.Ready == nil || *e.Conditions.Ready
			x.serving = e.Conditions.Serving == nil && x.ready || e.Conditions.Serving != nil && *e.Conditions.Serving
			x.ending = e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if e.Hints != nil {
				x.zones, x.nodes = e.Hints.ForZones, e.Hints.ForNodes
			}
			if i, twice := seen[x.at]; !twice {
				seen[x.at] = len(list)
				list = append(list, x)
			} else if x.ready && !list[i].ready {
				list[i] = x
			}
		}
	}
	slices.SortFunc(list, func(a, b end) int { return a.at.Compare(b.at) })
	return list
}

// numberOf is the port's number at a slice's endpoints; zero if it has none there.
func numberOf(s *discovery.EndpointSlice, port *corev1.ServicePort) uint16 {
	for i := range s.Ports {
		p := &s.Ports[i]
		name, protocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if name == port.Name && protocol == port.Protocol && p.Port != nil {
			return uint16(*p.Port)
		}
	}
	return 0
}

// nearness tells which endpoints are meant for this node. Hints are heeded only if each ready endpoint has them and one of them names this node, or else its
// zone: so nobody is left without an endpoint while hints are on their way.
func nearness(list []end, at Where) func(*end) bool {
	allNodes, allZones, forNode, forZone := true, true, false, false
	named := func(x *end) bool {
		return slices.ContainsFunc(x.nodes, func(n discovery.ForNode) bool { return n.Name == at.Node })
	}
	zoned := func(x *end) bool {
		return slices.ContainsFunc(x.zones, func(z discovery.ForZone) bool { return z.Name == at.Zone })
	}
	for i := range list {
		if x := &list[i]; x.ready {
			allNodes, forNode = allNodes && len(x.nodes) > 0, forNode || named(x)
			allZones, forZone = allZones && len(x.zones) > 0, forZone || zoned(x)
		}
	}
	switch {
	case allNodes && forNode:
		return named
	case allZones && forZone && at.Zone != "":
		return zoned
	}
	return func(*end) bool { return true }
}
