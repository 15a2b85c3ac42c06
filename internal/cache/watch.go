package cache

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/resource"
)

const (
	watcherBuffer = 16     // events in the channel itself
	watcherLimit  = 20_000 // events that may wait for a watcher before it is closed
)

// Event is one change as a watcher sees it.
type Event struct {
	Type     watch.EventType // Added, Modified or Deleted
	Object   *Object         // for Deleted the last state, at the revision of the deletion
	Revision int64
}

// Watcher gets the changes of one kind that touch a selection.
type Watcher struct {
	cache  *Cache
	room   *room
	sel    Selection
	after  int64   // nothing up to this revision is sent
	places []place // where it stands in the room's watchers

	events chan Event
	done   chan struct{} // closed by Stop and by the cache

	mu      sync.Mutex
	waiting []Event // what did not fit into the channel
	pumping bool    // a goroutine moves waiting into the channel
	closed  bool
	err     error
}

// place is what a watcher is found by: all events of the kind, or those of one value.
type place struct{ what, value string }

var everywhere = place{}

// watchers finds those that an event may concern without looking at the others.
type watchers map[place]map[*Watcher]struct{}

// placeOf returns where a watcher of a selection stands: as narrow as the selection allows.
func placeOf(kind *resource.Kind, sel Selection) place {
	if name, ok := required(sel.Fields, "metadata.name"); ok && (sel.Namespace != "" || !kind.Namespaced) {
		return place{"name", sel.Namespace + "/" + name}
	}
	for _, field := range indexed {
		if value, ok := required(sel.Fields, field); ok {
			return place{field, value}
		}
	}
	if sel.Namespace != "" {
		return place{"namespace", sel.Namespace}
	}
	return everywhere
}

// Watch sends every change after a revision that touches the selection. An object that comes to match is Added, one that no longer does is Deleted.
func (c *Cache) Watch(kind *resource.Kind, sel Selection, after int64) (*Watcher, error) {
	if !kind.Namespaced {
		sel.Namespace = ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, fmt.Errorf("watch %s: %w", kind.Plural, ErrStopped)
	}
	r := c.room(kind)
	past, err := r.history.after(after)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", kind.Plural, err)
	}
	w := &Watcher{cache: c, room: r, sel: sel, after: after, events: make(chan Event, watcherBuffer), done: make(chan struct{})}
	for _, e := range past {
		if ev, ok := sel.event(e); ok {
			w.waiting = append(w.waiting, ev)
		}
	}
	w.mu.Lock()
	w.pump()
	w.mu.Unlock()
	p := placeOf(kind, sel)
	if r.watchers[p] == nil {
		r.watchers[p] = map[*Watcher]struct{}{}
	}
	r.watchers[p][w] = struct{}{}
	w.places = append(w.places, p)
	return w, nil
}

// event is what a change means for a selection; false if nothing.
func (sel Selection) event(e *entry) (Event, bool) {
	before := e.old != nil && sel.Matches(e.old)
	now := e.new != nil && sel.Matches(e.new)
	switch {
	case now && before:
		return Event{watch.Modified, e.new, e.revision}, true
	case now:
		return Event{watch.Added, e.new, e.revision}, true
	case before:
		return Event{watch.Deleted, e.gone(), e.revision}, true
	}
	return Event{}, false
}

// send gives a change to those whom it may concern. The caller holds the cache's lock.
func (all watchers) send(e *entry) {
	if len(all) == 0 {
		return
	}
	var places [8]place // on the stack
	list := append(places[:0], everywhere)
	add := func(p place) {
		for _, q := range list {
			if p == q {
				return
			}
		}
		list = append(list, p)
	}
	for _, o := range []*Object{e.old, e.new} {
		if o == nil {
			continue
		}
		add(place{"name", o.namespace + "/" + o.name})
		add(place{"namespace", o.namespace})
		for _, field := range indexed {
			if value, ok := o.field(field); ok {
				add(place{field, value})
			}
		}
	}
	for _, p := range list {
		for w := range all[p] {
			if e.revision <= w.after {
				continue
			}
			if ev, ok := w.sel.event(e); ok {
				w.deliver(ev)
			}
		}
	}
}

func (all watchers) stop(reason error) {
	for _, set := range all {
		for w := range set {
			w.end(reason)
		}
	}
	clear(all)
}

// deliver queues an event. It never blocks: a watcher with too many waiting is closed.
func (w *Watcher) deliver(ev Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	if !w.pumping {
		select {
		case w.events <- ev:
			return
		default:
		}
	}
	if len(w.waiting) >= watcherLimit {
		w.closeLocked(ErrSlow)
		return
	}
	w.waiting = append(w.waiting, ev)
	w.pump()
}

// pump starts the goroutine that moves waiting events into the channel, if there is need for one. The caller holds w.mu.
func (w *Watcher) pump() {
	if len(w.waiting) == 0 || w.pumping || w.closed {
		return
	}
	w.pumping = true
	go func() {
		for {
			w.mu.Lock()
			if w.closed {
				close(w.events)
				w.mu.Unlock()
				return
			}
			if len(w.waiting) == 0 {
				w.waiting, w.pumping = nil, false
				w.mu.Unlock()
				return
			}
			batch := w.waiting
			w.waiting = nil
			w.mu.Unlock()
			for _, ev := range batch {
				select {
				case w.events <- ev:
				case <-w.done:
				}
			}
		}
	}()
}

// closeLocked ends the watcher. The channel is closed by whoever writes to it. The caller holds w.mu.
func (w *Watcher) closeLocked(reason error) {
	if w.closed {
		return
	}
	w.closed, w.err, w.waiting = true, reason, nil
	close(w.done)
	if !w.pumping {
		close(w.events)
	}
}

func (w *Watcher) end(reason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeLocked(reason)
}

// Events returns the changes in order. The channel is closed when the watcher ends; Err then says why.
func (w *Watcher) Events() <-chan Event { return w.events }

// Err is the reason of the end: nil after Stop, ErrSlow, or ErrStopped.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Progress returns a revision up to which every event has been taken from Events; false while some wait. It is for the one who takes them.
func (w *Watcher) Progress() (int64, bool) {
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pumping || len(w.events) > 0 || w.closed {
		return 0, false
	}
	return w.cache.Snapshot().revision, true
}

// Stop ends the watcher. It may be called more than once, and while events are being sent.
func (w *Watcher) Stop() {
	w.cache.mu.Lock()
	for _, p := range w.places {
		delete(w.room.watchers[p], w)
		if len(w.room.watchers[p]) == 0 {
			delete(w.room.watchers, p)
		}
	}
	w.cache.mu.Unlock()
	w.end(nil)
}
