package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"sampan.dev/internal/store"
)

func testNew(t *testing.T, s store.Store) {
	records, revision, err := s.List(t.Context(), "")
	if err != nil || len(records) != 0 || revision != store.First || s.Revision() != store.First {
		t.Fatalf("list: %v at %d, %v; revision %d", records, revision, err, s.Revision())
	}
	_, err = s.Get(t.Context(), "/a")
	wantErr(t, err, store.ErrNotFound)
}

func testRoundTrip(t *testing.T, s store.Store) {
	for i, v := range [][]byte{[]byte("x"), {}, value(4000, "long"), bytes.Repeat([]byte{0}, 99), {0xff, 0, 'k'}} {
		key := "/registry/" + strings.Repeat("k", i+1)
		created := put(t, s, key, v, 0)
		wantRecord(t, created, store.Record{Key: key, Value: v, Revision: s.Revision(), Created: s.Revision()})
		got, err := s.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		wantRecord(t, got, created)

		updated := put(t, s, key, []byte("second"), created.Revision)
		wantRecord(t, updated, store.Record{Key: key, Value: []byte("second"), Revision: created.Revision + 1, Created: created.Created})
		got, err = s.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		wantRecord(t, got, updated)

		deleted := put(t, s, key, nil, updated.Revision)
		wantRecord(t, deleted, store.Record{Key: key, Revision: created.Revision + 2, Created: created.Created})
		_, err = s.Get(t.Context(), key)
		wantErr(t, err, store.ErrNotFound)

		again := put(t, s, key, v, 0)
		wantRecord(t, again, store.Record{Key: key, Value: v, Revision: created.Revision + 3, Created: created.Revision + 3})
	}
}

func testExpect(t *testing.T, s store.Store) {
	const key = "/a"
	for _, c := range []struct {
		name   string
		exists bool
		value  []byte
		expect func(current int64) int64
		want   error
	}{
		{"create where nothing is", false, []byte("v"), func(int64) int64 { return 0 }, nil},
		{"create over something", true, []byte("v"), func(int64) int64 { return 0 }, store.ErrConflict},
		{"update at its revision", true, []byte("v"), func(r int64) int64 { return r }, nil},
		{"update at an older revision", true, []byte("v"), func(r int64) int64 { return r - 1 }, store.ErrConflict},
		{"update at a newer revision", true, []byte("v"), func(r int64) int64 { return r + 1 }, store.ErrConflict},
		{"update of nothing", false, []byte("v"), func(int64) int64 { return 7 }, store.ErrConflict},
		{"any over something", true, []byte("v"), func(int64) int64 { return store.Any }, nil},
		{"any where nothing is", false, []byte("v"), func(int64) int64 { return store.Any }, nil},
		{"delete at its revision", true, nil, func(r int64) int64 { return r }, nil},
		{"delete at an older revision", true, nil, func(r int64) int64 { return r - 1 }, store.ErrConflict},
		{"delete expecting nothing, over something", true, nil, func(int64) int64 { return 0 }, store.ErrConflict},
		{"delete of any", true, nil, func(int64) int64 { return store.Any }, nil},
		{"delete of nothing, any", false, nil, func(int64) int64 { return store.Any }, store.ErrNotFound},
		{"delete of nothing, expecting nothing", false, nil, func(int64) int64 { return 0 }, store.ErrNotFound},
		{"delete of nothing at a revision", false, nil, func(int64) int64 { return 7 }, store.ErrConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The key has had more than one life, so that a revision of an earlier one is not taken for the current.
			put(t, s, key, []byte("old"), store.Any)
			put(t, s, key, nil, store.Any)
			var current store.Record
			if c.exists {
				put(t, s, key, []byte("new"), 0)
				current = put(t, s, key, []byte("newer"), store.Any)
			}
			before := s.Revision()
			got, err := s.Apply(t.Context(), store.Write{Key: key, Value: c.value, Expect: c.expect(current.Revision)})
			wantErr(t, err, c.want)
			if c.want == nil {
				if got.Revision != before+1 || s.Revision() != before+1 {
					t.Fatalf("took revision %d, the store is at %d, after %d", got.Revision, s.Revision(), before)
				}
				return
			}
			if s.Revision() != before {
				t.Fatalf("a refused write moved the revision from %d to %d", before, s.Revision())
			}
			if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
				wantRecord(t, conflict.Current, current)
			} else if c.want == store.ErrConflict {
				t.Fatalf("%v is no *ConflictError", err)
			}
			if c.exists {
				now, err := s.Get(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				wantRecord(t, now, current)
			}
		})
	}
}

