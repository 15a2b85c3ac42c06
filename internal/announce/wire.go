package announce

import (
	"context"
	"net/netip"
	"slices"
)

// Link is a link of this node.
type Link struct {
	Index    int
	Name     string
	MAC      MAC
	Mute     bool           // there are no neighbours that could be told something: it is down, a loopback, a part of a bridge
	Prefixes []netip.Prefix // its own addresses, with the networks that they are of
	Local    netip.Addr     // its link-local IPv6 address, if it has one
}

// same says that what is sent and heard there is the same.
func (l Link) same(other Link) bool {
	return l.Index == other.Index && l.Mute == other.Mute && l.MAC == other.MAC && l.Local == other.Local
}

// Wire is the networks of this node. The kernel's is Kernel.
type Wire interface {
	// Links are those that have addresses.
	Links() ([]Link, error)
	// Watch tells of changes of the links and their addresses until ctx ends or it fails; it calls changed once when it has begun to watch.
	Watch(ctx context.Context, changed func()) error
	// Open listens to what neighbours say on a link by one family's protocol. Heard must not block for long.
	Open(link Link, v6 bool, heard func(Heard)) (Port, error)
}

// Port is an open link. Its methods may be called from anywhere until Close.
type Port interface {
	Join(ip netip.Addr) error  // to be asked for the address at all
	Leave(ip netip.Addr) error // what was joined
	Probe(ip netip.Addr) error // asks whether anybody has the address
	Announce(ip netip.Addr) error
	Answer(question Heard) error
	Close() error // returns after the last call of heard has
}

// equal says that the links are the same, with the same addresses.
func (l Link) equal(other Link) bool {
	return l.same(other) && slices.Equal(l.Prefixes, other.Prefixes)
}

// linkOf is the link whose network the address is of: that with the narrowest one, the first of several.
func linkOf(links []Link, ip netip.Addr) (best Link, network netip.Prefix, found bool) {
	for _, l := range links {
		for _, p := range l.Prefixes {
			if !l.Mute && p.Contains(ip) && (!found || p.Bits() > network.Bits() || p.Bits() == network.Bits() && l.Index < best.Index) {
				best, network, found = l, p.Masked(), true
			}
		}
	}
	return best, network, found
}

// has says that the kernel itself has the address.
func has(links []Link, ip netip.Addr) (on string, yes bool) {
	for _, l := range links {
		for _, p := range l.Prefixes {
			if p.Addr() == ip {
				return l.Name, true
			}
		}
	}
	return "", false
}
