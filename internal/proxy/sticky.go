package proxy

import (
	"fmt"

	"sampan.dev/internal/nft"
)

// Clients that stay with their end (session affinity by client IP): for each number of an end there is one set of the clients that stay with the end of that
// number, of all fronts of a flavor. So that nobody is moved when an end goes, numbers are kept: the fronts have holes. A client whose end has gone is
// forgotten and sent elsewhere.

// class is a sort of sticky front.
type class struct {
	flavor
	slots   int // numbers, holes among them
	seconds uint32
}

func (c class) name() string {
	return fmt.Sprintf("%s-%d-for-%ds", c.flavor.name(), c.slots, c.seconds)
}

func (c class) slotMap() string {
	return fmt.Sprintf("%s-pick-%d-for-%ds", c.flavor.name(), c.slots, c.seconds)
}

func (f flavor) friends(slot int) string { return fmt.Sprintf("%s-stay-%d", f.name(), slot) }

func (f flavor) pick(slot int, seconds uint32) string {
	return fmt.Sprintf("%s-pick-%d-for-%ds", f.name()+"-end", slot, seconds)
}

func (f flavor) friendsSet(slot int) nft.Set {
	return nft.Set{Name: f.friends(slot), Key: append(nft.Type{nft.AddrOf(f.v6)}, f.frontType()...), Ages: defaultAge}
}

// pickChain sends a new client to the end of one number, and notes it; where there is a hole it comes back.
func (f flavor) pickChain(slot int, seconds uint32) nft.Chain {
	w := f.words()
	return nft.Chain{Name: f.pick(slot, seconds), Rules: []nft.Rule{{
		If: f.load(nft.Load{What: nft.SourceOf(f.v6), Into: w.client}, nft.Number{Value: uint32(slot), Into: w.slot}, f.lookup(), nft.Remember{Set: f.friends(slot), Key: w.client, Seconds: seconds}),
		Do: f.send(),
	}}}
}

// tries bounds how often a number is drawn that has no end, before they are taken in order.
const tries = 4

// chain is what packets for the fronts of a class pass.
func (c class) chain() nft.Chain {
	w := c.words()
	chain := nft.Chain{Name: c.name()}
	client := nft.Load{What: nft.SourceOf(c.v6), Into: w.client}
	for i := range c.slots {
		stays := c.load(client, nft.InSet{Set: c.friends(i), Key: w.client})
		chain.Rules = append(chain.Rules,
			nft.Rule{If: append(stays[:len(stays):len(stays)], nft.Number{Value: uint32(i), Into: w.slot}, c.lookup(), nft.Remember{Set: c.friends(i), Key: w.client, Seconds: c.seconds}), Do: c.send()},
			nft.Rule{If: append(stays[:len(stays):len(stays)], nft.Forget{Set: c.friends(i), Key: w.client})})
	}
	for range tries {
		chain.Rules = append(chain.Rules, nft.Rule{If: []nft.Match{nft.Random{Below: uint32(c.slots), Into: w.slot}}, Do: nft.JumpOf{Map: c.slotMap(), Key: w.slot}})
	}
	for i := range c.slots {
		chain.Rules = append(chain.Rules, nft.Rule{Do: nft.Jump{Chain: c.pick(i, c.seconds)}})
	}
	return chain
}

func (c class) slotsMap() nft.Set {
	m := nft.Set{Name: c.slotMap(), Key: nft.Type{nft.Num32}, Data: nft.Type{nft.ChainName}}
	for i := range c.slots {
		m.Elements = append(m.Elements, nft.Element{Key: nft.Concat(uint32(i)), Jump: c.pick(i, c.seconds)})
	}
	return m
}

func (c class) fronts() nft.Set { return nft.Set{Name: c.name(), Key: c.frontType()} }

func (c class) rule() nft.Rule { return nft.Rule{If: c.in(c.name()), Do: nft.Goto{Chain: c.name()}} }
