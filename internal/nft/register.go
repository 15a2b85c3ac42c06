package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A rule has 16 words of 32 bits to compute with (NFT_REG32_00 to 15). Steps load them from the packet, look them up and remember
// them; they stand among a rule's matches and are done in order. What a rule has loaded is not there any more in the next one. The
// other matches use words 0 to 3, so they come before the steps that do.
//
// What Lookup has found cannot be part of a further key: the kernel would have it, but the nft program aborts when it lists such a rule (netlink_delinearize.c takes
// the length of a key's parts from what computes them, and does not know that of a looked-up value).

// Load puts a part of the packet into a word, or four for an IPv6 address.
type Load struct {
	What Part
	Into int
}

// Part is a part of a packet.
type Part uint8

// Parts that can be loaded.
const (
	Source4 Part = iota
	Source6
	Destination4
	Destination6
	Protocol
	DestinationPort
)

// SourceOf and DestinationOf are the addresses of that family.
func SourceOf(v6 bool) Part {
	if v6 {
		return Source6
	}
	return Source4
}

// DestinationOf is the destination of that family.
func DestinationOf(v6 bool) Part {
	if v6 {
		return Destination6
	}
	return Destination4
}

// Number puts a number into a word.
type Number struct {
	Value uint32
	Into  int
}

// Random puts a random number below a limit into a word: each of them as likely as the others.
type Random struct {
	Below uint32
	Into  int
}

// InSet goes on only if the words from Key on are in the set (or are not, with Not).
type InSet struct {
	Set string
	Key int
	Not bool
}

// Lookup goes on only if the map has a value for the words from Key on, and puts that into the words from Into on, which may be those of the
// key.
type Lookup struct {
	Map       string
	Key, Into int
}

// Remember adds the words from Key on to a set that ages, or begins their time anew.
type Remember struct {
	Set     string
	Key     int
	Seconds uint32
}

// Forget removes the words from Key on from a set that ages.
type Forget struct {
	Set string
	Key int
}

// Family matches packets of IPv4, or of IPv6.
type Family struct{ V6 bool }

func word(i int) uint32 { return uint32(unix.NFT_REG32_00 + i) }

func (l Load) encode(map[string]*nftables.Set) []expr.Any {
	network := func(offset, length uint32) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: word(l.Into), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}}
	}
	switch l.What {
	case Source4:
		return network(sourceOffset, 4)
	case Destination4:
		return network(destinationOffset, 4)
	case Source6:
		return network(8, 16)
	case Destination6:
		return network(24, 16)
	case Protocol:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word(l.Into)}}
	default:
		return []expr.Any{&expr.Payload{DestRegister: word(l.Into), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
	}
}

func (n Number) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: word(n.Into), Data: []byte(Concat(n.Value))}}
}

func (r Random) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{&expr.Numgen{Register: word(r.Into), Modulus: r.Below, Type: unix.NFT_NG_RANDOM}}
}

func (i InSet) encode(sets map[string]*nftables.Set) []expr.Any {
	set := sets[i.Set]
	return []expr.Any{&expr.Lookup{SourceRegister: word(i.Key), SetName: set.Name, SetID: set.ID, Invert: i.Not}}
}

func (l Lookup) encode(sets map[string]*nftables.Set) []expr.Any {
	set := sets[l.Map]
	return []expr.Any{&expr.Lookup{SourceRegister: word(l.Key), DestRegister: word(l.Into), IsDestRegSet: true, SetName: set.Name, SetID: set.ID}}
}

func (r Remember) encode(sets map[string]*nftables.Set) []expr.Any {
	set := sets[r.Set]
	return []expr.Any{&expr.Dynset{SrcRegKey: word(r.Key), SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: seconds(r.Seconds)}}
}

func (f Forget) encode(sets map[string]*nftables.Set) []expr.Any {
	set := sets[f.Set]
	const remove = 2 // NFT_DYNSET_OP_DELETE
	return []expr.Any{&expr.Dynset{SrcRegKey: word(f.Key), SetName: set.Name, SetID: set.ID, Operation: remove}}
}

func (f Family) encode(map[string]*nftables.Set) []expr.Any { return isFamily(f.V6) }

func isFamily(v6 bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if v6 {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}},
	}
}

// put writes a value into the words of a traced packet.
func (p *Packet) put(into int, b Bytes) {
	copy(p.words[into*4:], b)
}

func (p *Packet) get(from, words int) Bytes { return Bytes(p.words[from*4 : (from+words)*4]) }

func (f Family) meets(p *Packet, _ *Table) bool { return p.To.Is6() == f.V6 }

func (l Load) meets(p *Packet, _ *Table) bool {
	address := func(a netip.Addr, v6 bool) bool {
		if a.Is6() == v6 {
			p.put(l.Into, Concat(a))
		}
		return a.Is6() == v6
	}
	switch l.What {
	case Source4, Source6:
		return address(p.From, l.What == Source6)
	case Destination4, Destination6:
		return address(p.To, l.What == Destination6)
	case Protocol:
		p.put(l.Into, Concat(p.Proto))
	case DestinationPort:
		p.put(l.Into, Concat(p.Port))
	}
	return true
}

func (n Number) meets(p *Packet, _ *Table) bool {
	p.put(n.Into, Concat(n.Value))
	return true
}

func (r Random) meets(p *Packet, _ *Table) bool {
	p.put(r.Into, Concat(p.random(r.Below)))
	return true
}

func (i InSet) meets(p *Packet, t *Table) bool {
	set := t.set(i.Set)
	_, there := set.lookup(p.get(i.Key, set.Key.Words()))
	return there != i.Not
}

func (l Lookup) meets(p *Packet, t *Table) bool {
	set := t.set(l.Map)
	found, there := set.lookup(p.get(l.Key, set.Key.Words()))
	if there {
		p.put(l.Into, found.Data)
	}
	return there
}

func (r Remember) meets(p *Packet, t *Table) bool {
	set := t.pointer(r.Set)
	key := p.get(r.Key, set.Key.Words())
	if _, there := set.lookup(key); !there {
		set.Elements = append(set.Elements, Element{Key: key})
	}
	return true
}

func (f Forget) meets(p *Packet, t *Table) bool {
	set := t.pointer(f.Set)
	key := p.get(f.Key, set.Key.Words())
	set.Elements = slices.DeleteFunc(slices.Clone(set.Elements), func(e Element) bool { return e.Key == key })
	return true
}
