package nft

import (
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is one condition of a rule. The types below are all there are.
type Match interface {
	encode(sets map[string]*nftables.Set) []expr.Any
	meets(p *Packet, t *Table) bool
}

// Register 1 is the verdict's own, 128 bits; registers from 8 on are the 32-bit view of the same store.
const reg = 1

// From and To match packets of the prefix's family by source and destination address.
type (
	From struct {
		Prefix netip.Prefix
		Not    bool
	}
	To struct {
		Prefix netip.Prefix
		Not    bool
	}
)

// In and Out match the link a packet came in by, or goes out by. A name that ends in * stands for all that begin so.
type (
	In struct {
		Link string
		Not  bool
	}
	Out struct {
		Link string
		Not  bool
	}
)

// ToLocal matches a destination that is an address of this machine (or is not), FromLocal a source.
type (
	ToLocal   struct{ Not bool }
	FromLocal struct{ Not bool }
)

// ToICMP matches ICMP messages of that type: of IPv4, or of IPv6.
type ToICMP struct {
	V6   bool
	Type uint8
}

func (m ToICMP) proto() Proto {
	if m.V6 {
		return ICMPv6
	}
	return ICMP
}

// Port matches protocol and destination port.
type Port struct {
	Proto Proto
	Port  uint16
}

// Ports matches protocol and a range of destination ports, both ends included.
type Ports struct {
	Proto       Proto
	First, Last uint16
}

// Of matches a protocol.
type Of struct{ Proto Proto }

// State matches the state of the packet's connection; Translated one whose destination was translated.
type (
	State      struct{ In ConnState }
	Translated struct{}
)

// ConnState is a set of connection states.
type ConnState uint32

// Connection states, as the kernel counts them.
const (
	Invalid     ConnState = 1
	Established ConnState = 2
	Related     ConnState = 4
	Starting    ConnState = 8
)

const (
	sourceOffset      = 12 // in the IPv4 header
	destinationOffset = 16

	source6Offset      = 8 // in the IPv6 header
	destination6Offset = 24
)

func inPrefix(offset uint32, prefix netip.Prefix, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	length := prefix.Addr().BitLen() / 8
	mask := net.CIDRMask(prefix.Bits(), length*8)
	return append(isFamily(prefix.Addr().Is6()),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length)},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(length), Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: reg, Data: prefix.Masked().Addr().AsSlice()},
	)
}

func (m From) encode(map[string]*nftables.Set) []expr.Any {
	if m.Prefix.Addr().Is6() {
		return inPrefix(source6Offset, m.Prefix, m.Not)
	}
	return inPrefix(sourceOffset, m.Prefix, m.Not)
}

func (m To) encode(map[string]*nftables.Set) []expr.Any {
	if m.Prefix.Addr().Is6() {
		return inPrefix(destination6Offset, m.Prefix, m.Not)
	}
	return inPrefix(destinationOffset, m.Prefix, m.Not)
}

func onLink(key expr.MetaKey, name string, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	if prefix, wild := strings.CutSuffix(name, "*"); wild {
		data = []byte(prefix) // the kernel compares as many bytes as it is given
	}
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg},
		&expr.Cmp{Op: op, Register: reg, Data: data},
	}
}

func (m In) encode(map[string]*nftables.Set) []expr.Any {
	return onLink(expr.MetaKeyIIFNAME, m.Link, m.Not)
}

func (m Out) encode(map[string]*nftables.Set) []expr.Any {
	return onLink(expr.MetaKeyOIFNAME, m.Link, m.Not)
}

func isLocal(fib expr.Fib, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	fib.Register, fib.ResultADDRTYPE = reg, true
	return []expr.Any{&fib, &expr.Cmp{Op: op, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

func (m ToLocal) encode(map[string]*nftables.Set) []expr.Any {
	return isLocal(expr.Fib{FlagDADDR: true}, m.Not)
}

func (m FromLocal) encode(map[string]*nftables.Set) []expr.Any {
	return isLocal(expr.Fib{FlagSADDR: true}, m.Not)
}

func (m ToICMP) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(m.proto())}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{m.Type}},
	}
}

func (m Port) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(m.Proto)}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.BigEndian.PutUint16(m.Port)},
	}
}

func (m Ports) encode(map[string]*nftables.Set) []expr.Any {
	return append(Of{m.Proto}.encode(nil),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg, Data: binaryutil.BigEndian.PutUint16(m.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: binaryutil.BigEndian.PutUint16(m.Last)},
	)
}

func (m Of) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(m.Proto)}},
	}
}

func anyBit(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

func (m State) encode(map[string]*nftables.Set) []expr.Any {
	return anyBit(expr.CtKeySTATE, uint32(m.In))
}

const dstNAT = 1 << 5 // IPS_DST_NAT

func (Translated) encode(map[string]*nftables.Set) []expr.Any {
	return anyBit(expr.CtKeySTATUS, dstNAT)
}
