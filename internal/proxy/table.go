package proxy

import (
	"net/netip"
	"time"

	"sampan.dev/internal/nft"
)

// Network is what the rules have to know of addresses.
type Network struct {
	Table    string         // name of the nftables table
	Pods     []netip.Prefix // of the whole cluster, one of each family it has
	Node     []netip.Prefix // this node's part of them
	Services []netip.Prefix
}

func (n Network) families() (v4, v6 bool) {
	for _, p := range n.Services {
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
	}
	return v4, v6
}

// defaultAge is how long clients are remembered where a rule does not say.
const defaultAge = 3 * time.Hour

// Priorities of chains. Who may use a load balancer is asked before the address is translated.
const priorityRanges = nft.PriorityDstNAT - 10

// Names of sets that are not a flavor's.
func refused(f flavor) string { return "refuse-" + f.name() }
func guarded(v6 bool) string  { return flavor{v6: v6}.name() + "-guarded" }
func allowed(v6 bool) string  { return flavor{v6: v6}.name() + "-allowed" }
func namedSet(v6 bool) string { return flavor{v6: v6}.name() + "-named" }
func itself(v6 bool) string   { return flavor{v6: v6}.name() + "-itself" }

// skeleton is the table without any Service.
//
// A connection to a front is translated once, where its first packet comes in (prerouting) or leaves this node's own programs (output); all else of it follows the
// kernel's connection tracking. What costs nothing for packets is done by lookups: their number does not grow with the number of Services. And no element
// refers to a chain, but those of sticky fronts: the kernel checks all of them anew at each change.
func skeleton(n Network) nft.Table {
	v4, v6 := n.families()
	t := nft.Table{Name: n.Table}
	prerouting := nft.Chain{Name: "prerouting", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Prerouting, Priority: nft.PriorityDstNAT}}
	output := nft.Chain{Name: "output", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Output, Priority: nft.PriorityDstNAT}}
	ranges := nft.Chain{Name: "source-ranges", Base: &nft.Base{Hook: nft.Prerouting, Priority: priorityRanges}}
	postrouting := nft.Chain{Name: "postrouting", Base: &nft.Base{Kind: nft.NAT, Hook: nft.Postrouting, Priority: nft.PrioritySrcNAT}}
	refuse := nft.Chain{Name: "refuse"}
	for _, f := range flavors(v4, v6) {
		t.Sets = append(t.Sets, nft.Set{Name: f.name(), Key: f.frontType()}, nft.Set{Name: f.ends(), Key: append(f.frontType(), nft.Num32), Data: f.endType()})
		t.Chains = append(t.Chains, nft.Chain{Name: f.name()})
		var first []nft.Match
		if f.outside {
			first = append(fromOutside(n, f.v6), first...)
		}
		if f.port {
			first = append(first, nft.ToLocal{})
		}
		rule := nft.Rule{If: append(first, f.in(f.name())...), Do: nft.Goto{Chain: f.name()}}
		prerouting.Rules = append(prerouting.Rules, rule)
		if f.outside {
			continue
		}
		output.Rules = append(output.Rules, rule)
		t.Sets = append(t.Sets, nft.Set{Name: refused(f), Key: f.frontType()})
		refuse.Rules = append(refuse.Rules, nft.Refuse("a Service without endpoints", append(first, f.in(refused(f))...)...)...)
	}
	for _, six := range []bool{false, true} {
		if six && v6 || !six && v4 {
			guard(n, six, &t, &ranges)
			masquerade(n, six, &t, &postrouting)
			unnamed(six, &t, &refuse)
		}
	}
	t.Chains = append(t.Chains, ranges, prerouting, output, postrouting, refuse)
	for name, hook := range map[string]nft.Hook{"refuse-input": nft.Input, "refuse-forward": nft.Forward, "refuse-output": nft.Output} {
		// Only what begins: an answer from a port that has this number is none of these.
		rules := []nft.Rule{{If: []nft.Match{nft.State{In: nft.Starting}}, Do: nft.Jump{Chain: refuse.Name}}}
		t.Chains = append(t.Chains, nft.Chain{Name: name, Base: &nft.Base{Hook: hook, Priority: nft.PriorityFilter}, Rules: rules})
	}
	return t
}

