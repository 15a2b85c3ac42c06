package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

// waitingBytes is how much may wait for a receiver. Who is further behind is told so.
const waitingBytes = 32 << 20

// Watch sends what happens; see store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, func() error, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", prefix, err)
	}
	if err := s.kept(ctx, after); err != nil {
		done()
		return nil, nil, fmt.Errorf("watch %s after %d: %w", prefix, after, err)
	}
	w := &watcher{s: s, prefix: prefix, next: after + 1, out: make(chan []store.Event)}
	s.pulse.watchers.Add(1)
	go func() {
		defer done()
		defer s.pulse.watchers.Add(-1)
		w.run(ctx)
	}()
	return w.out, w.why, nil
}

// kept fails if events after a revision are forgotten. etcd would still send the one at the revision compacted to, and what was before it is gone then.
func (s *Store) kept(ctx context.Context, after int64) error {
	_, err := s.get(ctx, CompactKey, clientv3.WithCountOnly(), clientv3.WithRev(max(after, store.First)))
	if errors.Is(err, store.ErrFuture) {
		return nil
	}
	return err
}

// watcher is one watch. Only run changes it.
type watcher struct {
	s      *Store
	prefix string
	next   int64 // the lowest revision not seen yet
	out    chan []store.Event

	waiting [][]store.Event
	bytes   int // of what waits
	reason  atomic.Pointer[error]
}

func (w *watcher) why() error {
	if err := w.reason.Load(); err != nil {
		return *err
	}
	return nil
}

// run watches, with whichever member, until something ends it for good.
func (w *watcher) run(ctx context.Context) {
	var err error
	for err == nil {
		if err = w.follow(ctx); err == nil {
			wait(ctx, pause)
		}
	}
	err = fmt.Errorf("watch %s: %w", w.prefix, err)
	w.reason.Store(&err)
	close(w.out)
}

// follow watches on one stream. It returns nil when the stream ended and another may go on.
func (w *watcher) follow(ctx context.Context) error {
	stream, renewed := w.s.pulse.stream(ctx)
	stream, cancel := context.WithCancel(stream)
	defer cancel()
	// Making a watch waits for the member's answer; it is left with the stream.
	left := make(chan struct{})
	defer close(left)
	go func() {
		select {
		case <-renewed:
			cancel()
		case <-left:
		}
	}()
	answers := w.s.client.Watch(stream, w.from(), clientv3.WithRange(clientv3.GetPrefixRangeEnd(w.prefix)), clientv3.WithRev(w.next),
		clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithFragment(), clientv3.WithCreatedNotify())
	for {
		var out chan []store.Event
		var first []store.Event
		if len(w.waiting) > 0 {
			out, first = w.out, w.waiting[0]
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case out <- first:
			w.waiting[0] = nil
			w.waiting = w.waiting[1:]
			w.bytes -= weight(first)
		case <-renewed:
			return nil
		case answer, ok := <-answers:
			if !ok {
				return nil
			}
			if err := w.take(answer); err != nil || answer.Canceled {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return err
			}
		}
	}
}

func (w *watcher) from() string {
	if w.prefix == "" {
		return "\x00"
	}
	return w.prefix
}

// take puts what an answer brings into the queue. An error ends the watch for good.
func (w *watcher) take(answer clientv3.WatchResponse) error {
	if answer.CompactRevision > 0 {
		raise(&w.s.compacted, answer.CompactRevision)
		return fmt.Errorf("revision %d: %w: etcd keeps those after %d", w.next, store.ErrCompacted, answer.CompactRevision)
	}
	if err := answer.Err(); err != nil {
		if judge(err, true) == refused {
			return translate(err)
		}
		return nil
	}
	w.s.pulse.hear()
	w.s.saw(answer.Header.Revision)
	if answer.IsProgressNotify() && !answer.Created {
		w.next = max(w.next, answer.Header.Revision+1)
		return nil
	}
	batch := make([]store.Event, 0, len(answer.Events))
	for _, e := range answer.Events {
		if e.Kv.ModRevision < w.next {
			continue
		}
		ev, err := event(e)
		if err != nil {
			return err
		}
		batch = append(batch, ev)
	}
	if len(batch) == 0 {
		return nil
	}
	w.next = batch[len(batch)-1].Revision + 1
	w.bytes += weight(batch)
	w.waiting = append(w.waiting, batch)
	if len(w.waiting) > 1 && w.bytes > waitingBytes {
		return fmt.Errorf("%w: %d bytes wait for it", store.ErrSlow, w.bytes)
	}
	return nil
}

func weight(batch []store.Event) (bytes int) {
	for _, e := range batch {
		bytes += len(e.Key) + len(e.Value) + len(e.Previous)
	}
	return bytes
}

// event is one of etcd's as the contract shows it. What a key was before is read by etcd when it sends the event; it fails if that is forgotten.
func event(e *clientv3.Event) (store.Event, error) {
	ev := store.Event{Record: store.Record{Key: string(e.Kv.Key), Revision: e.Kv.ModRevision, Created: e.Kv.CreateRevision}}
	if e.PrevKv != nil {
		ev.Previous = value(e.PrevKv.Value)
	} else if !e.IsCreate() {
		return ev, fmt.Errorf("what %s was before revision %d: %w", e.Kv.Key, e.Kv.ModRevision, store.ErrCompacted)
	}
	if e.Type == mvccpb.Event_DELETE {
		ev.Deleted, ev.Created = true, e.PrevKv.CreateRevision
	} else {
		ev.Value = value(e.Kv.Value)
	}
	return ev, nil
}
