package cache

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// How much history is kept of a kind: the youngest keepEvents whatever their age, older ones for keepFor, and in any case no more than keepBytes
// of objects that are no longer current.
const (
	keepEvents = 256
	keepFor    = 5 * time.Minute
	keepBytes  = 8 << 20
)

// entry is one change, as history keeps it and watchers get it.
type entry struct {
	old, new *Object
	revision int64
	at       time.Time
	gone     func() *Object // the deleted object as a watcher sees it, made at most once
}

func newEntry(ch change, now time.Time) *entry {
	e := &entry{old: ch.old, new: ch.new, revision: ch.revision, at: now}
	if ch.old != nil {
		e.gone = sync.OnceValue(func() *Object { return ch.old.at(ch.revision) })
	}
	return e
}

func (e *entry) size() int {
	size := 200
	if e.old != nil {
		size += len(e.old.envelope)
	}
	return size
}

// history is the recent changes of one kind, by ascending revision.
type history struct {
	entries []*entry
	bytes   int
	floor   int64 // every change after this revision is in entries
	exact   int64 // and after this one (never below floor) also with the old object as it was, not just as far as watchers see it
}

func (h *history) add(e *entry) {
	h.entries = append(h.entries, e)
	h.bytes += e.size()
}

// trim forgets what need not be kept any longer.
func (h *history) trim(now time.Time) {
	drop := 0
	for n := len(h.entries); drop < n-1; drop++ {
		old := h.entries[drop]
		if h.bytes <= keepBytes && (n-drop <= keepEvents || now.Sub(old.at) < keepFor) {
			break
		}
		h.bytes -= old.size()
		h.floor = max(h.floor, old.revision)
		h.exact = max(h.exact, old.revision)
		h.entries[drop] = nil
	}
	h.entries = h.entries[drop:]
}

// forget drops everything up to a revision.
func (h *history) forget(revision int64) { *h = history{floor: revision, exact: revision} }

// after returns the changes after a revision, oldest first.
func (h *history) after(revision int64) ([]*entry, error) {
	if revision < h.floor {
		return nil, fmt.Errorf("events after revision %d: %w: the oldest kept is %d", revision, ErrExpired, h.floor)
	}
	i, _ := slices.BinarySearchFunc(h.entries, revision, func(e *entry, r int64) int {
		if e.revision <= r {
			return -1
		}
		return 1
	})
	return h.entries[i:], nil
}

// keepPast is how many past states are kept for those who read them page by page. Each is let go keepFor after its last use.
const keepPast = 16

// earlier is a state that somebody may come back to.
type earlier struct {
	snap *Snapshot
	used time.Time
}

// Keep has At find this state for some minutes after its last use, however much is written meanwhile: for lists that go on page by page.
func (c *Cache) Keep(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(s)
}

func (c *Cache) keep(s *Snapshot) {
	if c.kept(s.revision) != nil {
		return
	}
	if len(c.past) == keepPast {
		oldest := 0
		for i, p := range c.past {
			if p.used.Before(c.past[oldest].used) {
				oldest = i
			}
		}
		c.past = slices.Delete(c.past, oldest, oldest+1)
	}
	c.past = append(c.past, earlier{s, c.now()})
}

// kept returns the state at a revision if it is kept. The caller holds the lock, as for keep.
func (c *Cache) kept(revision int64) *Snapshot {
	for i := range c.past {
		if c.past[i].snap.revision == revision {
			c.past[i].used = c.now()
			return c.past[i].snap
		}
	}
	return nil
}

// At returns the state as it was at a revision, and keeps it for whoever asks for its next page. A state that is not kept is found by undoing what
// happened since, as far as history goes back.
func (c *Cache) At(revision int64) (*Snapshot, error) {
	c.mu.Lock()
	now := c.current.Load()
	switch s := c.kept(revision); {
	case s != nil:
		c.mu.Unlock()
		return s, nil
	case revision == now.revision:
		c.mu.Unlock()
		return now, nil
	case revision > now.revision:
		c.mu.Unlock()
		return nil, fmt.Errorf("state at revision %d: %w: it is %d now", revision, ErrFuture, now.revision)
	}
	s := &Snapshot{revision: revision, index: c.index, kinds: slices.Clone(now.kinds)}
	undo := make([][]*entry, len(c.rooms))
	for i, r := range c.rooms {
		since, err := r.history.after(revision)
		if err == nil && revision < r.history.exact {
			err = fmt.Errorf("%w: the oldest known is %d", ErrExpired, r.history.exact)
		}
		if err != nil {
			c.mu.Unlock()
			return nil, fmt.Errorf("state at revision %d: %w", revision, err)
		}
		if len(since) > 0 {
			s.kinds[i], undo[i] = r.trees.copy(), slices.Clone(since)
		}
	}
	c.mu.Unlock() // the copies are ours alone: undoing much delays nobody
	for i, since := range undo {
		for _, e := range slices.Backward(since) {
			s.kinds[i].apply(e.new, e.old)
		}
	}
	c.Keep(s)
	return s, nil
}
