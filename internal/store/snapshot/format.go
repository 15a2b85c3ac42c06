// Package snapshot saves a store to a file while it runs, puts such a file back into an empty store, and copies one store into another, whatever their
// engines.
//
// It watches nothing; it writes the files and stores that it is given. Always:
//   - a file shows all keys at one revision, and has its name only once it is whole and on disk;
//   - of a file that is damaged nothing is restored: it is read to its end before the first write;
//   - only an empty store is restored or copied into, and afterwards holds exactly the keys and values that were saved.
//
// # Format
//
// A file begins with a head of 48 bytes: "SAMPANSN", then as 64-bit numbers, big endian: the version of the format (1), the revision, the number of records,
// the time in nanoseconds since 1970, and 0. What follows is one zstd stream: the records in ascending order of their keys, then the SHA-256 of the head and
// all records as they are before compression. A record is its key, its value (each after its length), the revision of the write that made the value and that
// of the one that made the key; all four numbers as unsigned varints.
package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"

	"github.com/klauspost/compress/zstd"

	"sampan.dev/internal/store"
)

const (
	magic    = "SAMPANSN"
	headSize = 48
	version  = 1

	// maxValue is the most bytes of a value that are read: an etcd may have been told to accept more than the contract does.
	maxValue = 16 << 20
)

// ErrDamaged: a file is not a snapshot, or not as it was written.
var ErrDamaged = errors.New("not a whole snapshot")

// Head is what the beginning of a file tells.
type Head struct {
	Revision int64 // which the store was at
	Count    int64 // of records
	Time     time.Time
}

func (h Head) bytes() []byte {
	b := append(make([]byte, 0, headSize), magic...)
	for _, n := range []int64{version, h.Revision, h.Count, h.Time.UnixNano(), 0} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func readHead(r io.Reader) (Head, error) {
	b := make([]byte, headSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return Head{}, fmt.Errorf("%w: its head cannot be read: %w", ErrDamaged, err)
	}
	if string(b[:len(magic)]) != magic {
		return Head{}, fmt.Errorf("%w: it begins with %q", ErrDamaged, b[:len(magic)])
	}
	n := make([]int64, 5)
	for i := range n {
		n[i] = int64(binary.BigEndian.Uint64(b[len(magic)+8*i:]))
	}
	if n[0] != version {
		return Head{}, fmt.Errorf("%w: it has version %d of the format, only %d is known", ErrDamaged, n[0], version)
	}
	h := Head{Revision: n[1], Count: n[2], Time: time.Unix(0, n[3]).UTC()}
	if h.Revision < store.First || h.Count < 0 || n[4] != 0 {
		return Head{}, fmt.Errorf("%w: revision %d, %d records", ErrDamaged, h.Revision, h.Count)
	}
	return h, nil
}

// Encode writes a snapshot. The records are sorted by key, as a list has them.
func Encode(w io.Writer, head Head, records []store.Record) error {
	head.Count = int64(len(records))
	start := head.bytes()
	if _, err := w.Write(start); err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	sum := sha256.New()
	sum.Write(start)
	out := io.MultiWriter(z, sum)
	var b []byte
	for _, r := range records {
		b = binary.AppendUvarint(b[:0], uint64(len(r.Key)))
		b = append(b, r.Key...)
		b = binary.AppendUvarint(b, uint64(len(r.Value)))
		b = append(b, r.Value...)
		b = binary.AppendUvarint(b, uint64(r.Revision))
		b = binary.AppendUvarint(b, uint64(r.Created))
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	if _, err := z.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return z.Close()
}

// Decode reads a snapshot. The records come one by one; an error ends them, also when the check at the end fails: what came before it is then not to be used.
func Decode(r io.Reader) (Head, iter.Seq2[store.Record, error], error) {
	head, err := readHead(r)
	if err != nil {
		return Head{}, nil, err
	}
	return head, func(yield func(store.Record, error) bool) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderMaxWindow(32<<20))
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		defer z.Close()
		d := decoder{in: bufio.NewReaderSize(z, 64<<10), sum: sha256.New()}
		d.sum.Write(head.bytes())
		before := ""
		for i := range head.Count {
			rec, err := d.record()
			switch {
			case err != nil:
				err = fmt.Errorf("%w: record %d of %d: %w", ErrDamaged, i+1, head.Count, err)
			case rec.Key <= before:
				err = fmt.Errorf("%w: record %d of %d: key %q is not after %q", ErrDamaged, i+1, head.Count, rec.Key, before)
			case rec.Created < 1 || rec.Created > rec.Revision || rec.Revision > head.Revision:
				err = fmt.Errorf("%w: record %d of %d: revision %d, created at %d, in a store at %d", ErrDamaged, i+1, head.Count, rec.Revision, rec.Created, head.Revision)
			}
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			if !yield(rec, nil) {
				return
			}
			before = rec.Key
		}
		if err := d.end(); err != nil {
			yield(store.Record{}, fmt.Errorf("%w: %w", ErrDamaged, err))
		}
	}, nil
}

// decoder reads what has been uncompressed, and sums it up.
type decoder struct {
	in  *bufio.Reader
	sum hash.Hash
	b   []byte // what of a record was read last
}

func (d *decoder) record() (r store.Record, err error) {
	d.b = d.b[:0]
	defer func() { d.sum.Write(d.b) }()
	key, err := d.bytes(store.MaxKey)
	if err != nil {
		return r, err
	}
	value, err := d.bytes(maxValue)
	if err != nil {
		return r, err
	}
	revision, err := d.number()
	if err != nil {
		return r, err
	}
	created, err := d.number()
	return store.Record{Key: string(key), Value: value, Revision: int64(revision), Created: int64(created)}, err
}

func (d *decoder) number() (uint64, error) {
	n, err := binary.ReadUvarint(d.in)
	d.b = binary.AppendUvarint(d.b, n) // a number that was written in more bytes than it takes gives another sum
	return n, err
}

// bytes reads a length and so many bytes, which belong to the caller.
func (d *decoder) bytes(most uint64) ([]byte, error) {
	n, err := d.number()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("%d bytes, the most is %d", n, most)
	}
	var b bytes.Buffer // grows with what is there, not with what is claimed
	if _, err := io.CopyN(&b, d.in, int64(n)); err != nil {
		return nil, err
	}
	d.b = append(d.b, b.Bytes()...)
	if n == 0 {
		return []byte{}, nil
	}
	return b.Bytes(), nil
}

// end checks the sum, and that nothing comes after it.
func (d *decoder) end() error {
	var want [sha256.Size]byte
	if _, err := io.ReadFull(d.in, want[:]); err != nil {
		return fmt.Errorf("read the checksum: %w", err)
	}
	if !bytes.Equal(want[:], d.sum.Sum(nil)) {
		return errors.New("the checksum is of something else")
	}
	if _, err := d.in.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something comes after the checksum (%w)", errOr(err))
	}
	return nil
}

func errOr(err error) error {
	if err == nil {
		return errors.New("a byte")
	}
	return err
}
