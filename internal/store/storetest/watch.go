package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"sampan.dev/internal/store"
)

// churn makes n writes from each of several writers on a few keys and returns when all are answered.
func churn(t *testing.T, s store.Store, writers, n int) {
	t.Helper()
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range n {
				write := store.Write{Key: fmt.Sprintf("/churn/%d", random.IntN(20)), Expect: store.Any}
				if random.IntN(4) > 0 {
					write.Value = value(random.IntN(300), "%d of writer %d", i, w)
				}
				if _, err := s.Apply(t.Context(), write); err != nil && !strings.Contains(err.Error(), store.ErrNotFound.Error()) {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func testWatchFrom(t *testing.T, s store.Store) {
	start := s.Revision()
	live := follow(t, s, "", start)
	churn(t, s, 1, 200)
	end := s.Revision()
	events := live(int(end - start))
	m := newModel(nil, start)
	for _, e := range events {
		if err := m.apply(e); err != nil {
			t.Fatal(err)
		}
	}
	// A watch from each revision in the past has exactly the rest.
	for after := start; after < end; after += 13 {
		for i, e := range follow(t, s, "", after)(int(end - after)) {
			want := events[int(after-start)+i]
			wantRecord(t, e.Record, want.Record)
			if e.Deleted != want.Deleted || string(e.Previous) != string(want.Previous) {
				t.Fatalf("revision %d reads otherwise when it is watched later", e.Revision)
			}
		}
	}
}

func testWatchPrevious(t *testing.T, s store.Store) {
	start := s.Revision()
	live := follow(t, s, "", start)
	a := put(t, s, "/a", []byte("1"), 0)
	b := put(t, s, "/a", []byte("2"), store.Any)
	c := put(t, s, "/a", nil, store.Any)
	d := put(t, s, "/a", []byte{}, store.Any)
	e := put(t, s, "/a", []byte("3"), store.Any)
	want := []store.Event{
		{Record: a},
		{Record: b, Previous: []byte("1")},
		{Record: c, Previous: []byte("2"), Deleted: true},
		{Record: d},
		{Record: e, Previous: []byte{}},
	}
	for _, next := range []func(int) []store.Event{live, follow(t, s, "/a", start)} {
		for i, got := range next(len(want)) {
			wantRecord(t, got.Record, want[i].Record)
			if got.Deleted != want[i].Deleted || string(got.Previous) != string(want[i].Previous) || (got.Previous == nil) != (want[i].Previous == nil) {
				t.Fatalf("event %d is %+v, want %+v", i, got, want[i])
			}
		}
	}
}

func testWatchPrefix(t *testing.T, s store.Store) {
	start := s.Revision()
	live := follow(t, s, "/b/", start)
	none := follow(t, s, "/none/", start)
	var want []store.Record
	for i := range 50 {
		put(t, s, fmt.Sprintf("/a/%d", i), []byte("v"), 0)
		want = append(want, put(t, s, fmt.Sprintf("/b/%d", i), []byte("v"), 0))
		put(t, s, fmt.Sprintf("/b%d", i), []byte("v"), 0)
	}
	for _, next := range []func(int) []store.Event{live, follow(t, s, "/b/", start)} {
		for i, e := range next(len(want)) {
			wantRecord(t, e.Record, want[i])
		}
	}
	last := put(t, s, "/none/1", []byte("v"), 0)
	wantRecord(t, none(1)[0].Record, last)
}

func testWatchFuture(t *testing.T, s store.Store) {
	start := s.Revision()
	next := follow(t, s, "", start+3)
	for i := range 5 {
		put(t, s, fmt.Sprintf("/%d", i), []byte("v"), 0)
	}
	for i, e := range next(2) {
		if e.Revision != start+4+int64(i) {
			t.Fatalf("got revision %d, want %d", e.Revision, start+4+int64(i))
		}
	}
}

func testListThenWatch(t *testing.T, s store.Store) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { churn(t, s, 8, 100) })
	for range 20 {
		records, revision, err := s.List(t.Context(), "/churn/")
		if err != nil {
			t.Fatal(err)
		}
		m := newModel(records, revision)
		next := follow(t, s, "/churn/", revision)
		later, end, err := s.List(t.Context(), "/churn/")
		if err != nil {
			t.Fatal(err)
		}
		for m.revision < end {
			if err := m.apply(next(1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.compare(later); err != nil {
			t.Fatal(err)
		}
	}
}

func testManyWatchers(t *testing.T, s store.Store) {
	start := s.Revision()
	next := make([]func(int) []store.Event, 10)
	for i := range next {
		next[i] = follow(t, s, "", start)
	}
	churn(t, s, 8, 100)
	records, end, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range next {
		m := newModel(nil, start)
		for _, e := range next[i](int(end - start)) {
			if e.Revision != m.revision+1 {
				t.Fatalf("watcher %d got revision %d after %d", i, e.Revision, m.revision)
			}
			if err := m.apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.compare(records); err != nil {
			t.Fatal(err)
		}
	}
}

func testWatchEnds(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	batches, reason, err := s.Watch(ctx, "", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range batches {
	}
	wantErr(t, reason(), context.Canceled)
	put(t, s, "/a", []byte("v"), 0)
}

func testStuckWatcher(t *testing.T, s store.Store) {
	_, _, err := s.Watch(t.Context(), "", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	live := follow(t, s, "", s.Revision())
	for i := range 300 {
		r := put(t, s, "/a", value(20000, "%d", i), store.Any)
		if got := live(1)[0]; got.Revision != r.Revision {
			t.Fatalf("got revision %d, want %d", got.Revision, r.Revision)
		}
	}
}

func testCompact(t *testing.T, s store.Store) {
	start := s.Revision()
	churn(t, s, 4, 100)
	put(t, s, "/kept", []byte("as it was"), 0)
	middle := s.Revision()
	churn(t, s, 4, 100)
	before, revision, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	rest := follow(t, s, "", middle)(int(revision - middle))
	wantErr(t, s.Compact(t.Context(), revision+1), store.ErrFuture)
	for range 2 { // the second time it does nothing
		if err := s.Compact(t.Context(), middle); err != nil {
			t.Fatal(err)
		}
		for _, after := range []int64{start, middle - 1} {
			_, _, err = s.Watch(t.Context(), "", after)
			wantErr(t, err, store.ErrCompacted)
		}
		for i, e := range follow(t, s, "", middle)(len(rest)) {
			wantRecord(t, e.Record, rest[i].Record)
			if string(e.Previous) != string(rest[i].Previous) {
				t.Fatalf("after compaction the event %s has another previous value", show(e.Record))
			}
		}
		after, now, err := s.List(t.Context(), "")
		if err != nil || now != revision {
			t.Fatalf("list: at %d of %d, %v", now, revision, err)
		}
		if err := newModel(before, revision).compare(after); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	next := follow(t, s, "", revision)
	r := put(t, s, "/kept", []byte("changed"), store.Any)
	if e := next(1)[0]; e.Revision != r.Revision || string(e.Previous) != "as it was" {
		t.Fatalf("got %+v", e)
	}
}

func testCompactUnderLoad(t *testing.T, s store.Store) {
	start := s.Revision()
	live := follow(t, s, "", start)
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		defer close(done)
		churn(t, s, 8, 200)
	})
	m := newModel(nil, start)
	for working := true; working; {
		select {
		case <-done:
			working = false
		default:
		}
		// All up to here has been taken, so that the watcher loses nothing by it.
		for m.revision < s.Revision() {
			if err := m.apply(live(1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(t.Context(), m.revision-m.revision%50); err != nil {
			t.Fatal(err)
		}
	}
	group.Wait()
	records, end, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for m.revision < end {
		if err := m.apply(live(1)[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.compare(records); err != nil {
		t.Fatal(err)
	}
}