func testLimits(t *testing.T, s store.Store) {
	before := s.Revision()
	for _, c := range []struct {
		write store.Write
		want  error
	}{
		{store.Write{Value: []byte("v")}, store.ErrInvalid},
		{store.Write{Key: strings.Repeat("k", store.MaxKey+1), Value: []byte("v")}, store.ErrInvalid},
		{store.Write{Key: "/a", Value: []byte("v"), Expect: -2}, store.ErrInvalid},
		{store.Write{Key: "/a", Value: make([]byte, store.MaxValue+1)}, store.ErrTooLarge},
	} {
		_, err := s.Apply(t.Context(), c.write)
		wantErr(t, err, c.want)
	}
	if s.Revision() != before {
		t.Fatalf("refused writes moved the revision from %d to %d", before, s.Revision())
	}
	next := follow(t, s, "", before)
	most := strings.Repeat("k", store.MaxKey)
	want := put(t, s, most, value(store.MaxValue, "as large as can be"), 0)
	got, err := s.Get(t.Context(), most)
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, got, want)
	wantRecord(t, next(1)[0].Record, want)
	// Several at once do not fit one small request either.
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if _, err := s.Apply(t.Context(), store.Write{Key: "/big/" + string(rune('a'+i)), Value: value(store.MaxValue, "%d", i)}); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	group.Wait()
	records, _, err := s.List(t.Context(), "/big/")
	if err != nil || len(records) != 8 {
		t.Fatalf("list: %d records, %v", len(records), err)
	}
	for i, r := range records {
		if !bytes.Equal(r.Value, value(store.MaxValue, "%d", i)) {
			t.Fatalf("%s has another value than was written", r.Key)
		}
	}
}

func testList(t *testing.T, s store.Store) {
	keys := []string{"/b/2", "/a/1", "/b", "/b/10", "/c", "/b/1", "/b0", "/b/\xff", "/b/\x00"}
	want := map[string]store.Record{}
	for _, k := range keys {
		want[k] = put(t, s, k, value(0, "of %s", k), 0)
	}
	put(t, s, "/b/gone", []byte("v"), 0)
	put(t, s, "/b/gone", nil, store.Any)
	want["/b/1"] = put(t, s, "/b/1", []byte("updated"), store.Any)
	slices.Sort(keys)
	for _, prefix := range []string{"", "/", "/b", "/b/", "/b/1", "/c", "/d", "/b/\xff", "/b/\xff\xff"} {
		records, revision, err := s.List(t.Context(), prefix)
		if err != nil || revision != s.Revision() {
			t.Fatalf("list %q: at %d of %d, %v", prefix, revision, s.Revision(), err)
		}
		for _, k := range keys {
			if !strings.HasPrefix(k, prefix) {
				continue
			}
			if len(records) == 0 {
				t.Fatalf("list %q has no %q", prefix, k)
			}
			wantRecord(t, records[0], want[k])
			records = records[1:]
		}
		if len(records) > 0 {
			t.Fatalf("list %q also has %q", prefix, records[0].Key)
		}
	}
}

func testImmutable(t *testing.T, s store.Store) {
	first := put(t, s, "/a", value(100, "first"), 0)
	put(t, s, "/b", value(100, "other"), 0)
	got, err := s.Get(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		put(t, s, "/a", value(100, "later %d", i), store.Any)
		if _, err := s.Get(t.Context(), "/a"); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []store.Record{first, got, list[0]} {
		wantRecord(t, r, store.Record{Key: "/a", Value: value(100, "first"), Revision: first.Revision, Created: first.Created})
	}
}

func testOneCreate(t *testing.T, s store.Store) {
	for round := range 20 {
		var group sync.WaitGroup
		var mu sync.Mutex
		var won []store.Record
		var lost []*store.ConflictError
		for i := range 16 {
			group.Go(func() {
				r, err := s.Apply(t.Context(), store.Write{Key: roundKey(round), Value: value(0, "%d", i)})
				mu.Lock()
				defer mu.Unlock()
				if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
					lost = append(lost, conflict)
				} else if err != nil {
					t.Errorf("create: %v", err)
				} else {
					won = append(won, r)
				}
			})
		}
		group.Wait()
		if len(won) != 1 || len(lost) != 15 {
			t.Fatalf("%d creates succeeded and %d met a conflict, of 16", len(won), len(lost))
		}
		for _, c := range lost {
			wantRecord(t, c.Current, won[0])
		}
	}
}

func roundKey(i int) string { return "/key/" + string(rune('a'+i)) }

func testCancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Apply(ctx, store.Write{Key: "/a", Value: []byte("v")})
	wantErr(t, err, context.Canceled)
	_, err = s.Get(ctx, "/a")
	wantErr(t, err, context.Canceled)
	put(t, s, "/b", []byte("v"), 0)
}

func testClosed(t *testing.T, s store.Store) {
	put(t, s, "/a", []byte("v"), 0)
	batches, reason, err := s.Watch(t.Context(), "", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	if reason() != nil {
		t.Fatalf("a watch that goes on has ended because: %v", reason())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range batches {
	}
	wantErr(t, reason(), store.ErrClosed)
	_, err = s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte("v"), Expect: store.Any})
	wantErr(t, err, store.ErrClosed)
	_, err = s.Get(t.Context(), "/a")
	wantErr(t, err, store.ErrClosed)
	_, _, err = s.List(t.Context(), "")
	wantErr(t, err, store.ErrClosed)
	_, _, err = s.Watch(t.Context(), "", 0)
	wantErr(t, err, store.ErrClosed)
	wantErr(t, s.Compact(t.Context(), 1), store.ErrClosed)
}
