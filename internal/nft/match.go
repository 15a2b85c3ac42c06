package nft

import (
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

// From and To match the source and the destination address. Both are of IPv4.
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

// FromSet and ToSet match an address in a set of type Addrs.
type (
	FromSet struct{ Set string }
	ToSet   struct{ Set string }
)

// ToService matches destination, protocol and port in a set of type AddrPorts.
type ToService struct{ Set string }

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

// ToLocal matches a destination that is an address of this machine.
type ToLocal struct{}

// Port matches protocol and destination port.
type Port struct {
	Proto Proto
	Port  uint16
}

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

func isIPv4() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

const (
	sourceOffset      = 12 // in the IPv4 header
	destinationOffset = 16
)

func inPrefix(offset uint32, prefix netip.Prefix, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - prefix.Bits()))
	if prefix.Bits() == 0 {
		mask = make([]byte, 4)
	}
	return append(isIPv4(),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: prefix.Masked().Addr().AsSlice()},
	)
}

func (m From) encode(map[string]*nftables.Set) []expr.Any {
	return inPrefix(sourceOffset, m.Prefix, m.Not)
}

func (m To) encode(map[string]*nftables.Set) []expr.Any {
	return inPrefix(destinationOffset, m.Prefix, m.Not)
}

func inSet(offset uint32, set *nftables.Set) []expr.Any {
	return append(isIPv4(),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID},
	)
}

func (m FromSet) encode(sets map[string]*nftables.Set) []expr.Any {
	return inSet(sourceOffset, sets[m.Set])
}

func (m ToSet) encode(sets map[string]*nftables.Set) []expr.Any {
	return inSet(destinationOffset, sets[m.Set])
}

func (m ToService) encode(sets map[string]*nftables.Set) []expr.Any {
	set := sets[m.Set]
	return append(isIPv4(), // three 32-bit registers in a row make the key
		&expr.Payload{DestRegister: 8, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 9},
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 8, SetName: set.Name, SetID: set.ID},
	)
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

func (ToLocal) encode(map[string]*nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
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
