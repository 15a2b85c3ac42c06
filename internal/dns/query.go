package dns

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Numbers of the protocol, as used by the part that knows packets only.
const (
	typeA, typeNS, typeCNAME, typeSOA, typePTR, typeHINFO, typeTXT, typeAAAA, typeSRV, typeOPT = 1, 2, 5, 6, 12, 13, 16, 28, 33, 41
	typeIXFR, typeAXFR, typeANY                                                                = 251, 252, 255

	classIN = 1

	rcodeSuccess, rcodeFormat, rcodeServer, rcodeName, rcodeNotImplemented, rcodeRefused, rcodeBadVersion = 0, 1, 2, 3, 4, 5, 16

	flagResponse, flagAuthoritative, flagTruncated, flagRecursion, flagAvailable, flagAuthentic, flagChecking = 1 << 15, 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 5, 1 << 4

	headerSize = 12
	maxName    = 255
	// maxUDP is the most that is sent in one datagram: what passes every link without being cut, as the DNS flag day of 2020 has it.
	maxUDP = 1232
)

// query is one question, as read from a packet. It is used again for the next packet.
type query struct {
	raw       []byte // the packet up to the end of the question
	id, flags uint16
	qtype     uint16
	qclass    uint16
	// name is the question's in small letters as on the wire, with room for the rest of a cache key behind it.
	name     [maxName + 3]byte
	nameSize int
	off      [128]uint8 // where each label begins
	labels   int

	edns, do, tcp bool
	version       uint8
	size          uint16 // what the asker takes by UDP
}

// parse reads a packet. It says how a packet that cannot be answered is refused, and whether there is to be an answer at all.
func (q *query) parse(p []byte) (verdict int, ok bool) {
	q.raw, q.edns, q.do, q.version, q.size, q.nameSize, q.labels, q.qtype, q.qclass = nil, false, false, 0, 512, 0, 0, 0, 0
	if len(p) < 4 {
		return 0, false // neither who asks, nor that it is a question, can be known
	}
	q.id, q.flags = binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	if q.flags&flagResponse != 0 {
		return 0, false
	}
	if len(p) < headerSize {
		return rcodeFormat, true
	}
	if q.flags>>11&15 != 0 {
		return rcodeNotImplemented, true
	}
	if binary.BigEndian.Uint16(p[4:]) != 1 {
		return rcodeFormat, true
	}
	i, valid := q.parseName(p)
	if !valid || len(p)-i < 4 {
		return rcodeFormat, true
	}
	q.qtype, q.qclass = binary.BigEndian.Uint16(p[i:]), binary.BigEndian.Uint16(p[i+2:])
	q.raw = p[:i+4]
	if q.qtype == typeIXFR || q.qtype == typeAXFR {
		return rcodeRefused, true // before its authority section is looked at
	}
	if p[6]|p[7]|p[8]|p[9] != 0 || !q.parseAdditional(p, i+4) {
		return rcodeFormat, true
	}
	if q.version != 0 {
		return rcodeBadVersion, true
	}
	return rcodeSuccess, true
}

// parseName reads the question's name and gives the offset behind it.
func (q *query) parseName(p []byte) (end int, ok bool) {
	i, n := headerSize, 0
	for {
		if i >= len(p) {
			return 0, false
		}
		size := int(p[i])
		if size > 63 || n+size+1 > maxName || i+1+size > len(p) { // there is nothing yet that a pointer could point to
			return 0, false
		}
		if size == 0 {
			q.name[n] = 0
			q.nameSize = n + 1
			return i + 1, true
		}
		q.off[q.labels] = uint8(n)
		q.labels++
		q.name[n] = byte(size)
		for j := 1; j <= size; j++ {
			q.name[n+j] = small(p[i+j])
		}
		i, n = i+size+1, n+size+1
	}
}

// parseAdditional reads the records behind the question, of which only the one that extends the protocol means something.
func (q *query) parseAdditional(p []byte, i int) bool {
	for range binary.BigEndian.Uint16(p[10:]) {
		root := i < len(p) && p[i] == 0
		i = skipName(p, i)
		if i < 0 || len(p)-i < 10 {
			return false
		}
		size := int(binary.BigEndian.Uint16(p[i+8:]))
		if len(p)-i-10 < size {
			return false
		}
		if binary.BigEndian.Uint16(p[i:]) == typeOPT {
			if q.edns || !root {
				return false
			}
			q.edns, q.version, q.do = true, p[i+5], p[i+6]&0x80 != 0
			q.size = max(binary.BigEndian.Uint16(p[i+2:]), 512)
		}
		i += 10 + size
	}
	return true
}

