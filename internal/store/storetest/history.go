package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"sampan.dev/internal/store"
)

// operation is one call as its caller saw it. began and ended are ticks of one counter for all callers, so that of two
// calls it is known which ended before the other began.
type operation struct {
	key          string
	read         bool
	deleted      bool
	expect       int64
	began, ended int64
	revision     int64 // of the write made, or of the record read: 0 for none
}

// testLinearizable lets callers write and read a few keys at once. The store claims an order of all writes: their
// revisions. That order must explain what each caller saw, and must not turn round what happened one after the other.
func testLinearizable(t *testing.T, s store.Store) {
	var ticks atomic.Int64
	var mu sync.Mutex
	var history []operation
	var group sync.WaitGroup
	start := s.Revision()
	for caller := range 12 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 2))
			seen := map[string]int64{}
			for range 150 {
				o := operation{key: fmt.Sprintf("/%d", random.IntN(3)), read: random.IntN(3) == 0, expect: store.Any}
				w := store.Write{Key: o.key, Value: value(random.IntN(50), "%d", caller), Expect: store.Any}
				if random.IntN(2) == 0 {
					w.Expect = seen[o.key]
				}
				if random.IntN(5) == 0 {
					w.Value = nil
				}
				o.expect, o.deleted = w.Expect, !o.read && w.Value == nil
				var r store.Record
				var err error
				o.began = ticks.Add(1)
				if o.read {
					r, err = s.Get(t.Context(), o.key)
				} else {
					r, err = s.Apply(t.Context(), w)
				}
				o.ended = ticks.Add(1)
				o.revision = r.Revision
				conflict := (*store.ConflictError)(nil)
				switch {
				case errors.As(err, &conflict):
					seen[o.key] = conflict.Current.Revision
					o.read, o.revision, o.deleted = true, conflict.Current.Revision, false // it has read what is there
				case errors.Is(err, store.ErrNotFound):
					o.read, o.deleted = true, false
					seen[o.key] = 0
				case err != nil:
					t.Errorf("%+v: %v", o, err)
					return
				case o.deleted:
					seen[o.key] = 0
				default:
					seen[o.key] = r.Revision
				}
				mu.Lock()
				history = append(history, o)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if err := checkHistory(history, start); err != nil {
		t.Fatal(err)
	}
}

// checkHistory finds what the order of revisions cannot explain.
func checkHistory(history []operation, start int64) error {
	var writes, reads []operation
	for _, o := range history {
		if o.read {
			reads = append(reads, o)
		} else {
			writes = append(writes, o)
		}
	}
	slices.SortFunc(writes, func(a, b operation) int { return cmp.Compare(a.revision, b.revision) })
	current := map[string]int64{}
	byKey := map[string][]operation{}
	latestBegin := int64(0)
	for i, w := range writes {
		switch {
		case w.revision != start+int64(i)+1:
			return fmt.Errorf("write %+v is number %d after revision %d", w, i+1, start)
		case w.ended < latestBegin:
			return fmt.Errorf("write %+v ended before one with a lower revision began", w)
		case w.expect != store.Any && w.expect != current[w.key]:
			return fmt.Errorf("write %+v succeeded over revision %d", w, current[w.key])
		}
		latestBegin = max(latestBegin, w.began)
		if current[w.key] = w.revision; w.deleted {
			current[w.key] = 0
		}
		byKey[w.key] = append(byKey[w.key], w)
	}
	for _, r := range reads {
		if !explained(r, byKey[r.key]) {
			return fmt.Errorf("read %+v saw what was not there at any moment while it ran; writes: %+v", r, byKey[r.key])
		}
	}
	return nil
}

// explained says whether there was a moment between the begin and the end of a read when its answer was right: after the write that it
// saw can have happened, and before the next write of the key must have.
func explained(r operation, writes []operation) bool {
	for i := -1; i < len(writes); i++ {
		from, to := int64(0), int64(1)<<62
		saw := int64(0) // before the first write there is nothing
		if i >= 0 {
			from = writes[i].began
			if saw = writes[i].revision; writes[i].deleted {
				saw = 0
			}
		}
		if i+1 < len(writes) {
			to = writes[i+1].ended
		}
		if saw == r.revision && from < r.ended && r.began < to {
			return true
		}
	}
	return false
}

// Reopen tries what must outlive a restart. open opens the store that is kept under a name, which is new at first.
func Reopen(t *testing.T, open func(t *testing.T, name string) store.Store) {
	name := t.TempDir()
	m := newModel(nil, store.First)
	compacted := int64(0)
	for round := range 6 {
		s := open(t, name)
		records, revision, err := s.List(t.Context(), "")
		if err != nil || revision != m.revision || s.Revision() != m.revision {
			t.Fatalf("opened at revision %d (list: %d, %v), closed at %d", s.Revision(), revision, err, m.revision)
		}
		if err := m.compare(records); err != nil {
			t.Fatal(err)
		}
		if compacted > 0 {
			_, _, err := s.Watch(t.Context(), "", compacted-1)
			wantErr(t, err, store.ErrCompacted)
		}
		again := newModel(nil, 0) // all events from the start, or from the compaction
		if compacted == 0 && revision > store.First {
			for _, e := range follow(t, s, "", store.First)(int(revision - store.First)) {
				if err := again.apply(e); err != nil {
					t.Fatal(err)
				}
			}
			if err := again.compare(records); err != nil {
				t.Fatal(err)
			}
		}
		next := follow(t, s, "", revision)
		churn(t, s, 4, 50)
		for m.revision < s.Revision() {
			if err := m.apply(next(1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		if round >= 2 {
			compacted = m.revision - int64(round)
			if err := s.Compact(t.Context(), compacted); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
