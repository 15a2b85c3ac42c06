package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// program is what the table holds, kept so that each change can be told as a small step, and all of it again when it has to be made anew.
type program struct {
	network  Network
	services map[loop.Key]served
	fronts   map[Front]*front
	waiting  map[Front][]loop.Key // who wants a front that another Service has
	own      map[netip.Addr]int   // how many Services have the end on this node
	named    map[netip.Addr]int   // how many Services have the load balancer's address
	to       map[netip.Addr]int   // how many fronts have an end of that address that is not ending
	changed  map[netip.Addr]bool  // addresses whose count in to has changed since somebody looked
	sizes    map[flavor]map[int]bool
	classes  map[class]bool
	picks    map[string]bool // chains and sets of sticky fronts, by name
}

// served is what a Service has in the table.
type served struct {
	fronts []Front
	own    []netip.Addr
	named  []netip.Addr
}

// front is a front's state in the table.
type front struct {
	owner   loop.Key
	slots   []netip.AddrPort // ends by number; not valid: a hole, of sticky fronts
	last    bool             // they are ending
	sticky  uint32
	refused bool // in place of ends
	dropped bool
	from    []netip.Prefix
}

func newProgram(n Network) *program {
	return &program{
		network: n, services: map[loop.Key]served{}, fronts: map[Front]*front{}, waiting: map[Front][]loop.Key{}, own: map[netip.Addr]int{}, named: map[netip.Addr]int{}, to: map[netip.Addr]int{}, changed: map[netip.Addr]bool{},
		sizes: map[flavor]map[int]bool{}, classes: map[class]bool{}, picks: map[string]bool{},
	}
}

// gone is an end that a front of UDP had, or, not valid, says that a front of UDP had none before: connections that the kernel
// remembers are wrong now.
type gone struct {
	front Front
	end   netip.Addr
}

// set takes over the plans of some Services, and says the step that makes the table so, and the Services that may have a front now that others
// had. What the kernel remembers of UDP and has to forget is in stale.
func (p *program) set(plans map[loop.Key]Plan) (c nft.Change, again []loop.Key, stale []gone) {
	e := editor{program: p, deleted: map[string][]nft.Element{}, added: map[string][]nft.Element{}, counted: map[counted]bool{}}
	for _, key := range slices.SortedFunc(maps.Keys(plans), compareKeys) {
		e.service(key, plans[key])
	}
	e.countedOnes()
	return e.change(), e.again, e.stale
}

