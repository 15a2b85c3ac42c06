package cache

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// How much history is kept of a kind: the youngest keepEvents whatever their age, older ones for keepFor, and no more than keepBytes in any case.
const (
	keepEvents = 256
	keepFor    = 5 * time.Minute
	keepBytes  = 16 << 20
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

// history is the recent changes of one kind, oldest first.
type history struct {
	entries []*entry
	bytes   int
	floor   int64 // every change after this revision is in entries
}

func (h *history) add(e *entry, now time.Time) {
	h.entries = append(h.entries, e)
	h.bytes += e.size()
	drop := 0
	for n := len(h.entries); drop < n-1; drop++ {
		old := h.entries[drop]
		if h.bytes <= keepBytes && (n-drop <= keepEvents || now.Sub(old.at) < keepFor) {
			break
		}
		h.bytes -= old.size()
		h.floor = old.revision
		h.entries[drop] = nil
	}
	h.entries = h.entries[drop:]
}

// forget drops everything up to a revision.
func (h *history) forget(revision int64) { *h = history{floor: revision} }

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

// At returns the state as it was at a revision, by undoing what happened since.
func (c *Cache) At(revision int64) (*Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.current.Load()
	if revision == now.revision {
		return now, nil
	}
	if revision > now.revision {
		return nil, fmt.Errorf("state at revision %d: %w: it is %d now", revision, ErrFuture, now.revision)
	}
	s := &Snapshot{revision: revision, index: c.index, kinds: slices.Clone(now.kinds)}
	for i, r := range c.rooms {
		since, err := r.history.after(revision)
		if err != nil {
			return nil, fmt.Errorf("state at revision %d: %w", revision, err)
		}
		if len(since) == 0 {
			continue
		}
		then := r.trees.copy()
		for _, e := range slices.Backward(since) {
			then.apply(e.new, e.old)
		}
		s.kinds[i] = then
	}
	return s, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
