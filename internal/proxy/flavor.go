package proxy

import (
	"fmt"
	"net/netip"

	"sampan.dev/internal/nft"
)

// flavor is a sort of front. Each has its own sets, since their keys differ: all of its fronts in one; those of N ends in another for each N, which a
// rule of N sends on; and the ends of all of them in a map, by front and number.
type flavor struct {
	v6      bool
	port    bool // of any address of the node
	outside bool
}

func (f Front) flavor() flavor { return flavor{f.V6, !f.Addr.IsValid(), f.Outside} }

// flavors of a cluster of those families.
func flavors(v4, v6 bool) (all []flavor) {
	for _, six := range []bool{false, true} {
		if six && !v6 || !six && !v4 {
			continue
		}
		for _, outside := range []bool{true, false} {
			all = append(all, flavor{six, false, outside}, flavor{six, true, outside})
		}
	}
	return all
}

// name is what sets and chains of the flavor are called: "to4", "port4", "outside-to4", …
func (f flavor) name() string {
	name := "to4"
	switch {
	case f.port && f.v6:
		name = "port6"
	case f.port:
		name = "port4"
	case f.v6:
		name = "to6"
	}
	if f.outside {
		return "outside-" + name
	}
	return name
}

func (f flavor) ends() string { return f.name() + "-ends" }

// sized is the set of the fronts that have so many ends.
func (f flavor) sized(n int) string { return fmt.Sprintf("%s-%d", f.name(), n) }

// frontType is the type of a front's key.
func (f flavor) frontType() nft.Type {
	if f.port {
		return nft.Type{nft.L4, nft.Port16}
	}
	return nft.Type{nft.AddrOf(f.v6), nft.L4, nft.Port16}
}

func (f flavor) endType() nft.Type { return nft.Type{nft.AddrOf(f.v6), nft.Port16} }

// key is a front's key.
func (f Front) key() nft.Bytes {
	if f.Addr.IsValid() {
		return nft.Concat(f.Addr, f.Proto, f.Port)
	}
	return nft.Concat(f.Proto, f.Port)
}

func endKey(front nft.Bytes, slot int) nft.Bytes { return front + nft.Concat(uint32(slot)) }

func endValue(a netip.AddrPort) nft.Bytes { return nft.Concat(a.Addr(), a.Port()) }

// words are where rules of a flavor have what they load: client, front, the number of an end, the end.
type words struct{ client, front, slot, end int }

func (f flavor) words() words {
	switch {
	case f.v6 && f.port:
		return words{client: 4, front: 8, slot: 10, end: 11}
	case f.v6:
		return words{client: 0, front: 4, slot: 10, end: 11}
	case f.port:
		return words{client: 4, front: 5, slot: 7, end: 8}
	}
	return words{client: 3, front: 4, slot: 7, end: 8}
}

// load puts the front that a packet is for into the words. Only packets of the family go on.
func (f flavor) load(more ...nft.Match) []nft.Match {
	w := f.words()
	all := []nft.Match{nft.Family{V6: f.v6}}
	if f.port {
		return append(append(all, nft.Load{What: nft.Protocol, Into: w.front}, nft.Load{What: nft.DestinationPort, Into: w.front + 1}), more...)
	}
	next := w.front + nft.Type{nft.AddrOf(f.v6)}.Words()
	return append(append(all, nft.Load{What: nft.DestinationOf(f.v6), Into: w.front}, nft.Load{What: nft.Protocol, Into: next}, nft.Load{What: nft.DestinationPort, Into: next + 1}), more...)
}

// in goes on if the packet is for a front of that set.
func (f flavor) in(set string, more ...nft.Match) []nft.Match {
	return f.load(append([]nft.Match{nft.InSet{Set: set, Key: f.words().front}}, more...)...)
}

// toEnd looks up the end whose number is in its word, and sends the connection there.
func (f flavor) lookup() nft.Match {
	w := f.words()
	return nft.Lookup{Map: f.ends(), Key: w.front, Into: w.end}
}

func (f flavor) send() nft.Action { return nft.DNATWords{V6: f.v6, Addr: f.words().end} }

// sizeRule sends what is for a front of n ends to one of them, each as likely as the others; of none, it drops.
func (f flavor) sizeRule(n int) nft.Rule {
	if n == 0 {
		return nft.Rule{If: f.in(f.sized(0)), Do: nft.Drop{}, Comment: "no endpoint on this node"}
	}
	return nft.Rule{If: f.in(f.sized(n), nft.Random{Below: uint32(n), Into: f.words().slot}, f.lookup()), Do: f.send()}
}
