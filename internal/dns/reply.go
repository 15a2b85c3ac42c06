package dns

import (
	"encoding/binary"
	"strconv"
)

// reply writes one answer into a buffer, front to back. A record that does not fit is left out whole, and the answer says that it was cut.
type reply struct {
	b      []byte
	q      *query
	ttl    uint32
	room   int    // how far the records may go: room for what extends the protocol is kept behind
	owner  uint16 // pointer to the name that the next answer is about
	first  int    // where the first answer begins
	an     uint16
	ns, ar uint16
	rcode  int
	full   bool
}

// begin writes the header's place and the question, letter for letter as it was asked.
func (r *reply) begin(q *query) {
	r.q, r.rcode, r.full = q, rcodeSuccess, false
	r.an, r.ns, r.ar = 0, 0, 0
	r.room = q.limit()
	if q.edns {
		r.room -= optSize
	}
	r.b = append(r.b[:0], q.raw...)
	r.owner, r.first = 0xc000|headerSize, len(r.b)
}

const optSize = 11

// end fills in the header.
func (r *reply) end() []byte {
	if r.q.edns {
		r.b = appendOPT(r.b, r.rcode, r.q.do)
		r.ar++
	}
	flags := flagResponse | flagAuthoritative | flagAvailable | r.q.flags&(flagRecursion|flagChecking) | uint16(r.rcode&15)
	if r.full {
		flags |= flagTruncated
	}
	putHeader(r.b, r.q.id, flags, 1, r.an, r.ns, r.ar)
	return r.b
}

// fail answers with a code alone; with the question where there is one.
func (r *reply) fail(q *query, rcode int) []byte {
	var ar, qd uint16
	r.b = append(r.b[:0], make([]byte, headerSize)...)
	if len(q.raw) > headerSize {
		r.b, qd = append(r.b[:0], q.raw...), 1
	}
	if q.edns {
		r.b, ar = appendOPT(r.b, rcode, q.do), 1
	}
	putHeader(r.b, q.id, flagResponse|flagAvailable|q.flags&(15<<11|flagRecursion|flagChecking)|uint16(rcode&15), qd, 0, 0, ar)
	return r.b
}

func putHeader(b []byte, id, flags, qd, an, ns, ar uint16) {
	for i, v := range [...]uint16{id, flags, qd, an, ns, ar} {
		binary.BigEndian.PutUint16(b[2*i:], v)
	}
}

func appendOPT(b []byte, rcode int, do bool) []byte {
	var flags byte
	if do {
		flags = 0x80
	}
	return append(b, 0, 0, typeOPT, maxUDP>>8, maxUDP&0xff, byte(rcode>>4), 0, flags, 0, 0, 0)
}

// record begins a record whose data will have some size; false if that does not fit any more.
func (r *reply) record(owner uint16, kind uint16, size int) bool {
	if len(r.b)+12+size > r.room {
		r.full = true
		return false
	}
	r.b = append(r.b, byte(owner>>8), byte(owner), byte(kind>>8), byte(kind), 0, classIN,
		byte(r.ttl>>24), byte(r.ttl>>16), byte(r.ttl>>8), byte(r.ttl), byte(size>>8), byte(size))
	return true
}

// address answers with one address.
func (r *reply) address(kind uint16, ip []byte) {
	if r.record(r.owner, kind, len(ip)) {
		r.b = append(r.b, ip...)
		r.an++
	}
}

// cname answers that the name is another's, and goes on with that.
func (r *reply) cname(to []byte) {
	if r.record(r.owner, typeCNAME, len(to)) {
		r.owner = 0xc000 | uint16(len(r.b))
		r.b = append(r.b, to...)
		r.an++
	}
}

// name answers with a name made of parts, the last of which ends it.
func (r *reply) name(kind uint16, parts ...[]byte) {
	if r.record(r.owner, kind, total(parts)) {
		for _, p := range parts {
			r.b = append(r.b, p...)
		}
		r.an++
	}
}

// srv answers with a port of a name, and gives where in the packet that name begins: zero if there was no room.
func (r *reply) srv(weight int, port uint16, host []byte, parts ...[]byte) (at int) {
	size := total(parts) + 6
	if len(host) > 0 {
		size += len(host) + 1
	}
	if !r.record(r.owner, typeSRV, size) {
		return 0
	}
	r.b = append(r.b, 0, 0, byte(weight>>8), byte(weight), byte(port>>8), byte(port))
	at = len(r.b)
	if len(host) > 0 {
		r.b = append(append(r.b, byte(len(host))), host...)
	}
	for _, p := range parts {
		r.b = append(r.b, p...)
	}
	r.an++
	return at
}

func total(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// also adds an address of a name that stands in an answer, where there is room: an asker can do without.
func (r *reply) also(at int, kind uint16, ip []byte) {
	if at == 0 || at >= 1<<14 || r.full || len(r.b)+12+len(ip) > r.room {
		return
	}
	r.record(0xc000|uint16(at), kind, len(ip))
	r.b = append(r.b, ip...)
	r.ar++
}

func (r *reply) text(s string) {
	if r.record(r.owner, typeTXT, len(s)+1) {
		r.b = append(append(r.b, byte(len(s))), s...)
		r.an++
	}
}

// hinfo is the small answer to the question for everything (RFC 8482).
func (r *reply) hinfo() {
	const cpu = "RFC8482"
	if r.record(r.owner, typeHINFO, len(cpu)+2) {
		r.b = append(append(append(r.b, byte(len(cpu))), cpu...), 0)
		r.an++
	}
}

// soa writes the zone's first record, whose name begins at an offset of the packet, as an answer or beside the lack of one.
func (r *reply) soa(at int, answer bool) {
	const ns, admin = "\x02ns\x03dns", "\x0ahostmaster"
	pointer := 0xc000 | uint16(at)
	if !r.record(pointer, typeSOA, len(ns)+2+len(admin)+2+20) {
		return
	}
	r.b = append(append(r.b, ns...), byte(pointer>>8), byte(pointer))
	r.b = append(append(r.b, admin...), byte(pointer>>8), byte(pointer))
	for _, v := range [...]uint32{1, 7200, 1800, 86400, r.ttl} { // serial (nobody copies the zone), refresh, retry, expire; how long a no may be kept
		r.b = binary.BigEndian.AppendUint32(r.b, v)
	}
	if answer {
		r.an++
	} else {
		r.ns++
	}
}

// no answers that the name is not there, or has nothing of the kind asked for. at is where the zone's name begins in the packet.
func (r *reply) no(rcode, at int) {
	r.rcode = rcode
	r.soa(at, false)
}

// cnames gives the answers so far, which are all aliases: the records' data, as names on the wire, uncompressed.
func (r *reply) cnames() (names [][]byte) {
	for i := r.first; i < len(r.b); {
		size := int(binary.BigEndian.Uint16(r.b[i+10:]))
		names = append(names, append([]byte(nil), r.b[i+12:i+12+size]...))
		i += 12 + size
	}
	return names
}

// appendDashed writes an address as the label that stands for an endpoint without hostname: 10-1-2-3, fd00--1.
func appendDashed(b []byte, e *endpoint) []byte {
	at := len(b)
	if !e.v6 {
		for i, octet := range e.addr[12:] {
			if i > 0 {
				b = append(b, '-')
			}
			b = strconv.AppendUint(b, uint64(octet), 10)
		}
		return b
	}
	b = e.ip().AppendTo(b)
	for i := at; i < len(b); i++ {
		if b[i] == ':' {
			b[i] = '-'
		}
	}
	return b
}
