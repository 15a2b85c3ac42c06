package cache_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store"
)

// memory is a store that forgets all when the test ends, and does what a test tells it to do wrong.
type memory struct {
	mu       sync.Mutex
	revision int64
	floor    int64 // events up to here are no longer kept
	records  map[string]store.Record
	history  []store.Event
	moved    chan struct{}
	broken   chan struct{} // closed to end all watches
	refuse   int           // that many lists fail
}

func newMemory() *memory {
	return &memory{
		revision: store.First, floor: store.First, records: map[string]store.Record{},
		moved: make(chan struct{}), broken: make(chan struct{}),
	}
}

func (m *memory) Revision() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision
}

func (m *memory) Current(context.Context) (int64, error) { return m.Revision(), nil }

func (m *memory) ApplyAll(ctx context.Context, writes []store.Write) (all []store.Record, err error) {
	for _, w := range writes {
		r, err := m.Apply(ctx, w)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (m *memory) Apply(_ context.Context, w store.Write) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, there := m.records[w.Key]
	if w.Expect != store.Any && w.Expect != old.Revision {
		return store.Record{}, &store.ConflictError{Key: w.Key, Expect: w.Expect, Current: old}
	}
	if w.Value == nil && !there {
		return store.Record{}, store.ErrNotFound
	}
	m.revision++
	rec := store.Record{Key: w.Key, Value: w.Value, Revision: m.revision, Created: old.Created}
	if !there {
		rec.Created = m.revision
	}
	ev := store.Event{Record: rec, Deleted: w.Value == nil, Previous: old.Value}
	if ev.Deleted {
		delete(m.records, w.Key)
	} else {
		m.records[w.Key] = rec
	}
	m.history = append(m.history, ev)
	close(m.moved)
	m.moved = make(chan struct{})
	return rec, nil
}

func (m *memory) Get(_ context.Context, key string) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, ok := m.records[key]
	if !ok {
		return rec, store.ErrNotFound
	}
	return rec, nil
}

func (m *memory) List(_ context.Context, prefix string) ([]store.Record, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse > 0 {
		m.refuse--
		return nil, 0, store.ErrUnanswered
	}
	var out []store.Record
	for key, rec := range m.records {
		if strings.HasPrefix(key, prefix) {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
	return out, m.revision, nil
}

func (m *memory) Watch(ctx context.Context, prefix string, after int64) (<-chan []store.Event, func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after < m.floor {
		return nil, nil, store.ErrCompacted
	}
	out := make(chan []store.Event)
	var reason error
	broken := m.broken
	go func() {
		defer close(out)
		for {
			m.mu.Lock()
			moved := m.moved
			var batch []store.Event
			if after >= m.floor { // else they are lost, and this watch is about to be told
				for _, ev := range m.history[after-m.floor:] {
					if strings.HasPrefix(ev.Key, prefix) {
						batch = append(batch, ev)
					}
				}
			}
			m.mu.Unlock()
			if len(batch) > 0 {
				select {
				case out <- batch:
					after = batch[len(batch)-1].Revision
					continue
				case <-ctx.Done():
					reason = ctx.Err()
					return
				case <-broken:
					reason = store.ErrSlow
					return
				}
			}
			select {
			case <-moved:
			case <-ctx.Done():
				reason = ctx.Err()
				return
			case <-broken:
				reason = store.ErrSlow
				return
			}
		}
	}()
	return out, func() error { return reason }, nil
}

// lose makes writes of which no watcher ever hears, and ends all watches.
func (m *memory) lose(writes ...store.Write) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range writes {
		m.revision++
		if w.Value == nil {
			delete(m.records, w.Key)
			continue
		}
		m.records[w.Key] = store.Record{Key: w.Key, Value: w.Value, Revision: m.revision, Created: m.revision}
	}
	m.floor, m.history = m.revision, nil
	m.breakLocked()
}

// breakOff ends all watches; nothing is lost.
func (m *memory) breakOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.breakLocked()
}

func (m *memory) breakLocked() {
	close(m.broken)
	m.broken = make(chan struct{})
}

func (m *memory) Compact(context.Context, int64) error { return errors.ErrUnsupported }

func (m *memory) Close() error { return nil }

var table = sync.OnceValue(kinds.Table)

func kindOf(t testing.TB, name string) *resource.Kind {
	for _, k := range table().All() {
		if k.Plural == name {
			return k
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

// run starts a cache on a store and ends it with the test.
func run(t testing.TB, m store.Store) *cache.Cache {
	t.Helper()
	c := cache.New(table(), m, slog.New(slog.DiscardHandler))
	start(t, c)
	return c
}

func start(t testing.TB, c *cache.Cache) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	<-c.Ready()
}

// put stores an object whatever is there; nil deletes.
func put(t testing.TB, m store.Store, k *resource.Kind, ns, name string, obj resource.Object) int64 {
	t.Helper()
	w := store.Write{Key: k.Key(ns, name), Expect: store.Any}
	if obj != nil {
		obj.SetNamespace(ns)
		obj.SetName(name)
		data, err := table().Encode(obj)
		if err != nil {
			t.Fatal(err)
		}
		w.Value = data
	}
	rec, err := m.Apply(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Revision
}

func reach(t testing.TB, c *cache.Cache, revision int64) *cache.Snapshot {
	t.Helper()
	if err := c.Wait(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	return c.Snapshot()
}
