package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"sampan.dev/internal/nft"
)

// Where is the node that packets pass.
type Where struct {
	Node string
	Zone string // empty if the node says none
}

// Front is what a client sends to: an address and a port, or a port of any address of a node.
type Front struct {
	Addr    netip.Addr // not valid: any address of the node, of the family that V6 says
	V6      bool
	Proto   nft.Proto
	Port    uint16
	Outside bool // for packets of neither this node nor any pod; of two fronts that differ only in this, it is asked first
}

// Route is where the packets for one front go.
type Route struct {
	Front
	Ends   []netip.AddrPort
	Last   bool           // they are ending, and sent to since nobody else is ready
	Sticky uint32         // seconds for which a client stays with its end; zero: each connection goes anywhere
	Drop   bool           // without ends, packets are dropped in silence and not refused
	From   []netip.Prefix // if not nil, the only ones who may
}

// Plan is all that one Service wants of a node.
type Plan struct {
	Routes []Route
	Own    []netip.Addr // ends on this node, which may reach themselves through the Service
	Named  []netip.Addr // addresses of load balancers: what is sent to another port of theirs is refused

	HealthPort uint16 // where load balancers ask whether this node has ends; zero: nowhere
	Healthy    int    // ends on this node, for that
}

// Decide says what a Service and its EndpointSlices want of a node. It changes nothing that it is given; families are those of the cluster. Rules
// and exceptions are those of kube-proxy: https://kubernetes.io/docs/reference/networking/virtual-ips/.
func Decide(s *corev1.Service, slices []*discovery.EndpointSlice, at Where) Plan {
	var p Plan
	if s == nil || s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == "" {
		return p
	}
	sticky := stickiness(s)
	externalLocal := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	internalLocal := s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	own := map[netip.Addr]bool{}
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		for _, ip := range clusterIPs(s) {
			ends := chosen(slices, port, ip.Is6(), at)
			for _, a := range ends.local {
				own[a.Addr()] = true
			}
			front := func(a netip.Addr, number int32) Front {
				return Front{Addr: a, V6: ip.Is6(), Proto: protoOf(port.Protocol), Port: uint16(number)}
			}
			inside := Route{Front: front(ip, port.Port), Ends: ends.cluster, Last: ends.lastCluster, Sticky: sticky}
			if internalLocal {
				inside.Ends, inside.Last, inside.Drop = ends.local, ends.lastLocal, ends.any
			}
			if len(inside.Ends) > 0 || inside.Drop { // else the closed range refuses it
				p.Routes = append(p.Routes, inside)
			}
			// reached adds a front for those who come from outside.
			reached := func(f Front, from []netip.Prefix) {
				p.Routes = append(p.Routes, Route{Front: f, Ends: ends.cluster, Last: ends.lastCluster, Sticky: sticky, From: from})
				if externalLocal {
					f.Outside = true
					p.Routes = append(p.Routes, Route{Front: f, Ends: ends.local, Last: ends.lastLocal, Sticky: sticky, Drop: ends.any, From: from})
				}
			}
			if port.NodePort != 0 {
				reached(front(netip.Addr{}, port.NodePort), nil)
			}
			for _, a := range addresses(s.Spec.ExternalIPs, ip.Is6()) {
				reached(front(a, port.Port), nil)
			}
			for _, a := range balancers(s, ip.Is6()) {
				reached(front(a, port.Port), sourceRanges(s, ip.Is6()))
			}
			if externalLocal && s.Spec.HealthCheckNodePort != 0 {
				p.HealthPort, p.Healthy = uint16(s.Spec.HealthCheckNodePort), max(p.Healthy, ends.hosts)
			}
		}
	}
	for a := range own {
		p.Own = append(p.Own, a)
	}
	for _, ip := range clusterIPs(s) {
		p.Named = append(p.Named, balancers(s, ip.Is6())...)
	}
	return p
}

func stickiness(s *corev1.Service) uint32 {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return uint32(*c.ClientIP.TimeoutSeconds)
	}
	return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
}

func clusterIPs(s *corev1.Service) (all []netip.Addr) {
	list := s.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{s.Spec.ClusterIP}
	}
	for _, text := range list {
		if ip, err := netip.ParseAddr(text); err == nil {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

func addresses(list []string, v6 bool) (all []netip.Addr) {
	for _, text := range list {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Unmap().Is6() == v6 {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

// balancers are the addresses of load balancers whose packets arrive as they were sent to them.
func balancers(s *corev1.Service, v6 bool) []netip.Addr {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var list []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			list = append(list, in.IP)
		}
	}
	return addresses(list, v6)
}

// sourceRanges are who may use the load balancer; nil: all. A Service that names only ranges of the other family lets nobody in by this one.
func sourceRanges(s *corev1.Service, v6 bool) []netip.Prefix {
	if len(s.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	ranges := []netip.Prefix{}
	for _, text := range s.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Unmap().Is6() == v6 {
			ranges = append(ranges, p.Masked())
		}
	}
	return ranges
}

func protoOf(p corev1.Protocol) nft.Proto {
	switch p {
	case corev1.ProtocolUDP:
		return nft.UDP
	case corev1.ProtocolSCTP:
		return nft.SCTP
	}
	return nft.TCP
}