func compareKeys(a, b loop.Key) int {
	switch {
	case a.Namespace != b.Namespace && a.Namespace < b.Namespace, a.Namespace == b.Namespace && a.Name < b.Name:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// editor gathers one step.
type editor struct {
	*program
	deleted, added map[string][]nft.Element // by set
	sets           []nft.Set
	chains, rules  []nft.Chain
	counted        map[counted]bool // addresses whose count changed, and whether they were in the table
	again          []loop.Key
	stale          []gone
}

func (e *editor) add(set string, elements ...nft.Element) {
	e.added[set] = append(e.added[set], elements...)
}

func (e *editor) delete(set string, elements ...nft.Element) {
	e.deleted[set] = append(e.deleted[set], elements...)
}

func (e *editor) change() nft.Change {
	c := nft.Change{Table: e.network.Table, Sets: e.sets, Chains: e.chains, Rules: e.rules}
	for _, name := range slices.Sorted(maps.Keys(e.deleted)) {
		c.Delete = append(c.Delete, nft.Elements{Set: name, List: e.deleted[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(e.added)) {
		c.Add = append(c.Add, nft.Elements{Set: name, List: e.added[name]})
	}
	return c
}

func (e *editor) service(key loop.Key, plan Plan) {
	old := e.services[key]
	now := served{own: plan.Own, named: plan.Named}
	wanted := make(map[Front]bool, len(plan.Routes))
	for i := range plan.Routes {
		r := &plan.Routes[i]
		if wanted[r.Front] || r.Outside && len(r.Ends) == 0 && !r.Drop {
			continue // the front for all refuses it
		}
		wanted[r.Front] = true
		if f := e.fronts[r.Front]; f != nil && f.owner != key {
			if !slices.Contains(e.waiting[r.Front], key) {
				e.waiting[r.Front] = append(e.waiting[r.Front], key)
			}
			continue
		}
		e.route(key, r)
		now.fronts = append(now.fronts, r.Front)
	}
	for _, f := range old.fronts {
		if !wanted[f] {
			e.remove(f)
		}
	}
	for by, s := range map[int]served{1: now, -1: old} {
		for _, a := range s.own {
			e.count(counted{a, false}, by)
		}
		for _, a := range s.named {
			e.count(counted{a, true}, by)
		}
	}
	if len(now.fronts)+len(now.own)+len(now.named) == 0 {
		delete(e.services, key)
	} else {
		e.services[key] = now
	}
}

// route makes a front be as wanted.
func (e *editor) route(key loop.Key, r *Route) {
	f := e.fronts[r.Front]
	if f == nil {
		f = &front{owner: key}
		e.fronts[r.Front] = f
	}
	old := *f
	defer func(old front) { e.tally(old, *f) }(old)
	if f.sticky != r.Sticky { // another way of sending: all anew
		e.take(r.Front, old)
		old = front{from: old.from}
	}
	f.sticky = r.Sticky
	f.slots, f.last = place(old.slots, r.Ends, r.Sticky > 0), r.Last
	f.dropped = len(r.Ends) == 0 && r.Drop
	f.refused = len(r.Ends) == 0 && !r.Drop
	e.move(r.Front, old, *f)
	if !slices.Equal(old.from, r.From) || (old.from == nil) != (r.From == nil) {
		e.unguard(r.Front, old.from)
		e.guard(r.Front, r.From)
		f.from = r.From
	}
	if r.Proto == nft.UDP {
		for _, a := range old.slots {
			if a.IsValid() && !slices.Contains(f.slots, a) {
				e.stale = append(e.stale, gone{r.Front, a.Addr()})
			}
		}
		if count(old.slots) == 0 && len(r.Ends) > 0 {
			e.stale = append(e.stale, gone{front: r.Front})
		}
	}
}

func (e *editor) remove(at Front) {
	f := e.fronts[at]
	e.take(at, *f)
	e.tally(*f, front{})
	e.unguard(at, f.from)
	if at.Proto == nft.UDP {
		for _, a := range f.slots {
			if a.IsValid() {
				e.stale = append(e.stale, gone{at, a.Addr()})
			}
		}
	}
	delete(e.fronts, at)
	e.again = append(e.again, e.waiting[at]...)
	delete(e.waiting, at)
}

// take removes a front with its ends.
func (e *editor) take(at Front, f front) { e.move(at, f, front{}) }

// move changes the elements of a front from one state to another.
func (e *editor) move(at Front, old, now front) {
	key, fl := at.key(), at.flavor()
	was, is := e.place(fl, old), e.place(fl, now)
	if was != is {
		if was != "" {
			e.delete(was, nft.Element{Key: key})
		}
		if is != "" {
			e.add(is, nft.Element{Key: key})
		}
	}
	listed := func(place string) bool { return place != "" && place != refused(fl) }
	if listed(was) && !listed(is) {
		e.delete(fl.name(), nft.Element{Key: key})
	} else if !listed(was) && listed(is) {
		e.add(fl.name(), nft.Element{Key: key})
	}
	for i := range max(len(old.slots), len(now.slots)) {
		var a, b netip.AddrPort
		if i < len(old.slots) {
			a = old.slots[i]
		}
		if i < len(now.slots) {
			b = now.slots[i]
		}
		if a == b {
			continue
		}
		if a.IsValid() {
			e.delete(fl.ends(), nft.Element{Key: endKey(key, i)})
		}
		if b.IsValid() {
			e.add(fl.ends(), nft.Element{Key: endKey(key, i), Data: endValue(b)})
		}
	}
}

// tally counts a front that goes from one state to another among those of its ends.
func (e *editor) tally(old, now front) {
	if old.last == now.last && slices.Equal(old.slots, now.slots) {
		return
	}
	for by, f := range map[int]front{1: now, -1: old} {
		for _, a := range f.slots {
			if f.last || !a.IsValid() {
				continue
			}
			e.changed[a.Addr()] = true
			if e.to[a.Addr()] += by; e.to[a.Addr()] == 0 {
				delete(e.to, a.Addr())
			}
		}
	}
}

// place is the set that a front in that state belongs into, made if need be; empty: none.
func (e *editor) place(fl flavor, f front) string {
	switch {
	case f.refused:
		return refused(fl)
	case len(f.slots) == 0 && !f.dropped:
		return ""
	case f.sticky > 0 && !f.dropped:
		return e.class(class{fl, len(f.slots), f.sticky})
	}
	n := len(f.slots)
	if e.sizes[fl] == nil {
		e.sizes[fl] = map[int]bool{}
	}
	if !e.sizes[fl][n] {
		e.sizes[fl][n] = true
		e.sets = append(e.sets, nft.Set{Name: fl.sized(n), Key: fl.frontType()})
		e.rules = append(e.rules, nft.Chain{Name: fl.name(), Rules: []nft.Rule{fl.sizeRule(n)}})
	}
	return fl.sized(n)
}

// class makes what a class of sticky fronts needs, once.
func (e *editor) class(c class) string {
	if e.classes[c] {
		return c.name()
	}
	e.classes[c] = true
	for i := range c.slots {
		if name := c.friends(i); !e.picks[name] {
			e.picks[name] = true
			e.sets = append(e.sets, c.friendsSet(i))
		}
		if name := c.pick(i, c.seconds); !e.picks[name] {
			e.picks[name] = true
			e.chains = append(e.chains, c.pickChain(i, c.seconds))
		}
	}
	e.sets = append(e.sets, c.fronts(), c.slotsMap())
	e.chains = append(e.chains, c.chain())
	e.rules = append(e.rules, nft.Chain{Name: c.flavor.name(), Rules: []nft.Rule{c.rule()}})
	return c.name()
}

// place gives ends their numbers: those that stay keep theirs as far as can be. Of sticky fronts all of them do, and there may be holes.
func place(old, ends []netip.AddrPort, sticky bool) []netip.AddrPort {
	wanted := make(map[netip.AddrPort]bool, len(ends))
	for _, a := range ends {
		wanted[a] = true
	}
	slots := slices.Clone(old)
	var holes []int
	for i, a := range slots {
		if !wanted[a] {
			slots[i] = netip.AddrPort{}
			holes = append(holes, i)
		}
		delete(wanted, a)
	}
	for _, a := range ends {
		switch {
		case !wanted[a]:
		case len(holes) > 0:
			slots[holes[0]], holes = a, holes[1:]
		default:
			slots = append(slots, a)
		}
	}
	last := func() int {
		for len(slots) > 0 && !slots[len(slots)-1].IsValid() {
			slots = slots[:len(slots)-1]
		}
		return len(slots) - 1
	}
	last()
	if sticky {
		return slots
	}
	for _, i := range holes {
		if n := last(); i < n {
			slots[i], slots = slots[n], slots[:n]
		}
	}
	last()
	return slots
}

func count(slots []netip.AddrPort) (n int) {
	for _, a := range slots {
		if a.IsValid() {
			n++
		}
	}
	return n
}

// guard and unguard are for the front for all, which has the same address and port as the one for outsiders.
func (e *editor) guard(at Front, from []netip.Prefix) {
	if from == nil || at.Outside {
		return
	}
	e.add(guarded(at.V6), nft.Element{Key: at.key()})
	e.add(allowed(at.V6), rangesOf(at, from)...)
}

func (e *editor) unguard(at Front, from []netip.Prefix) {
	if from == nil || at.Outside {
		return
	}
	e.delete(guarded(at.V6), nft.Element{Key: at.key()})
	e.delete(allowed(at.V6), rangesOf(at, from)...)
}

// rangesOf are a front's ranges as elements; a range within another is left out, since elements must not overlap.
func rangesOf(at Front, from []netip.Prefix) (all []nft.Element) {
	sorted := slices.Clone(from)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for i, p := range sorted {
		if slices.ContainsFunc(sorted[:i], func(wider netip.Prefix) bool { return wider.Contains(p.Addr()) }) {
			continue
		}
		all = append(all, nft.Element{Key: at.key() + nft.Concat(p.Addr()), End: at.key() + nft.Concat(lastOf(p))})
	}
	return all
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// counted is an address that several Services may have: as an end on this node, or named as a load balancer's.
type counted struct {
	addr  netip.Addr
	named bool
}

// in is the set that such an address is in, and as what.
func (c counted) in() (set string, element nft.Element) {
	if c.named {
		return namedSet(c.addr.Is6()), nft.Element{Key: nft.Concat(c.addr)}
	}
	return itself(c.addr.Is6()), nft.Element{Key: nft.Concat(c.addr, c.addr)}
}

func (p *program) counts(c counted) map[netip.Addr]int {
	if c.named {
		return p.named
	}
	return p.own
}

// count notes that so many Services more have an address.
func (e *editor) count(c counted, by int) {
	counts := e.counts(c)
	if _, known := e.counted[c]; !known {
		e.counted[c] = counts[c.addr] > 0
	}
	if counts[c.addr] += by; counts[c.addr] == 0 {
		delete(counts, c.addr)
	}
}

// countedOnes tells of addresses that have come and gone.
func (e *editor) countedOnes() {
	for c, was := range e.counted {
		set, element := c.in()
		switch is := e.counts(c)[c.addr] > 0; {
		case was && !is:
			e.delete(set, element)
		case is && !was:
			e.add(set, element)
		}
	}
}

// table is all of it, for when it has to be made anew.
func (p *program) table() (nft.Table, error) {
	t := skeleton(p.network)
	p.sizes, p.classes, p.picks = map[flavor]map[int]bool{}, map[class]bool{}, map[string]bool{}
	fresh := newProgram(p.network)
	fresh.sizes, fresh.classes, fresh.picks = p.sizes, p.classes, p.picks
	e := editor{program: fresh, deleted: map[string][]nft.Element{}, added: map[string][]nft.Element{}}
	for at, f := range p.fronts {
		e.move(at, front{}, *f)
		e.guard(at, f.from)
	}
	for named, addrs := range map[bool]map[netip.Addr]int{false: p.own, true: p.named} {
		for a := range addrs {
			set, element := counted{a, named}.in()
			e.add(set, element)
		}
	}
	return t, t.Apply(e.change())
}

func (f Front) String() string {
	where := "any address"
	if f.Addr.IsValid() {
		where = f.Addr.String()
	}
	return fmt.Sprintf("%s port %d/%d", where, f.Port, f.Proto)
}
