package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"sampan.dev/internal/store"
)

// segment is one file of records in ascending order of revision: a log, which has every revision from first on, or a
// base, which has those up to first that were still needed when it was written.
//
// The slices and sizes are guarded by Store.mu. A reader holds a reference while it reads without the lock.
type segment struct {
	path  string
	file  file
	first int64
	base  bool
	revs  []int64  // of a base: its revisions; a log needs none
	offs  []uint32 // where each record begins, in units of align bytes
	size  int64    // bytes up to the end of the last record
	space int64    // bytes of the file; those beyond size are zeros
	refs  atomic.Int32
	gone  atomic.Bool // remove the file with the last reference
}

// last is the highest revision that the segment can answer for; a log that is still empty has first-1.
func (g *segment) last() int64 {
	if g.base {
		return g.first
	}
	return g.first + int64(len(g.offs)) - 1
}

// find returns where the record of a revision lies.
func (g *segment) find(revision int64) (spot, bool) {
	i := int(revision - g.first)
	if g.base {
		var found bool
		if i, found = slices.BinarySearch(g.revs, revision); !found {
			return spot{}, false
		}
	}
	if i < 0 || i >= len(g.offs) {
		return spot{}, false
	}
	end := g.size
	if i+1 < len(g.offs) {
		end = int64(g.offs[i+1]) * align
	}
	off := int64(g.offs[i]) * align
	return spot{g, revision, off, int(end - off)}, true
}

// add notes a record at the end of the segment.
func (g *segment) add(revision int64, size int) {
	g.offs = append(g.offs, uint32(g.size/align))
	if g.base {
		g.revs = append(g.revs, revision)
	}
	g.size += int64(size)
}

// use keeps the file open until done is called. The caller holds Store.mu.
func (g *segment) use() { g.refs.Add(1) }

func (g *segment) done() error {
	if g.refs.Add(-1) > 0 {
		return nil
	}
	err := g.file.Close()
	if g.gone.Load() {
		err = errors.Join(err, os.Remove(g.path))
	}
	return err
}

// spot is where one record lies.
type spot struct {
	seg      *segment
	revision int64
	off      int64
	size     int
}

// read reads and checks the record, through buf, which it returns to be used again.
func (p spot) read(buf []byte) (record, []byte, error) {
	buf = slices.Grow(buf[:0], p.size)[:p.size]
	if _, err := p.seg.file.ReadAt(buf, p.off); err != nil && err != io.EOF {
		return record{}, buf, fmt.Errorf("read revision %d: %w", p.revision, err)
	}
	r, err := p.parse(buf)
	return r, buf, err
}

func (p spot) parse(b []byte) (record, error) {
	r, err := parseRecord(b)
	if err != nil || r.revision != p.revision {
		return record{}, fmt.Errorf("read revision %d: %w: %s at byte %d", p.revision, ErrDamaged, p.seg.path, p.off)
	}
	return r, nil
}

// spaceStep is by how much a log grows at a time. A sync that need not record a new length takes about half as long, so
// zeros are written ahead.
const spaceStep = 512 << 10

var zeros [spaceStep]byte

// append writes a batch behind the last record and syncs. If it fails with ErrNoSpace the log is as before.
func (g *segment) append(batch []byte) error {
	end := g.size + int64(len(batch))
	space, bytes := g.space, batch
	if end > space {
		space = (end + spaceStep - 1) / spaceStep * spaceStep
		bytes = append(batch, zeros[:space-end]...)
	}
	_, err := g.file.WriteAt(bytes, g.size)
	if isFull(err) && space > end { // perhaps there is room for the batch alone
		space = max(end, g.space)
		_, err = g.file.WriteAt(batch, g.size)
	}
	if isFull(err) {
		g.space = g.size
		if undo := errors.Join(g.file.Truncate(g.size), g.file.Sync()); undo != nil {
			return fmt.Errorf("%w: %w, and then: %w", store.ErrBroken, err, undo)
		}
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	if err == nil {
		g.space = space
		err = g.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrBroken, err)
	}
	return nil
}

// ahead reads spots that come in ascending order, many at a time where they lie close together.
type ahead struct {
	seg   *segment
	start int64
	buf   []byte
	limit int // bytes to read at a time, if that is more than the record
}

func (a *ahead) read(p spot) (record, error) {
	if p.seg != a.seg || p.off < a.start || p.off+int64(p.size) > a.start+int64(len(a.buf)) {
		n := max(p.size, a.limit) // the end of the file may come before, and is no error
		a.seg, a.start = p.seg, p.off
		a.buf = slices.Grow(a.buf[:0], n)[:n]
		got, err := p.seg.file.ReadAt(a.buf, p.off)
		a.buf = a.buf[:got]
		if got < p.size {
			a.seg = nil
			return record{}, fmt.Errorf("read revision %d: %w", p.revision, err)
		}
	}
	from := p.off - a.start
	return p.parse(a.buf[from : from+int64(p.size)])
}

// keep copies what is to outlive the buffer that a record was read into.
func keep(value []byte) []byte {
	if len(value) == 0 {
		return []byte{}
	}
	return bytes.Clone(value)
}