// unnamed refuses what is sent to a load balancer's address and to no port of a Service there. The address is no machine's: it would be sent back to the link
// that it came from.
func unnamed(v6 bool, t *nft.Table, refuse *nft.Chain) {
	t.Sets = append(t.Sets, nft.Set{Name: namedSet(v6), Key: nft.Type{nft.AddrOf(v6)}})
	refuse.Rules = append(refuse.Rules, nft.Refuse("a load balancer's address, at no port of a Service",
		nft.ToLocal{Not: true}, nft.Family{V6: v6}, nft.Load{What: nft.DestinationOf(v6), Into: 4}, nft.InSet{Set: namedSet(v6), Key: 4})...)
}

// fromOutside matches packets that come neither from a pod nor from this node.
func fromOutside(n Network, v6 bool) (all []nft.Match) {
	all = append(all, nft.FromLocal{Not: true})
	for _, p := range n.Pods {
		if p.Addr().Is6() == v6 {
			all = append(all, nft.From{Prefix: p, Not: true})
		}
	}
	return all
}

// guard lets only some sources use a front.
func guard(_ Network, v6 bool, t *nft.Table, ranges *nft.Chain) {
	f := flavor{v6: v6}
	w := f.words()
	t.Sets = append(t.Sets,
		nft.Set{Name: guarded(v6), Key: f.frontType()},
		nft.Set{Name: allowed(v6), Key: append(f.frontType(), nft.AddrOf(v6)), Ranges: true})
	after := w.front + f.frontType().Words()
	ranges.Rules = append(ranges.Rules, nft.Rule{
		If: f.in(guarded(v6), nft.Load{What: nft.SourceOf(v6), Into: after}, nft.InSet{Set: allowed(v6), Key: w.front, Not: true}),
		Do: nft.Drop{}, Comment: "not one of loadBalancerSourceRanges",
	})
}

// masquerade says which packets get this node's address, because their answers would go astray: those of a pod to itself, those of the node's loopback address, and
// those from outside to an end on another node, which would answer by its own way. All others keep theirs.
func masquerade(n Network, v6 bool, t *nft.Table, postrouting *nft.Chain) {
	t.Sets = append(t.Sets, nft.Set{Name: itself(v6), Key: nft.Type{nft.AddrOf(v6), nft.AddrOf(v6)}})
	second := 4 + nft.Type{nft.AddrOf(v6)}.Words()
	postrouting.Rules = append(postrouting.Rules, nft.Rule{
		If: []nft.Match{
			nft.Translated{},
			nft.Family{V6: v6},
			nft.Load{What: nft.SourceOf(v6), Into: 4},
			nft.Load{What: nft.DestinationOf(v6), Into: second},
			nft.InSet{Set: itself(v6), Key: 4},
		},
		Do: nft.Masquerade{}, Comment: "a pod to itself",
	})
	if !v6 {
		postrouting.Rules = append(postrouting.Rules, nft.Rule{
			If: []nft.Match{nft.Translated{}, nft.From{Prefix: loopback}, nft.Out{Link: "lo", Not: true}},
			Do: nft.Masquerade{}, Comment: "localhost to a pod",
		})
	}
	away := append([]nft.Match{nft.Translated{}}, fromOutside(n, v6)...)
	away = append(away, nft.ToLocal{Not: true})
	for _, p := range n.Node {
		if p.Addr().Is6() == v6 {
			away = append(away, nft.To{Prefix: p, Not: true})
		}
	}
	postrouting.Rules = append(postrouting.Rules, nft.Rule{If: away, Do: nft.Masquerade{}, Comment: "from outside to another node"})
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")
