package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"sampan.dev/internal/store"
)

// One record as it lies in a file, little-endian, padded with zeros to a multiple of 8 bytes:
//
//	 0  CRC-32C of all that follows, padding included
//	 4  bytes of the key (16 bits)
//	 6  flags (16 bits): 1 = the key was deleted
//	 8  bytes of the value
//	12  place: how many records of the same batch stand before this one
//	16  revision
//	24  created
//	32  previous: the revision that the key had before, 0 if it did not exist
//	40  key, value
//
// A batch is what one sync made durable. The place says where it began, and so which records must have been on disk
// before this one was written: that tells a batch torn by a power cut from damage to what was acknowledged.
const (
	recordHeader = 40
	recordMax    = (recordHeader + store.MaxKey + store.MaxValue + align - 1) / align * align
	align        = 8
	flagDeleted  = 1
	placeMax     = 1 << 16
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errEnd   = errors.New("no more records")    // zeros: nothing was written here
	errTorn  = errors.New("not a whole record") // anything else that is not a record
	errShort = errors.New("record goes beyond what was read")
)

// record is a write as it is kept. Key and value alias the bytes that it was parsed from.
type record struct {
	key, value                  []byte
	deleted                     bool
	place                       uint32
	revision, created, previous int64
}

func (r *record) size() int { return recordSize(len(r.key), len(r.value)) }

func recordSize(key, value int) int {
	return (recordHeader + key + value + align - 1) / align * align
}

// appendRecord appends r in its file form.
func appendRecord(buf []byte, r *record) []byte {
	start := len(buf)
	var h [recordHeader]byte
	binary.LittleEndian.PutUint16(h[4:], uint16(len(r.key)))
	if r.deleted {
		binary.LittleEndian.PutUint16(h[6:], flagDeleted)
	}
	binary.LittleEndian.PutUint32(h[8:], uint32(len(r.value)))
	binary.LittleEndian.PutUint32(h[12:], r.place)
	binary.LittleEndian.PutUint64(h[16:], uint64(r.revision))
	binary.LittleEndian.PutUint64(h[24:], uint64(r.created))
	binary.LittleEndian.PutUint64(h[32:], uint64(r.previous))
	buf = append(buf, h[:]...)
	buf = append(buf, r.key...)
	buf = append(buf, r.value...)
	var pad [align]byte
	buf = append(buf, pad[:start+r.size()-len(buf)]...)
	binary.LittleEndian.PutUint32(buf[start:], crc32.Checksum(buf[start+4:], castagnoli))
	return buf
}

// parseHeader reads the first recordHeader bytes of a record: all but its key and value, whose lengths it returns.
func parseHeader(b []byte) (r record, key, value int, err error) {
	if len(b) < recordHeader {
		return record{}, 0, 0, errShort
	}
	b = b[:recordHeader]
	key = int(binary.LittleEndian.Uint16(b[4:]))
	flags := binary.LittleEndian.Uint16(b[6:])
	value = int(binary.LittleEndian.Uint32(b[8:]))
	r = record{
		deleted:  flags&flagDeleted != 0,
		place:    binary.LittleEndian.Uint32(b[12:]),
		revision: int64(binary.LittleEndian.Uint64(b[16:])),
		created:  int64(binary.LittleEndian.Uint64(b[24:])),
		previous: int64(binary.LittleEndian.Uint64(b[32:])),
	}
	switch {
	case key == 0 && isZero(b):
		return record{}, 0, 0, errEnd
	case key == 0, key > store.MaxKey, value > store.MaxValue, flags > flagDeleted, r.deleted && value > 0,
		r.place >= placeMax, r.revision-int64(r.place) <= store.First, r.previous < 0, r.created <= 0, r.created > r.revision,
		r.previous >= r.revision, r.previous != 0 && r.created > r.previous, r.previous == 0 && (r.created != r.revision || r.deleted):
		return record{}, 0, 0, errTorn
	}
	return r, key, value, nil
}

// parseRecord reads the record that b begins with. errShort says that b may be too short.
func parseRecord(b []byte) (record, error) {
	r, key, value, err := parseHeader(b)
	if err != nil {
		return record{}, err
	}
	size := recordSize(key, value)
	if len(b) < size {
		return record{}, errShort
	}
	if crc32.Checksum(b[4:size], castagnoli) != binary.LittleEndian.Uint32(b) || !isZero(b[recordHeader+key+value:size]) {
		return record{}, errTorn
	}
	r.key = b[recordHeader : recordHeader+key : recordHeader+key]
	r.value = b[recordHeader+key : recordHeader+key+value : recordHeader+key+value]
	return r, nil
}

// Every file begins with 32 bytes: magic, revision, zeros, CRC-32C of these. In a log the revision is that of its first record; in a base the one it was
// compacted to. A base ends with 32 bytes of the same form: magic and number of records.
const (
	frameSize = 32
	magicLog  = "sampanL1"
	magicBase = "sampanB1"
	magicEnd  = "sampanE1"
)

func frame(magic string, number int64) []byte {
	b := make([]byte, frameSize)
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], uint64(number))
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	return b
}

func parseFrame(b []byte, magic string) (int64, error) {
	if len(b) < frameSize || string(b[:8]) != magic ||
		crc32.Checksum(b[:28], castagnoli) != binary.LittleEndian.Uint32(b[28:]) {
		return 0, fmt.Errorf("%w: no %s", errTorn, magic)
	}
	return int64(binary.LittleEndian.Uint64(b[8:])), nil
}

// scanner reads records one after another out of [off, end) of a file.
type scanner struct {
	f        io.ReaderAt
	off, end int64  // off is where the next record begins
	buf      []byte // bytes of the file from off on
	space    []byte // what buf is a part of
}

const scanChunk = 256 << 10

func newScanner(f io.ReaderAt, off, end int64) *scanner {
	return &scanner{f: f, off: off, end: end}
}

// next returns the next record, which is valid until the following call, and where it begins. At the end it returns
// errEnd; for bytes that are no record, errTorn.
func (s *scanner) next() (record, int64, error) {
	for want := scanChunk; ; want = recordMax {
		r, err := parseRecord(s.buf)
		switch {
		case err == nil:
			at := s.off
			s.off += int64(r.size())
			s.buf = s.buf[r.size():]
			return r, at, nil
		case err != errShort:
			return record{}, s.off, err
		case int64(len(s.buf)) == s.end-s.off:
			if isZero(s.buf) {
				return record{}, s.off, errEnd
			}
			return record{}, s.off, errTorn
		}
		if err := s.fill(want); err != nil {
			return record{}, s.off, err
		}
	}
}

// fill makes buf hold the next n bytes of the file, or all that are left.
func (s *scanner) fill(n int) error {
	n = int(min(int64(n), s.end-s.off))
	if len(s.space) < n {
		s.space = make([]byte, n)
	}
	have := copy(s.space, s.buf)
	got, err := s.f.ReadAt(s.space[have:n], s.off+int64(have))
	s.buf = s.space[:have+got]
	switch {
	case have+got == n:
		return nil
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

func isZero(b []byte) bool {
	for ; len(b) > len(zeros); b = b[len(zeros):] {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
	}
	return bytes.Equal(b, zeros[:len(b)])
}
