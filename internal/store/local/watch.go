package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"sampan.dev/internal/store"
)

const (
	ringBytes    = 4 << 20 // values of recent events held for watchers; who is further behind reads the log
	catchUpCount = 512     // events read from the log at a time,
	catchUpBytes = 1 << 20 // or fewer if they are large
)

// ring holds the events that watchers have not taken up yet, if there are not too many: batches without gaps, ascending.
type ring struct {
	batches []ringBatch
	bytes   int
}

type ringBatch struct {
	last   int64
	events []store.Event
	bytes  int
}

// add appends the batch that ends with revision last, and lets go of batches that every watcher has behind it.
// Without events, which means that nobody watched when the batch was made, all is let go: there must be no gap.
func (r *ring) add(last int64, events []store.Event, slowest int64) {
	b := ringBatch{last: last, events: events}
	for _, e := range events {
		b.bytes += len(e.Key) + len(e.Value) + len(e.Previous)
	}
	if r.batches, r.bytes = append(r.batches, b), r.bytes+b.bytes; events == nil {
		*r = ring{}
		return
	}
	n := 0
	for n < len(r.batches) && (r.batches[n].last <= slowest || r.bytes > ringBytes) {
		r.bytes -= r.batches[n].bytes
		n++
	}
	clear(r.batches[:n])
	r.batches = r.batches[n:]
	if len(r.batches) == 0 {
		r.batches = nil
	}
}

// after returns the batch with the event behind a revision, from that event on; nil if it is not here.
func (r *ring) after(revision int64) []store.Event {
	for _, b := range r.batches {
		if revision < b.last {
			if skip := revision - (b.last - int64(len(b.events))); skip >= 0 {
				return b.events[skip:]
			}
			return nil
		}
	}
	return nil
}

// watcher is one call of Watch. Its position is all that ties it to the store, so that a slow one costs nothing.
type watcher struct {
	prefix  string
	taken   atomic.Int64  // events up to here have been sent, or are in hand to be
	expired chan struct{} // closed when taken has fallen behind the floor,
	late    bool          // which this says as well; guarded by Store.mu
	out     chan []store.Event
	reason  atomic.Pointer[error]
}

// Watch sends events; see store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, func() error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, nil, fmt.Errorf("watch %s: %w", prefix, store.ErrClosed)
	case after < s.floor:
		return nil, nil, fmt.Errorf("watch %s after revision %d: %w: the first is %d", prefix, after, store.ErrCompacted, s.floor)
	}
	w := &watcher{prefix: prefix, expired: make(chan struct{}), out: make(chan []store.Event, 1)}
	w.taken.Store(after)
	s.watchers[w] = struct{}{}
	s.running.Go(func() { s.runWatcher(ctx, w) })
	return w.out, w.err, nil
}

func (w *watcher) err() error {
	if err := w.reason.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *Store) runWatcher(ctx context.Context, w *watcher) {
	err := s.send(ctx, w)
	err = fmt.Errorf("watch %s after revision %d: %w", w.prefix, w.taken.Load(), err)
	s.mu.Lock()
	delete(s.watchers, w)
	s.mu.Unlock()
	w.reason.Store(&err)
	close(w.out)
}

// send serves a watcher until there is a reason not to.
func (s *Store) send(ctx context.Context, w *watcher) error {
	for {
		events, last, err := s.next(ctx, w)
		if err != nil {
			return err
		}
		w.taken.Store(last) // before they are sent: the receiver may have them before this goroutine runs again
		if events = matching(events, w.prefix); len(events) > 0 {
			select {
			case w.out <- events:
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.closing:
				return store.ErrClosed
			case <-w.expired:
				return store.ErrSlow
			}
		}
	}
}

// matching are the events on keys with a prefix; the same slice if these are all.
func matching(events []store.Event, prefix string) []store.Event {
	for i, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			continue
		}
		some := append([]store.Event(nil), events[:i]...)
		for _, e := range events[i:] {
			if strings.HasPrefix(e.Key, prefix) {
				some = append(some, e)
			}
		}
		return some
	}
	return events
}

