// Package cache holds the current state of the cluster in memory, for everyone in the process.
//
// It is fed by one watch of the store and writes nothing. Each object is there once, as the encoded bytes that clients get, with what selectors
// and indexes need beside them; decoded values are made when asked for and may be dropped by the garbage collector when nobody holds them.
// Always: a Snapshot never changes and shows every kind at one revision; watchers see every event after the revision they name, once and in order, or
// are told that they cannot; a slow watcher delays nobody.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Errors that callers choose by, with errors.Is.
var (
	// ErrExpired says that the events after a revision, or the state at it, are no longer kept: list again.
	ErrExpired = errors.New("revision is too old")
	// ErrFuture says that a revision has not been reached.
	ErrFuture = errors.New("revision has not been reached yet")
	// ErrSlow is the end of a watcher that did not take its events in time.
	ErrSlow = errors.New("watcher is too slow")
	// ErrStopped is the end of a watcher when the cache ends.
	ErrStopped = errors.New("cache has stopped")
)

// Source is what a cache is fed by, in the words of store.Store, which is one. Keys that belong to no kind of the cache are passed over.
type Source interface {
	List(ctx context.Context, prefix string) ([]store.Record, int64, error)
	Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, func() error, error)
}

// Cache is the current state. Its zero value is not usable; see New.
type Cache struct {
	table *resource.Table
	store Source
	log   *slog.Logger
	now   func() time.Time

	index    map[*resource.Kind]int // of a kind in rooms and in a Snapshot's kinds
	byPrefix map[string]*resource.Kind
	ready    chan struct{}
	current  atomic.Pointer[Snapshot]

	mu      sync.Mutex // guards the fields below, and orders publishing a snapshot before its events
	rooms   []*room    // one a kind
	past    []earlier
	moved   chan struct{}
	stopped bool
}

// room is what is kept of one kind besides its objects.
type room struct {
	kind     *resource.Kind
	trees    trees // being worked on; a Snapshot holds copies
	history  history
	watchers watchers
	handlers []*handler
}

// New makes a cache of the kinds in table. It starts nothing; Run fills it.
func New(table *resource.Table, src Source, log *slog.Logger) *Cache {
	c := &Cache{
		table: table, store: src, log: log, now: time.Now,
		index: map[*resource.Kind]int{}, byPrefix: map[string]*resource.Kind{},
		ready: make(chan struct{}), moved: make(chan struct{}),
	}
	for i, k := range table.All() {
		c.index[k] = i
		c.byPrefix[k.Prefix] = k
		c.rooms = append(c.rooms, &room{kind: k, trees: newTrees(k), watchers: watchers{}})
	}
	c.current.Store(c.publish(0))
	return c
}

// handler is who is told of changes of a kind.
type handler struct{ tell func(old, new *Object) }

// OnChange has f called for every object that is there (old is nil), now or once the state is read, and then for every change: new is nil for a delete, and carries
// the delete's revision in no way. Calls come in the order of revisions, one at a time, after the snapshot that shows the change; f must not
// block, and not call the cache but for Snapshot.
func (c *Cache) OnChange(kind *resource.Kind, f func(old, new *Object)) {
	c.OnChanges([]*resource.Kind{kind}, func(_ *resource.Kind, old, new *Object) { f(old, new) })
}

// OnChanges is OnChange for several kinds, in one order, until stop is called: after that f is not called again.
func (c *Cache) OnChanges(kinds []*resource.Kind, f func(kind *resource.Kind, old, new *Object)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	added := map[*room]*handler{}
	for _, kind := range kinds {
		r := c.room(kind)
		h := &handler{func(old, new *Object) { f(kind, old, new) }}
		for o := range r.trees.all() { // none before the state is read
			f(kind, nil, o)
		}
		r.handlers = append(r.handlers, h)
		added[r] = h
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for r, h := range added {
			r.handlers = slices.DeleteFunc(r.handlers, func(o *handler) bool { return o == h })
		}
	}
}

// Ready is closed once the state has been read.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Snapshot returns the state at the latest revision that has been taken in.
func (c *Cache) Snapshot() *Snapshot { return c.current.Load() }

// Wait returns once the cache has taken in a revision.
func (c *Cache) Wait(ctx context.Context, revision int64) error {
	for {
		if c.Snapshot().revision >= revision {
			return nil
		}
		c.mu.Lock()
		moved := c.moved
		c.mu.Unlock()
		if c.Snapshot().revision >= revision {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d, now at %d: %w", revision, c.Snapshot().revision, ctx.Err())
		}
	}
}

