package cache

import (
	"context"
	"errors"
	"time"

	"sampan.dev/internal/store"
)

// recallEvents are how many events from before the start are asked for, the most first: what the store no longer keeps it does not give.
var recallEvents = []int64{512, 64}

// recallTime bounds how long the start waits for them.
const recallTime = time.Second

// recall fills history with what the store still knows from before the start, so that a watch that the end of the last process cut off goes on
// where it was, and its client need not list again. It is a service, not a need: without it those watches expire.
func (c *Cache) recall(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recallTime)
	defer cancel()
	upTo := c.Snapshot().revision
	for _, n := range recallEvents {
		from := max(upTo-n, store.First)
		if from >= upTo {
			return
		}
		batches, _, err := c.store.Watch(ctx, "", from)
		if errors.Is(err, store.ErrCompacted) {
			continue
		}
		if err != nil {
			c.log.Warn("events from before the start are not known", "error", err)
			return
		}
		var events []store.Event
		for batch := range batches {
			events = append(events, batch...)
			if batch[len(batch)-1].Revision >= upTo {
				c.remember(events, from, upTo)
				return
			}
		}
		return
	}
}

// remember makes history of the events after from and up to upTo, the revision at which the state was read.
func (c *Cache) remember(events []store.Event, from, upTo int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := map[string]*Object{} // each key's object as these events have it
	now := c.now()
	for _, r := range c.rooms {
		r.history = history{floor: from, exact: upTo}
	}
	for _, ev := range events {
		r := c.roomOf(ev.Key)
		if r == nil || ev.Revision > upTo {
			continue
		}
		ch := change{room: r, revision: ev.Revision, old: last[ev.Key]}
		var err error
		if ch.old == nil && ev.Previous != nil {
			// Its revision is not known, and not needed: watchers see of an old object only whether it is selected, and its last state at the revision of its end.
			ch.old, err = c.newObject(r.kind, store.Record{Key: ev.Key, Value: ev.Previous})
		}
		if err == nil && !ev.Deleted {
			ns, name, _ := split(r.kind, ev.Key)
			if ch.new = r.trees.get(ns, name); ch.new == nil || ch.new.revision != ev.Revision {
				ch.new, err = c.newObject(r.kind, ev.Record)
			}
		}
		if err != nil { // then this kind's past cannot be told
			c.log.Error("an object in the store's history cannot be read", "key", ev.Key, "error", err)
			r.history = history{floor: ev.Revision, exact: upTo}
			last[ev.Key] = nil
			continue
		}
		last[ev.Key] = ch.new
		if ev.Revision > r.history.floor {
			r.history.add(newEntry(ch, now))
		}
	}
}
