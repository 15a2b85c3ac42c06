package netpol

import (
	"net/netip"
	"slices"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// direction is one of the two in which policies isolate.
type direction int

const (
	ingress direction = iota
	egress
)

func (d direction) String() string { return []string{"ingress", "egress"}[d] }

// pods is the map from a pod's address to the chain that its packets have to pass.
func (d direction) pods(v6 bool) string { return setName(d.String()+"-pods", v6) }

// itself is the set of pods for which policies hold, twice: a pod reaches itself.
const itself = "itself"

// Words of a rule that addresses and ports are loaded into. An IPv6 address takes four.
const (
	wordFirst  = 0
	wordSecond = 4
)

// own and other are the part of a packet that is the pod's own address, and its peer's.
func (d direction) own(v6 bool) nft.Part {
	if d == ingress {
		return nft.DestinationOf(v6)
	}
	return nft.SourceOf(v6)
}

func (d direction) other(v6 bool) nft.Part {
	if d == ingress {
		return nft.SourceOf(v6)
	}
	return nft.DestinationOf(v6)
}

// Priorities of the base chains: before the pod network's own rules. What leaves a pod is asked first.
const (
	priorityEgress  = nft.PriorityFilter - 20
	priorityIngress = nft.PriorityFilter - 10
)

// base is the sets and chains that are there without any policy. A packet of a pod that no policy selects costs a look at its connection and one lookup; one of a
// connection that has begun costs the first alone.
func base(n Network) (sets []nft.Set, chains []nft.Chain) {
	for _, v6 := range []bool{false, true} {
		a := nft.AddrOf(v6)
		sets = append(sets,
			nft.Set{Name: setName(itself, v6), Key: nft.Type{a, a}},
			nft.Set{Name: ingress.pods(v6), Key: nft.Type{a}, Data: nft.Type{nft.ChainName}},
			nft.Set{Name: egress.pods(v6), Key: nft.Type{a}, Data: nft.Type{nft.ChainName}},
		)
	}
	goesOn := nft.Rule{If: []nft.Match{nft.State{In: nft.Established | nft.Related}}, Do: nft.Accept{}, Comment: "what has begun goes on"}
	chain := func(name string, d direction, hook nft.Hook, priority int, link nft.Match, first ...nft.Rule) nft.Chain {
		c := nft.Chain{Name: name, Base: &nft.Base{Hook: hook, Priority: priority}, Rules: append(first, goesOn)}
		for _, v6 := range []bool{false, true} {
			words := 1
			if v6 {
				words = 4
			}
			c.Rules = append(c.Rules,
				nft.Rule{
					If: []nft.Match{link, nft.Family{V6: v6}, nft.Load{What: nft.SourceOf(v6), Into: wordFirst}, nft.Load{What: nft.DestinationOf(v6), Into: wordFirst + words}, nft.InSet{Set: setName(itself, v6), Key: wordFirst}},
					Do: nft.Accept{}, Comment: "a pod reaches itself",
				},
				nft.Rule{If: []nft.Match{link, nft.Family{V6: v6}, nft.Load{What: d.own(v6), Into: wordFirst}}, Do: nft.JumpOf{Map: d.pods(v6), Key: wordFirst}},
			)
		}
		return c
	}
	neighbours := nft.Rule{If: []nft.Match{nft.In{Link: n.Bridge}, nft.Of{Proto: nft.ICMPv6}}, Do: nft.Accept{}, Comment: "pods find the node"}
	return sets, []nft.Chain{
		chain("from-pods", egress, nft.Forward, priorityEgress, nft.In{Link: n.Bridge}),
		chain("from-pods-to-node", egress, nft.Input, priorityEgress, nft.In{Link: n.Bridge}, neighbours),
		chain("to-pods", ingress, nft.Forward, priorityIngress, nft.Out{Link: n.Bridge}),
	}
}

// chainOf is the chain of a policy in a direction.
func chainOf(key loop.Key, d direction) string {
	return "policy-" + d.String() + "-" + digest(key.Namespace, key.Name)
}

// gate is the chain that packets of pods pass for which those policies hold: what none of them allows is dropped.
func gate(d direction, policies []string) (name string, rules []nft.Rule) {
	for _, p := range policies {
		rules = append(rules, nft.Rule{Do: nft.Jump{Chain: p}})
	}
	rules = append(rules, nft.Rule{Do: nft.Drop{}, Comment: "no policy allows it"})
	return "gate-" + d.String() + "-" + digest(policies...), rules
}

// rulesOf says what a policy allows in a direction.
func rulesOf(p *policy, d direction) (all []nft.Rule) {
	list := p.in
	if d == egress {
		list = p.out
	}
	for _, r := range list {
		for _, v6 := range []bool{false, true} {
			for _, peer := range peersOf(r, d, v6) {
				for _, port := range portsOf(r, v6) {
					// What matches by itself comes before what is loaded and looked up.
					all = append(all, nft.Rule{If: slices.Concat([]nft.Match{nft.Family{V6: v6}}, port.match, peer.match, peer.steps, port.steps), Do: nft.Accept{}, Comment: p.key.Namespace + "/" + p.key.Name})
				}
			}
		}
	}
	return all
}

// condition is a part of a rule.
type condition struct{ match, steps []nft.Match }

func peersOf(r rule, d direction, v6 bool) (all []condition) {
	if r.anyone {
		return []condition{{}}
	}
	for _, s := range r.groups {
		all = append(all, condition{steps: []nft.Match{nft.Load{What: d.other(v6), Into: wordFirst}, nft.InSet{Set: setName(s.name(), v6), Key: wordFirst}}})
	}
	for _, b := range r.blocks {
		if b.in.Addr().Is6() != v6 {
			continue
		}
		c := condition{match: []nft.Match{address(d, b.in, false)}}
		for _, e := range b.except {
			if e.Addr().Is6() == v6 {
				c.match = append(c.match, address(d, e, true))
			}
		}
		all = append(all, c)
	}
	return all
}

func address(d direction, p netip.Prefix, not bool) nft.Match {
	if d == ingress {
		return nft.From{Prefix: p, Not: not}
	}
	return nft.To{Prefix: p, Not: not}
}

func portsOf(r rule, v6 bool) (all []condition) {
	if len(r.ports) == 0 {
		return []condition{{}}
	}
	words := 1
	if v6 {
		words = 4
	}
	for _, p := range r.ports {
		switch {
		case p.name != "": // in either direction it is a port of where the packet goes
			all = append(all, condition{match: []nft.Match{nft.Of{Proto: p.proto}}, steps: []nft.Match{
				nft.Load{What: nft.DestinationOf(v6), Into: wordSecond}, nft.Load{What: nft.DestinationPort, Into: wordSecond + words}, nft.InSet{Set: setName(p.set(), v6), Key: wordSecond},
			}})
		case p.last == 0:
			all = append(all, condition{match: []nft.Match{nft.Of{Proto: p.proto}}})
		case p.first == p.last:
			all = append(all, condition{match: []nft.Match{nft.Port{Proto: p.proto, Port: p.first}}})
		default:
			all = append(all, condition{match: []nft.Match{nft.Ports{Proto: p.proto, First: p.first, Last: p.last}}})
		}
	}
	return all
}
