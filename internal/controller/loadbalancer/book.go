package loadbalancer

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/loop"
)

// Ground is what addresses are given out of.
type Ground struct {
	Pools    Pools // none: the nodes' own addresses
	Nodes    []Node
	Reserved map[uint16]string
}

// Verdict is what one Service gets. One that gets nothing is told why.
type Verdict struct {
	Addresses []netip.Addr
	Reason    string // of an event
	Words     string
}

// slot is a port at an address; without a port, the address as a whole. The nodes' own addresses are one: the unspecified one of their family. An address that is not valid
// stands for any that is free.
type slot struct {
	addr netip.Addr
	v6   bool
	port Port
}

// never is what becomes free by no Service's doing.
var never = slot{port: Port{Number: -1}}

func anyFree(v6 bool) slot            { return slot{v6: v6} }
func whole(a netip.Addr) slot         { return slot{addr: a, v6: a.Is6()} }
func at(a netip.Addr, port Port) slot { return slot{addr: a, v6: a.Is6(), port: port} }

// ofNodes stands for the nodes' own addresses of a family.
func ofNodes(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// grant is what a Service has.
type grant struct {
	claim *Claim
	addrs []netip.Addr // of pools, or what stands for the nodes'
}

// Book says which Service has which address, and who waits for what. Its memory is what the Services' status says: a book that is filled anew from that
// says the same. What one Service gets is found by looking up its addresses and ports, however many others there are. It does no I/O and reads no clock.
type Book struct {
	ground Ground
	own    map[netip.Addr]string // the nodes' own addresses
	next   []netip.Addr          // of each pool: all before it are taken; not valid: all are

	grants  map[loop.Key]*grant
	holders map[netip.Addr]map[loop.Key]*Claim
	ports   map[slot]loop.Key
	sharing map[string]map[netip.Addr]int // addresses by sharing key, and how many Services share them

	waits   map[slot]map[loop.Key]*Claim
	waiting map[loop.Key]slot
}

// NewBook returns an empty one.
func NewBook(ground Ground) *Book {
	b := &Book{
		grants: map[loop.Key]*grant{}, holders: map[netip.Addr]map[loop.Key]*Claim{}, ports: map[slot]loop.Key{}, sharing: map[string]map[netip.Addr]int{},
		waits: map[slot]map[loop.Key]*Claim{}, waiting: map[loop.Key]slot{},
	}
	b.SetGround(ground)
	return b
}

// SetGround changes what addresses are given out of. What has been given stays until each Service is decided on again: do so with all that Keys names.
func (b *Book) SetGround(ground Ground) {
	b.ground, b.own, b.next = ground, map[netip.Addr]string{}, nil
	for _, n := range ground.Nodes {
		for _, a := range n.Own {
			b.own[a] = n.Name
		}
	}
	for _, r := range ground.Pools {
		b.next = append(b.next, r.From)
	}
}

// Keys are the Services that the book knows: those that have something, then those that wait, the older first.
func (b *Book) Keys() []loop.Key {
	var have, wait []*Claim
	for _, g := range b.grants {
		have = append(have, g.claim)
	}
	for _, claims := range b.waits {
		wait = append(wait, slices.Collect(maps.Values(claims))...)
	}
	slices.SortFunc(have, (*Claim).before)
	slices.SortFunc(wait, (*Claim).before)
	var keys []loop.Key
	for _, c := range append(have, wait...) {
		keys = append(keys, c.Key)
	}
	return keys
}

// Has says that a Service has an address.
func (b *Book) Has(key loop.Key) bool { return b.grants[key] != nil }

// Fill decides on many Services at once: those that have an address by their status go first, then the older ones. Ends is as for Decide.
func (b *Book) Fill(claims []*Claim, ends func(loop.Key) map[string]bool) {
	slices.SortFunc(claims, func(x, y *Claim) int {
		if hasX, hasY := len(x.Has) > 0, len(y.Has) > 0; hasX != hasY {
			if hasX {
				return -1
			}
			return 1
		}
		return x.before(y)
	})
	for _, c := range claims {
		b.Decide(c, ends)
	}
}

// Decide says what a Service gets, writes it down, and names those who may get now what this one has given back, the older first. Ends says for a Service of external
// traffic policy Local which nodes have a pod that is ready.
func (b *Book) Decide(c *Claim, ends func(loop.Key) map[string]bool) (v Verdict, wake []loop.Key) {
	had, before := b.addressesOf(c), b.grants[c.Key]
	freed := b.release(c.Key)
	b.unwait(c.Key)
	var addrs []netip.Addr
	var no *refusal
	if len(b.ground.Pools) > 0 {
		addrs, no = b.fromPools(c, had)
		v.Addresses = addrs
	} else if addrs, no = b.fromNodes(c); no == nil {
		if v.Addresses = b.nodeAddresses(c, ends); len(v.Addresses) == 0 {
			v.Reason, v.Words = "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer"
			b.wait(c, never) // it holds no port meanwhile: what it has is what its status says
			return v, b.concerned(b.free(freed))
		}
	}
	if no != nil {
		b.wait(c, no.until)
		v = Verdict{Reason: "SyncLoadBalancerFailed", Words: "Error syncing load balancer: failed to ensure load balancer: " + no.why}
		return v, b.concerned(b.free(freed))
	}
	b.give(c, addrs)
	if before != nil && slices.Equal(before.addrs, addrs) && before.claim.uses(c) {
		return v, nil
	}
	freed = b.free(freed)
	if c.Sharing != "" {
		for _, a := range addrs { // who waits for any address, or for this one, may share it
			freed = append(freed, whole(a), anyFree(a.Is6()))
		}
	}
	return v, b.concerned(freed)
}

// Remove gives back what a Service has, and names those who may get it.
func (b *Book) Remove(key loop.Key) (wake []loop.Key) {
	b.unwait(key)
	return b.concerned(b.free(b.release(key)))
}

// refusal says why a Service gets nothing, and what would have to become free.
type refusal struct {
	until slot
	why   string
}

// addressesOf are the addresses that a Service has: by the book, or else by its status.
func (b *Book) addressesOf(c *Claim) []netip.Addr {
	if g := b.grants[c.Key]; g != nil && g.claim.UID == c.UID {
		return g.addrs
	}
	return c.Has
}

// fromNodes sees whether a Service can have its ports at the nodes' own addresses: on all of them, or on none, so that what it gets does not depend on where pods are.
func (b *Book) fromNodes(c *Claim) (addrs []netip.Addr, no *refusal) {
	if c.Wrong != "" {
		return nil, &refusal{until: never, why: c.Wrong}
	}
	for _, a := range c.Asked {
		if b.own[a] == "" {
			return nil, &refusal{until: never, why: fmt.Sprintf("%s, which it asks for, is no node's address: make a pool of addresses with the ConfigMap %s/%s", a, Namespace, Name)}
		}
	}
	for _, v6 := range c.V6 {
		a := ofNodes(v6)
		for _, p := range c.Ports {
			if user := b.ground.Reserved[uint16(p.Number)]; user != "" && p.Proto == corev1.ProtocolTCP {
				return nil, &refusal{until: at(a, p), why: fmt.Sprintf("port %s of the nodes' addresses is in use by %s: choose another port, or make a pool of addresses with the ConfigMap %s/%s", p, user, Namespace, Name)}
			}
			if other, taken := b.ports[at(a, p)]; taken {
				return nil, &refusal{until: at(a, p), why: fmt.Sprintf("port %s of the nodes' addresses is in use by Service %s: choose another port, delete that Service, or make a pool of addresses with the ConfigMap %s/%s", p, other, Namespace, Name)}
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// nodeAddresses are those of the nodes that serve a Service, in the order of its families.
func (b *Book) nodeAddresses(c *Claim, ends func(loop.Key) map[string]bool) (all []netip.Addr) {
	var on map[string]bool
	if c.Local {
		on = ends(c.Key)
	}
	for _, v6 := range c.V6 {
		var list []netip.Addr
		for _, n := range b.ground.Nodes {
			if !n.Serves || c.Local && !on[n.Name] {
				continue
			}
			for _, a := range n.Addresses {
				if asked := c.asked(v6); a.Is6() == v6 && (!asked.IsValid() || a == asked) {
					list = append(list, a)
				}
			}
		}
		slices.SortFunc(list, netip.Addr.Compare)
		all = append(all, slices.Compact(list)...)
	}
	return all
}

// fromPools finds a Service an address of each of its families.
func (b *Book) fromPools(c *Claim, had []netip.Addr) (addrs []netip.Addr, no *refusal) {
	if c.Wrong != "" {
		return nil, &refusal{until: never, why: c.Wrong}
	}
	for _, v6 := range c.V6 {
		if asked := c.asked(v6); asked.IsValid() {
			if no := b.obstacle(c, asked); no != nil {
				return nil, no
			}
			addrs = append(addrs, asked)
			continue
		}
		if !b.ground.Pools.has(v6) {
			if c.All || len(c.V6) == 1 {
				return nil, &refusal{until: anyFree(v6), why: fmt.Sprintf("no pool has %s addresses: the pools are %s", family(v6), b.ground.Pools)}
			}
			continue // it prefers two families, and has to do with one
		}
		a := b.pick(c, v6, had)
		if !a.IsValid() {
			return nil, &refusal{until: anyFree(v6), why: fmt.Sprintf("all %s addresses of the pools are taken: the pools are %s", family(v6), b.ground.Pools)}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// pick chooses: what the Service has, what it can share, the lowest that is free.
func (b *Book) pick(c *Claim, v6 bool, had []netip.Addr) netip.Addr {
	for _, a := range had {
		if a.Is6() == v6 && b.obstacle(c, a) == nil {
			return a
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(b.sharing[c.Sharing]), netip.Addr.Compare) {
		if a.Is6() == v6 && b.obstacle(c, a) == nil {
			return a
		}
	}
	for i, r := range b.ground.Pools {
		if r.From.Is6() != v6 {
			continue
		}
		a := b.next[i]
		for a.IsValid() && r.Contains(a) && (b.own[a] != "" || len(b.holders[a]) > 0) {
			a = a.Next()
		}
		if !a.IsValid() || !r.Contains(a) {
			b.next[i] = netip.Addr{}
			continue
		}
		b.next[i] = a
		return a
	}
	return netip.Addr{}
}

// obstacle says why a Service cannot have an address; nil: it can.
func (b *Book) obstacle(c *Claim, a netip.Addr) *refusal {
	switch {
	case !b.ground.Pools.Contains(a):
		return &refusal{until: whole(a), why: fmt.Sprintf("%s, which it asks for, is in no pool: the pools are %s", a, b.ground.Pools)}
	case b.own[a] != "":
		return &refusal{until: whole(a), why: fmt.Sprintf("%s, which it asks for, is an address of node %s", a, b.own[a])}
	}
	taken := func(by loop.Key, and string) *refusal {
		return &refusal{until: whole(a), why: fmt.Sprintf("%s, which it asks for, is taken by Service %s%s", a, by, and)}
	}
	for _, p := range c.Ports { // the clearest reason first
		if by, there := b.ports[at(a, p)]; there && c.Sharing != "" {
			return taken(by, fmt.Sprintf(", which has port %s there", p))
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(b.holders[a]), compareKeys) {
		other := b.holders[a][key]
		switch {
		case c.Sharing == "" || other.Sharing != c.Sharing:
			return taken(key, fmt.Sprintf("; to share it both need the same annotation %s", AnnotationSharing))
		case (c.Local || other.Local) && (c.Local != other.Local || c.Selector != other.Selector || c.Key.Namespace != other.Key.Namespace):
			return taken(key, "; with externalTrafficPolicy Local only Services with the same selector can share one")
		}
	}
	return nil
}

func compareKeys(x, y loop.Key) int { return strings.Compare(x.String(), y.String()) }