// next waits until there are events that the watcher has not taken, and returns some of them and the last revision among them.
func (s *Store) next(ctx context.Context, w *watcher) ([]store.Event, int64, error) {
	for {
		after := w.taken.Load()
		s.mu.RLock()
		revision, floor, changed, closed := s.revision, s.floor, s.changed, s.closed
		events := s.recent.after(after)
		s.mu.RUnlock()
		switch {
		case closed:
			return nil, 0, store.ErrClosed
		case after < floor:
			return nil, 0, store.ErrSlow
		case events != nil:
			return events, after + int64(len(events)), nil
		case after < revision:
			events, err := s.history(after)
			if errors.Is(err, store.ErrCompacted) {
				return nil, 0, store.ErrSlow // forgotten while it was read
			}
			if err != nil {
				return nil, 0, err
			}
			return events, after + int64(len(events)), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		case <-s.closing:
			return nil, 0, store.ErrClosed
		}
	}
}

// history reads some of the events after a revision from the log: at least one, and as many as there are revisions.
func (s *Store) history(after int64) ([]store.Event, error) {
	s.mu.RLock()
	p, ok := s.find(after + 1)
	if !ok || s.floor > after {
		s.mu.RUnlock()
		return nil, store.ErrCompacted
	}
	end := p.seg.size
	p.seg.use()
	s.mu.RUnlock()
	defer p.seg.done()

	var events []store.Event
	bytes := 0
	for in := newScanner(p.seg.file, p.off, end); len(events) < catchUpCount && bytes < catchUpBytes; {
		r, at, err := in.next()
		if err == errEnd {
			break
		}
		if want := after + 1 + int64(len(events)); err == errTorn || err == nil && r.revision != want {
			return nil, fmt.Errorf("read revision %d: %w: %s at byte %d", want, ErrDamaged, p.seg.path, at)
		}
		if err != nil {
			return nil, err
		}
		e := store.Event{
			Record:  store.Record{Key: string(r.key), Revision: r.revision, Created: r.created},
			Deleted: r.deleted,
		}
		if !r.deleted {
			e.Value = keep(r.value)
		}
		if r.previous != 0 {
			if e.Previous, err = s.value(r.previous); err != nil {
				return nil, err
			}
		}
		events = append(events, e)
		bytes += len(e.Value) + len(e.Previous)
	}
	return events, nil
}

// events are those of a batch about to be written, for those who watch; nil if nobody does, or if a previous value cannot
// be read: whoever comes later then reads the log, and fails there.
func (s *Store) events(staged []pending) []store.Event {
	s.mu.RLock()
	watched := len(s.watchers) > 0
	s.mu.RUnlock()
	if !watched {
		return nil
	}
	events := make([]store.Event, 0, len(staged))
	before := map[int64][]byte{} // values of this batch, which are not on disk yet
	for _, p := range staged {
		e := store.Event{Record: p.record(), Deleted: p.deleted}
		if p.previous > s.revision {
			e.Previous = before[p.previous]
		} else if p.previous != 0 {
			var err error
			if e.Previous, err = s.value(p.previous); err != nil {
				return nil
			}
		}
		before[p.entry.revision] = p.value
		events = append(events, e)
	}
	return events
}

// slowest is the lowest revision that a watcher has taken. The caller holds mu.
func (s *Store) slowest() int64 {
	slowest := s.revision
	for w := range s.watchers {
		slowest = min(slowest, w.taken.Load())
	}
	return slowest
}

// setFloor forgets the events up to a revision and ends the watchers that still wanted them. The caller holds mu.
func (s *Store) setFloor(revision int64) {
	if revision <= s.floor {
		return
	}
	for w := range s.watchers {
		if !w.late && w.taken.Load() < revision {
			w.late = true
			close(w.expired)
		}
	}
	s.floor = revision
}