// Run reads the state and follows the store until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	defer c.stop()
	if err := c.list(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("fill cache: %w", err)
	}
	c.recall(ctx)
	close(c.ready)
	for {
		before := c.Snapshot().revision
		err := c.follow(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
			return nil
		}
		c.log.Warn("the watch of the store ended; it is taken up again", "revision", c.Snapshot().revision, "error", err)
		if errors.Is(err, store.ErrCompacted) {
			if err := c.list(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("the state was not read again; it will be", "revision", c.Snapshot().revision, "error", err)
			}
		}
		if c.Snapshot().revision == before { // nothing was achieved: not at once again
			select {
			case <-time.After(retryAfter):
			case <-ctx.Done():
			}
		}
	}
}

// retryAfter is the pause after a watch of the store that gave nothing.
const retryAfter = 100 * time.Millisecond

func (c *Cache) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches, reason, err := c.store.Watch(ctx, "", c.Snapshot().revision)
	if err != nil {
		return err
	}
	for batch := range batches {
		c.take(batch)
	}
	return reason()
}

// list reads all that there is. What differs from the state so far becomes events, of which no history is kept: what lies between is not known one by one.
func (c *Cache) list(ctx context.Context) error {
	records, revision, err := c.store.List(ctx, "")
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var changes []change
	seen := make(map[string]struct{}, len(records))
	for _, rec := range records {
		r := c.roomOf(rec.Key)
		if r == nil {
			continue
		}
		seen[rec.Key] = struct{}{}
		ns, name, _ := split(r.kind, rec.Key)
		old := r.trees.get(ns, name)
		if old != nil && old.revision == rec.Revision {
			continue
		}
		obj, err := c.newObject(r.kind, rec)
		if err != nil {
			c.log.Error("an object in the store cannot be read", "key", rec.Key, "error", err)
			continue
		}
		changes = append(changes, change{room: r, old: old, new: obj, revision: obj.revision})
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	for _, r := range c.rooms {
		for old := range r.trees.all() {
			if _, ok := seen[r.kind.Key(old.namespace, old.name)]; !ok {
				changes = append(changes, change{room: r, old: old, revision: revision})
			}
		}
		r.history.forget(revision)
	}
	for _, ch := range changes {
		ch.room.trees.apply(ch.old, ch.new)
	}
	c.apply(changes, revision)
	return nil
}

// take brings a batch of the store's events in.
func (c *Cache) take(batch []store.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := make([]change, 0, len(batch))
	for _, ev := range batch {
		r := c.roomOf(ev.Key)
		if r == nil {
			continue
		}
		ch := change{room: r, revision: ev.Revision}
		if !ev.Deleted {
			obj, err := c.newObject(r.kind, ev.Record)
			if err != nil {
				c.log.Error("an object in the store cannot be read", "key", ev.Key, "error", err)
				continue
			}
			ch.new = obj
			ch.old = r.trees.get(obj.namespace, obj.name)
		} else if ns, name, ok := split(r.kind, ev.Key); ok {
			ch.old = r.trees.get(ns, name)
		}
		if ch.old == nil && ch.new == nil {
			continue
		}
		// Applied at once, so that a second change of the same object in this batch sees the first.
		r.trees.apply(ch.old, ch.new)
		changes = append(changes, ch)
	}
	c.apply(changes, batch[len(batch)-1].Revision)
}

// change is one object's step from old to new; one of them may be nil.
type change struct {
	room     *room
	old, new *Object
	revision int64
}

// apply publishes the state at revision, which the trees already show, and then tells everyone. The caller holds the lock.
func (c *Cache) apply(changes []change, revision int64) {
	c.current.Store(c.publish(revision))
	now := c.now()
	for _, ch := range changes {
		e := newEntry(ch, now)
		if e.revision > ch.room.history.floor {
			ch.room.history.add(e)
		}
		ch.room.watchers.send(e)
		for _, h := range ch.room.handlers {
			h.tell(ch.old, ch.new)
		}
	}
	for _, r := range c.rooms {
		r.history.trim(now)
	}
	c.past = slices.DeleteFunc(c.past, func(p earlier) bool { return now.Sub(p.used) > keepFor })
	close(c.moved)
	c.moved = make(chan struct{})
}

// publish makes a snapshot of the trees. Only those that changed since the last one are copied.
func (c *Cache) publish(revision int64) *Snapshot {
	s := &Snapshot{revision: revision, index: c.index, kinds: make([]trees, len(c.rooms))}
	last := c.current.Load()
	for i, r := range c.rooms {
		if last != nil && !r.trees.dirty {
			s.kinds[i] = last.kinds[i]
			continue
		}
		s.kinds[i] = r.trees.copy()
		r.trees.dirty = false
	}
	return s
}

// stop ends all watchers.
func (c *Cache) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	for _, r := range c.rooms {
		r.watchers.stop(ErrStopped)
	}
}

// room returns what is kept of a kind. A kind that is not in the table is a mistake of the program.
func (c *Cache) room(kind *resource.Kind) *room {
	i, ok := c.index[kind]
	if !ok {
		panic(fmt.Sprintf("cache: kind %s is not in its table", kind.Kind))
	}
	return c.rooms[i]
}
