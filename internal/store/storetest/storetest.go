// Package storetest is the suite that every engine of package store passes: what the contract says, tried out.
//
// It watches and writes nothing but the stores that it is given. It knows no engine; an engine's own tests call Run and
// Reopen, and add what is particular to it: crashes, damage, limits.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"sampan.dev/internal/store"
)

// Run tries the contract on stores from open, each of which must be new and empty and is closed by the suite.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"a new store is empty at the first revision", testNew},
		{"a write answers with what a read then finds", testRoundTrip},
		{"a write succeeds only at the revision it expects", testExpect},
		{"keys and values have limits", testLimits},
		{"a list is sorted and has the prefix", testList},
		{"a record once returned never changes", testImmutable},
		{"a watch has the events after its revision, each once", testWatchFrom},
		{"a watch tells what a key was before", testWatchPrevious},
		{"a watch sees its prefix alone", testWatchPrefix},
		{"a watch from a revision to come begins there", testWatchFuture},
		{"a list and a watch after it miss nothing", testListThenWatch},
		{"many watchers under load see the same events", testManyWatchers},
		{"a watch ends with its context, and says so", testWatchEnds},
		{"a receiver that takes nothing delays nobody", testStuckWatcher},
		{"compaction forgets events and keeps records", testCompact},
		{"compaction goes on beside writers and watchers", testCompactUnderLoad},
		{"concurrent writes and reads have one order", testLinearizable},
		{"of many creates of one key one succeeds", testOneCreate},
		{"several writes are made together or not at all", testTogether},
		{"pairs written by many at once stay pairs", testTogetherConcurrent},
		{"a context that has ended ends a write", testCancelled},
		{"a closed store refuses everything", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.test(t, s)
		})
	}
}

// value makes a value that says what it is of; size is at least what that takes.
func value(size int, format string, args ...any) []byte {
	v := fmt.Appendf(nil, format, args...)
	for len(v) < size {
		v = append(v, byte('a'+len(v)%26))
	}
	return v
}

// put writes and fails the test if that does not succeed.
func put(t *testing.T, s store.Store, key string, v []byte, expect int64) store.Record {
	t.Helper()
	r, err := s.Apply(t.Context(), store.Write{Key: key, Value: v, Expect: expect})
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	return r
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func wantRecord(t *testing.T, got, want store.Record) {
	t.Helper()
	if got.Key != want.Key || got.Revision != want.Revision || got.Created != want.Created ||
		!bytes.Equal(got.Value, want.Value) || (got.Value == nil) != (want.Value == nil) {
		t.Fatalf("got %s, want %s", show(got), show(want))
	}
}

func show(r store.Record) string {
	return fmt.Sprintf("{%s=%.40q revision %d created %d}", r.Key, r.Value, r.Revision, r.Created)
}

// follow starts a watch that ends with the test and returns a function that takes the next n events.
func follow(t *testing.T, s store.Store, prefix string, after int64) func(n int) []store.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	batches, reason, err := s.Watch(ctx, prefix, after)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	t.Cleanup(cancel)
	var have []store.Event
	return func(n int) []store.Event {
		t.Helper()
		for len(have) < n {
			batch, ok := <-batches
			if !ok {
				t.Fatalf("the watch ended after %d of %d events: %v", len(have), n, reason())
			}
			if len(batch) == 0 {
				t.Fatal("got an empty batch")
			}
			have = append(have, batch...)
		}
		events := have[:n:n]
		have = have[n:]
		return events
	}
}

// model is what a store must hold, told by its events.
type model struct {
	records  map[string]store.Record
	revision int64
}

func newModel(records []store.Record, revision int64) *model {
	m := &model{map[string]store.Record{}, revision}
	for _, r := range records {
		m.records[r.Key] = r
	}
	return m
}

// apply checks that an event is possible after those before it.
func (m *model) apply(e store.Event) error {
	was, existed := m.records[e.Key]
	switch {
	case e.Revision <= m.revision:
		return fmt.Errorf("event %s came after revision %d", show(e.Record), m.revision)
	case existed && !bytes.Equal(was.Value, e.Previous), existed && e.Previous == nil, !existed && e.Previous != nil:
		return fmt.Errorf("event %s has previous value %.40q, but it was %.40q", show(e.Record), e.Previous, was.Value)
	case existed && e.Created != was.Created, !existed && (e.Deleted || e.Created != e.Revision):
		return fmt.Errorf("event %s (deleted: %v) after %s", show(e.Record), e.Deleted, show(was))
	case e.Deleted != (e.Value == nil):
		return fmt.Errorf("event %s with deleted: %v", show(e.Record), e.Deleted)
	}
	if m.revision = e.Revision; e.Deleted {
		delete(m.records, e.Key)
	} else {
		m.records[e.Key] = e.Record
	}
	return nil
}

// compare checks a list against the model, which must be at the list's revision.
func (m *model) compare(records []store.Record) error {
	if len(records) != len(m.records) {
		return fmt.Errorf("at revision %d the list has %d records, the events leave %d", m.revision, len(records), len(m.records))
	}
	for _, r := range records {
		if w := m.records[r.Key]; w.Revision != r.Revision || w.Created != r.Created || !bytes.Equal(w.Value, r.Value) {
			return fmt.Errorf("at revision %d the list has %s, the events leave %s", m.revision, show(r), show(w))
		}
	}
	return nil
}