// refused says how questions are refused that are well formed and not for here.
func (q *query) refused() (rcode int, refused bool) {
	switch {
	case q.qclass != classIN:
		return rcodeRefused, true
	case q.qtype == 0, q.qtype == typeOPT:
		return rcodeFormat, true
	case q.qtype >= 249 && q.qtype <= 254: // keys, signatures, transfers, mail: questions about the conversation
		return rcodeNotImplemented, true
	}
	return 0, false
}

// limit is the size that an answer may have.
func (q *query) limit() int {
	if q.tcp {
		return 1<<16 - 1
	}
	if !q.edns {
		return 512
	}
	return min(int(q.size), maxUDP)
}

// under says whether the name is a domain's, which has some labels, or below it.
func (q *query) under(domain []byte, labels int) bool {
	if q.labels < labels || !bytes.HasSuffix(q.name[:q.nameSize], domain) {
		return false
	}
	at := q.nameSize - 1
	if labels > 0 {
		at = int(q.off[q.labels-labels])
	}
	return at == q.nameSize-len(domain) // and not within a label that holds any bytes
}

// label gives a label without its length.
func (q *query) label(i int) []byte {
	at := int(q.off[i])
	return q.name[at+1 : at+1+int(q.name[at])]
}

// from gives the name's labels from one on, as on the wire, up to but not with another.
func (q *query) from(i, to int) []byte {
	end := q.nameSize - 1
	if to < q.labels {
		end = int(q.off[to])
	}
	return q.name[q.off[i]:end]
}

// key is under which an answer to the question is kept.
func (q *query) key() []byte {
	k := append(q.name[:q.nameSize], byte(q.qtype>>8), byte(q.qtype), 0)
	if q.do {
		k[len(k)-1] |= 1
	}
	if q.flags&flagChecking != 0 {
		k[len(k)-1] |= 2
	}
	return k
}

// clone gives a copy that outlives the packet.
func (q *query) clone() *query {
	c := *q
	c.raw = append([]byte(nil), q.raw...)
	return &c
}

// asks gives the same question about another name.
func (t target) asks(q *query) *query {
	c := *q
	c.setName(t)
	c.raw = nil
	return &c
}

// setName puts a name, as on the wire, in the place of the question's.
func (q *query) setName(name []byte) {
	q.nameSize, q.labels = copy(q.name[:maxName], name), 0
	for i := 0; i < q.nameSize && q.name[i] != 0; i += int(q.name[i]) + 1 {
		q.off[q.labels] = uint8(i)
		q.labels++
		for j := i + 1; j <= i+int(q.name[i]); j++ {
			q.name[j] = small(q.name[j])
		}
	}
}

func small(c byte) byte {
	if c-'A' < 26 {
		return c + 'a' - 'A'
	}
	return c
}

// skipName gives the offset behind a name, or -1.
func skipName(p []byte, i int) int {
	for i < len(p) {
		switch size := int(p[i]); {
		case size == 0:
			return i + 1
		case size >= 0xc0:
			if i+2 > len(p) {
				return -1
			}
			return i + 2
		case size > 63:
			return -1
		default:
			i += size + 1
		}
	}
	return -1
}

// wireName writes a name as on the wire, in small letters; nil if it is no name.
func wireName(name string) []byte {
	name = strings.TrimSuffix(name, ".")
	var b []byte
	for label := range strings.SplitSeq(name, ".") {
		if name == "" {
			break
		}
		if len(label) == 0 || len(label) > 63 {
			return nil
		}
		b = append(b, byte(len(label)))
		for i := range len(label) {
			b = append(b, small(label[i]))
		}
	}
	if len(b) >= maxName {
		return nil
	}
	return append(b, 0)
}

func countLabels(name []byte) (n int) {
	for i := 0; i < len(name) && name[i] != 0; i += int(name[i]) + 1 {
		n++
	}
	return n
}
