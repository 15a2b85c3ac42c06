package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Action is what a rule does with a packet. The types below are all there are.
type Action interface {
	does(sets map[string]*nftables.Set) []expr.Any
}

type (
	// Accept ends this table's base chain; chains of other tables still see the packet.
	Accept struct{}
	// Drop ends the packet's way without an answer.
	Drop struct{}
	// Reject ends the packet's way and tells its sender: ICMP port unreachable, which a TCP client reads as connection refused.
	Reject struct{}
	// Reset ends a TCP connection's way and tells its sender so. The kernel sends as many of these as are asked for; of the messages of Reject it sends
	// few to each host (net.ipv4.icmp_ratelimit).
	Reset struct{}
	// Return goes back to the chain that jumped here.
	Return struct{}
	// Jump goes on in another chain, and comes back at its end.
	Jump struct{ Chain string }
	// Goto goes on in another chain, at the end of which the base chain ends.
	Goto struct{ Chain string }
	// JumpOf jumps to the chain that a map has for the words from Key on; without one, the next rule follows.
	JumpOf struct {
		Map string
		Key int
	}
	// Masquerade gives the packet the address of the link it goes out by.
	Masquerade struct{}
	// DNAT sends the connection to another address and port. Port 0 keeps the port.
	DNAT struct {
		To   netip.Addr
		Port uint16
	}
	// DNATWords sends the connection to the address in the words from Addr on, and to the port in the word after them.
	DNATWords struct {
		V6   bool
		Addr int
	}
)

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func (Accept) does(map[string]*nftables.Set) []expr.Any { return verdict(expr.VerdictAccept, "") }
func (Drop) does(map[string]*nftables.Set) []expr.Any   { return verdict(expr.VerdictDrop, "") }
func (Return) does(map[string]*nftables.Set) []expr.Any { return verdict(expr.VerdictReturn, "") }
func (j Jump) does(map[string]*nftables.Set) []expr.Any { return verdict(expr.VerdictJump, j.Chain) }

func (g Goto) does(map[string]*nftables.Set) []expr.Any { return verdict(expr.VerdictGoto, g.Chain) }

func (j JumpOf) does(sets map[string]*nftables.Set) []expr.Any {
	set := sets[j.Map]
	return []expr.Any{&expr.Lookup{SourceRegister: word(j.Key), SetName: set.Name, SetID: set.ID, IsDestRegSet: true}} // register 0 is the verdict
}

func (Reject) does(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

func (Reset) does(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

func (Masquerade) does(map[string]*nftables.Set) []expr.Any { return []expr.Any{&expr.Masq{}} }

func (d DNAT) does(map[string]*nftables.Set) []expr.Any {
	do := []expr.Any{&expr.Immediate{Register: 1, Data: d.To.AsSlice()}}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}
	if d.Port != 0 {
		do = append(do, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(d.Port)})
		nat.RegProtoMin = 2
	}
	return append(do, nat)
}

func (d DNATWords) does(map[string]*nftables.Set) []expr.Any {
	family, words := uint32(unix.NFPROTO_IPV4), 1
	if d.V6 {
		family, words = unix.NFPROTO_IPV6, 4
	}
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: word(d.Addr), RegProtoMin: word(d.Addr + words)}}
}

// Refuse is the rules that refuse what meets the matches: TCP by a reset, all else by a message.
func Refuse(comment string, matches ...Match) []Rule {
	tcp := append(append([]Match{}, Of{TCP}), matches...)
	return []Rule{{If: tcp, Do: Reset{}, Comment: comment}, {If: matches, Do: Reject{}, Comment: comment}}
}
