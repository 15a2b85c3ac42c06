package announce

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// MAC is the address of a network card.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Heard is what a packet of ARP or of neighbour discovery says.
type Heard struct {
	Asked   netip.Addr // whose card is asked for; not valid: nobody's
	Claimed netip.Addr // whose card MAC says it is; not valid: nobody's
	From    netip.Addr // who asks; unspecified: who wants to know whether the address is in use
	MAC     MAC        // of the sender
}

// Numbers of ARP (RFC 826), for Ethernet and IPv4.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

var (
	arpHead   = []byte{0, 1, 8, 0, 6, 4} // Ethernet, IPv4, lengths of their addresses
	everybody = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// decodeARP reads a packet as it comes after the Ethernet header. What is padded is longer.
func decodeARP(b []byte) (h Heard, ok bool) {
	if len(b) < arpLen || !bytes.Equal(b[:6], arpHead) {
		return h, false
	}
	op := binary.BigEndian.Uint16(b[6:])
	if op != arpRequest && op != arpReply {
		return h, false
	}
	copy(h.MAC[:], b[8:14])
	h.From = netip.AddrFrom4([4]byte(b[14:18]))
	if !h.From.IsUnspecified() {
		h.Claimed = h.From
	}
	target := netip.AddrFrom4([4]byte(b[24:28]))
	if op == arpRequest && target != h.From { // to ask for oneself is to claim
		h.Asked = target
	}
	return h, true
}

func encodeARP(op uint16, sender MAC, senderIP netip.Addr, target MAC, targetIP netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16(bytes.Clone(arpHead), op)
	b = append(append(b, sender[:]...), senderIP.AsSlice()...)
	return append(append(b, target[:]...), targetIP.AsSlice()...)
}

// Numbers of neighbour discovery (RFC 4861).
const (
	ip6Len     = 40
	icmp6      = 58
	hopLimit   = 255 // less, and the packet comes from elsewhere
	ndSolicit  = 135
	ndAdvert   = 136
	ndLen      = 24
	optSource  = 1
	optTarget  = 2
	flagAsked  = 0x40
	flagInsist = 0x20 // override what is remembered
)

var allNodes = netip.MustParseAddr("ff02::1")

// solicitedNode is the group in which the holder of an address is asked.
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is where packets to a group are sent.
func groupMAC(group netip.Addr) MAC {
	b := group.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// decodeND reads an IPv6 packet, as it comes after the Ethernet header, from that card.
func decodeND(b []byte, from MAC) (h Heard, ok bool) {
	if len(b) < ip6Len+ndLen || b[0]>>4 != 6 || b[6] != icmp6 || b[7] != hopLimit {
		return h, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < ndLen || len(b) < ip6Len+n {
		return h, false
	}
	source, dest, m := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[ip6Len:ip6Len+n]
	if m[1] != 0 || checksum(source, dest, m) != 0 {
		return h, false
	}
	target := netip.AddrFrom16([16]byte(m[8:24]))
	if target.IsMulticast() || target.IsUnspecified() {
		return h, false
	}
	h.From, h.MAC = source, from
	for o := m[ndLen:]; len(o) > 0; { // each option must have a length
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return h, false
		}
		if o[1] == 1 && (m[0] == ndAdvert && o[0] == optTarget || m[0] == ndSolicit && o[0] == optSource && !source.IsUnspecified()) {
			h.MAC = MAC(o[2:8])
		}
		o = o[int(o[1])*8:]
	}
	switch m[0] {
	case ndSolicit:
		h.Asked = target
		return h, true
	case ndAdvert:
		h.Claimed = target
		return h, !source.IsUnspecified()
	}
	return h, false
}

func encodeND(kind, flags byte, source, dest, target netip.Addr, option byte, mac MAC) []byte {
	m := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	if option != 0 {
		m = append(append(m, option, 1), mac[:]...)
	}
	binary.BigEndian.PutUint16(m[2:], checksum(source, dest, m))
	b := []byte{0x60, 0, 0, 0, 0, byte(len(m)), icmp6, hopLimit}
	b = append(append(b, source.AsSlice()...), dest.AsSlice()...)
	return append(b, m...)
}

// checksum is that of ICMPv6; of a message that has the right one it is 0.
func checksum(source, dest netip.Addr, m []byte) uint16 {
	sum := uint32(len(m)) + icmp6
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(source.AsSlice())
	add(dest.AsSlice())
	add(m)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
