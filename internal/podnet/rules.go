package podnet

import (
	"cmp"
	"net/netip"
	"slices"

	"sampan.dev/internal/nft"
)

var (
	multicast = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")} // of IPv4 and of IPv6
	loopback  = netip.MustParsePrefix("127.0.0.0/8")
)

// redirect and redirect6 are the ICMP messages that tell a host of a shorter way (RFC 792; RFC 4861, 4.5). Pods that took them would answer each other past this node, where addresses are
// translated and policies hold.
const (
	redirect  = 5
	redirect6 = 137
)

// table is all rules of the node's pod network, as a value.
//
// Pods reach pods, node and world; the world sees the node's address. What is still addressed to the service range when it is
// filtered was translated by nobody: no Service owns it. It is refused at both places it can pass: forwarded (from pods, since
// the range is routed to the bridge) and going out (from the node itself).
func (n *Network) table() nft.Table {
	c := n.cfg
	bridge := c.Bridge()
	var unowned []nft.Rule
	for _, services := range append(c.services(), n.more...) {
		unowned = append(unowned, nft.Refuse("no Service owns this address", nft.To{Prefix: services})...)
	}
	var toTheWorld []nft.Rule
	for i, r := range c.ranges() {
		toTheWorld = append(toTheWorld, nft.Rule{If: []nft.Match{nft.To{Prefix: multicast[i]}}, Do: nft.Return{}}, nft.Rule{
			If: []nft.Match{nft.From{Prefix: r.Node}, nft.To{Prefix: r.Pods, Not: true}, nft.Out{Link: bridge, Not: true}},
			Do: nft.Masquerade{}, Comment: "pods to the world",
		})
	}
	t := nft.Table{Name: c.Table(), Chains: []nft.Chain{
		{Name: "loopback", Base: &nft.Base{Hook: nft.Prerouting, Priority: nft.PriorityRaw}, Rules: []nft.Rule{
			{If: []nft.Match{nft.In{Link: "lo", Not: true}, nft.To{Prefix: loopback}}, Do: nft.Drop{}, Comment: "nobody else reaches the node's loopback"},
		}},
		{Name: "forward", Base: &nft.Base{Hook: nft.Forward, Priority: nft.PriorityFilter}, Rules: append(slices.Clip(unowned),
			nft.Rule{If: []nft.Match{nft.In{Link: bridge}}, Do: nft.Accept{}, Comment: "from pods"},
			nft.Rule{If: []nft.Match{nft.Out{Link: bridge}}, Do: nft.Accept{}, Comment: "to pods"},
		)},
		{Name: "output", Base: &nft.Base{Hook: nft.Output, Priority: nft.PriorityFilter}, Rules: append(append(n.answered(), unowned...),
			nft.Rule{If: []nft.Match{nft.Out{Link: bridge}, nft.ToICMP{Type: redirect}}, Do: nft.Drop{}, Comment: "pods reach each other by this node"},
			nft.Rule{If: []nft.Match{nft.Out{Link: bridge}, nft.ToICMP{V6: true, Type: redirect6}}, Do: nft.Drop{}, Comment: "pods reach each other by this node"},
		)},
		{Name: "masquerade", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Postrouting, Priority: nft.PrioritySrcNAT}, Rules: toTheWorld},
	}}
	if ports := n.sortedPorts(); len(ports) > 0 {
		n.publish(&t, ports)
	}
	n.guard(&t)
	return t
}

// services are the ranges of Services that the network begins with.
func (c Config) services() (all []netip.Prefix) {
	for _, r := range c.ranges() {
		all = append(all, r.Service)
	}
	return all
}

// answered lets the node's own programs ask the DNS server, which answers at an address of the service range. (Pods' questions are not forwarded.)
func (n *Network) answered() []nft.Rule {
	if !n.cfg.DNS.IsValid() {
		return nil
	}
	return []nft.Rule{{If: []nft.Match{nft.To{Prefix: netip.PrefixFrom(n.cfg.DNS, n.cfg.DNS.BitLen())}}, Do: nft.Return{}, Comment: "this node's DNS server"}}
}

// publish adds the host ports: translated where they come in and where the node itself asks, and masqueraded where a pod
// reaches itself, since it would drop a packet that seems to be its own.
func (n *Network) publish(t *nft.Table, ports []HostPort) {
	var translate, hairpin []nft.Rule
	for _, p := range ports {
		match := []nft.Match{nft.Port{Proto: p.Proto, Port: p.HostPort}}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			match = append(match, nft.To{Prefix: netip.PrefixFrom(p.HostIP, p.HostIP.BitLen())})
		}
		translate = append(translate, nft.Rule{If: match, Do: nft.DNAT{To: p.Pod, Port: p.PodPort}})
		self := netip.PrefixFrom(p.Pod, p.Pod.BitLen())
		hairpin = append(hairpin, nft.Rule{If: []nft.Match{nft.From{Prefix: self}, nft.To{Prefix: self}}, Do: nft.Masquerade{}, Comment: "a pod to its own host port"})
	}
	hairpin = slices.CompactFunc(hairpin, func(a, b nft.Rule) bool { return slices.Equal(a.If, b.If) })
	toPorts := []nft.Rule{{If: []nft.Match{nft.ToLocal{}}, Do: nft.Jump{Chain: "hostports"}}}
	hairpin = append(hairpin, nft.Rule{If: []nft.Match{nft.From{Prefix: loopback}, nft.Out{Link: n.cfg.Bridge()}}, Do: nft.Masquerade{}, Comment: "localhost to a host port"})
	masquerade := slices.IndexFunc(t.Chains, func(c nft.Chain) bool { return c.Name == "masquerade" })
	t.Chains[masquerade].Rules = append(hairpin, t.Chains[masquerade].Rules...)
	t.Chains = append([]nft.Chain{
		{Name: "hostports", Rules: translate},
		{Name: "hostports-in", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Prerouting, Priority: nft.PriorityDstNAT}, Rules: toPorts},
		{Name: "hostports-out", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Output, Priority: nft.PriorityDstNAT}, Rules: toPorts},
	}, t.Chains...)
}

// sortedPorts puts ports with a host address before those for any: rules are tried in order.
func (n *Network) sortedPorts() []HostPort {
	var all []HostPort
	for _, ports := range n.ports {
		all = append(all, ports...)
	}
	slices.SortFunc(all, func(a, b HostPort) int {
		return cmp.Or(-cmp.Compare(a.HostIP.BitLen(), b.HostIP.BitLen()), a.Pod.Compare(b.Pod), a.HostIP.Compare(b.HostIP),
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.PodPort, b.PodPort))
	})
	return all
}
