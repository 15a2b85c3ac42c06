package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sampan.dev/internal/store"
)

// logSize is when a log is followed by a new one: four of them make the history.
func (s *Store) logSize() int64 { return min(8<<20, s.opts.HistoryBytes/4) }

// rotate follows the last log by a new one. Called by the committer, when all that was written is durable.
func (s *Store) rotate() error {
	old := s.active
	if err := s.addLog(); err != nil {
		return err
	}
	if err := old.file.Truncate(old.size); err != nil { // only to save room
		s.opts.Log.Warn("Cannot shorten a full log of the store", "file", old.path, "error", err)
	}
	s.mu.Lock()
	s.setFloor(s.historyStart())
	s.mu.Unlock()
	select {
	case s.tidy <- struct{}{}:
	default:
	}
	return nil
}

// addLog makes the log for the revisions to come, durably, and the active one.
func (s *Store) addLog() error {
	first := s.revision + 1
	path := filepath.Join(s.dir, fileName(first, logEnd))
	f, _, err := s.opts.open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err == nil {
		if _, err = f.WriteAt(frame(magicLog, first), 0); err == nil {
			if err = errors.Join(f.Sync(), syncDir(s.dir)); err != nil && !isFull(err) {
				err = fmt.Errorf("%w: %w", store.ErrBroken, err)
			}
		}
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(path))
		}
	}
	if isFull(err) {
		err = fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	if err != nil {
		return err
	}
	s.active = &segment{path: path, file: f, first: first, size: frameSize, space: frameSize}
	s.active.refs.Store(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(slices.Clip(s.logs), s.active)
	return nil
}

// historyStart is the revision up to which events are to be forgotten, so that those which are left keep to the
// limits. It keeps the log being written and the one before it at least.
func (s *Store) historyStart() int64 {
	start := s.revision - s.opts.HistoryRevisions
	var bytes int64
	for i, g := range slices.Backward(s.logs) {
		if bytes += g.size; bytes > s.opts.HistoryBytes && i < len(s.logs)-2 {
			start = max(start, g.last())
			break
		}
	}
	return start
}

// forget asks the keeper to compact to a revision.
type forget struct {
	before int64
	done   chan error
}

// Compact forgets events; see store.Store. It also rewrites the files, as far as they are not being written to.
func (s *Store) Compact(ctx context.Context, before int64) error {
	f := forget{before, make(chan error, 1)}
	var err error
	select {
	case s.forget <- f:
		select {
		case err = <-f.done:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-s.closing:
		err = store.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("compact to revision %d: %w", before, err)
	}
	return nil
}

// runKeeper rewrites old files when that is worth it, and when it is asked to.
func (s *Store) runKeeper() {
	for {
		select {
		case <-s.closing:
			return
		case f := <-s.forget:
			f.done <- s.compact(f.before)
		case <-s.tidy:
			if to := s.worthwhile(); to > 0 {
				if err := s.rewrite(to); err != nil && !errors.Is(err, store.ErrClosed) {
					s.opts.Log.Warn("Cannot compact the store; it is tried again when another log is full", "dir", s.dir, "error", err)
				}
			}
		}
	}
}

func (s *Store) compact(before int64) error {
	s.mu.Lock()
	revision, floor := s.revision, s.floor
	if before > floor && before <= revision {
		s.setFloor(before)
	}
	s.mu.Unlock()
	switch {
	case before > revision:
		return fmt.Errorf("%w: the last is %d", store.ErrFuture, revision)
	case before <= floor:
		return nil
	}
	return s.rewrite(before)
}

// worthwhile returns the revision to compact to, or 0 if that would not free at least half of what is rewritten.
func (s *Store) worthwhile() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var to, bytes int64
	for _, g := range s.logs[:len(s.logs)-1] {
		if g.last() > s.floor {
			break
		}
		to, bytes = g.last(), bytes+g.size
	}
	if s.base != nil {
		bytes += s.base.size
	}
	if bytes <= 2*s.live+s.opts.HistoryBytes/2 {
		return 0
	}
	return to
}

// rewrite makes a new base out of the old one and the logs up to a revision, which must not be above the floor, then lets go of these.
func (s *Store) rewrite(to int64) error {
	if s.base != nil && to <= s.base.first {
		return nil
	}
	revisions, held, err := s.needed(to)
	var g *segment
	if err == nil {
		g, err = s.writeBase(to, revisions, held)
	}
	for _, h := range held {
		err = errors.Join(err, h.done())
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	var old []*segment
	if s.base != nil {
		old = append(old, s.base)
	}
	s.base = g
	logs := s.logs
	for len(logs) > 1 && logs[0].last() <= to {
		old, logs = append(old, logs[0]), logs[1:]
	}
	s.logs = slices.Clone(logs)
	s.mu.Unlock()
	for _, o := range old {
		o.gone.Store(true)
		err = errors.Join(err, o.done())
	}
	return err
}

// needed returns the revisions up to `to` that must be kept: those which are current, and those which an event after `to` has replaced.
// That is exactly what was current at `to`. It also returns all segments, held open.
func (s *Store) needed(to int64) (revisions []int64, held []*segment, err error) {
	type part struct {
		from spot
		end  int64
	}
	var later []part
	s.mu.RLock()
	s.index.Scan(func(_ string, e entry) bool {
		if e.revision <= to {
			revisions = append(revisions, e.revision)
		}
		return true
	})
	held = slices.Clone(s.segments())
	for _, g := range held {
		g.use()
	}
	for _, g := range s.logs {
		if p, ok := g.find(max(g.first, to+1)); ok {
			later = append(later, part{p, g.size})
		}
	}
	s.mu.RUnlock()

	for _, p := range later {
		in := newScanner(p.from.seg.file, p.from.off, p.end)
		for {
			r, at, err := in.next()
			if err == errEnd {
				break
			}
			if err != nil {
				return nil, held, damaged(p.from.seg.path, at, err)
			}
			if r.previous != 0 && r.previous <= to {
				revisions = append(revisions, r.previous)
			}
		}
	}
	slices.Sort(revisions)
	return revisions, held, nil
}

// writeBase copies revisions into a new base, which is durable under its name when it is returned.
func (s *Store) writeBase(to int64, revisions []int64, held []*segment) (g *segment, err error) {
	path := filepath.Join(s.dir, fileName(to, baseEnd))
	f, _, err := s.opts.open(path+unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close(), os.Remove(path+unfinished))
		}
	}()
	g = &segment{path: path, file: f, first: to, base: true, size: frameSize}
	g.refs.Store(1)
	g.revs, g.offs = make([]int64, 0, len(revisions)), make([]uint32, 0, len(revisions))
	out := writer{f: f, buf: frame(magicBase, to)}
	in := ahead{limit: scanChunk}
	for _, revision := range revisions {
		select {
		case <-s.closing:
			return nil, store.ErrClosed
		default:
		}
		p, ok := s.spot(revision, held)
		if !ok {
			return nil, fmt.Errorf("%w: no revision %d", ErrDamaged, revision)
		}
		r, err := in.read(p)
		if err != nil {
			return nil, err
		}
		g.add(revision, p.size)
		out.buf = appendRecord(out.buf, &r)
		if err := out.flush(scanChunk); err != nil {
			return nil, err
		}
	}
	out.buf = append(out.buf, frame(magicEnd, int64(len(revisions)))...)
	if err := errors.Join(out.flush(0), f.Sync()); err != nil {
		return nil, err
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return nil, err
	}
	if err := syncDir(s.dir); err != nil {
		return nil, errors.Join(err, os.Remove(path)) // so that it cannot come to be without what follows it
	}
	g.space = out.off
	return g, nil
}

// writer writes a file from its beginning, and has it synced bit by bit, so that the committer never waits behind one large sync.
type writer struct {
	f           file
	buf         []byte
	off, synced int64
}

const syncEvery = 4 << 20

// flush writes the buffer if it holds more than n bytes.
func (w *writer) flush(n int) error {
	if len(w.buf) <= n {
		return nil
	}
	if _, err := w.f.WriteAt(w.buf, w.off); err != nil {
		return err
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	if w.off-w.synced < syncEvery {
		return nil
	}
	w.synced = w.off
	return w.f.Sync()
}
