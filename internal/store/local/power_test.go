package local

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"sampan.dev/internal/store"
)

// acked is what the writers of a test were told: the event of each revision, as "key id".
type acked struct {
	mu   sync.Mutex
	told map[int64]string
}

// load writes from several goroutines until n writes are acknowledged or one fails for good, and returns that error.
func (a *acked) load(t *testing.T, s *Store, random *rand.Rand, name string, n int) error {
	var group sync.WaitGroup
	var failed error
	for writer := range 8 {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		group.Go(func() {
			for i := range n / 8 {
				w := store.Write{Key: fmt.Sprintf("/%d", random.IntN(40)), Expect: store.Any}
				if random.IntN(5) > 0 {
					w.Value = crashValue(fmt.Sprintf("%s/%d/%d", name, writer, i))
				}
				r, err := s.Apply(t.Context(), w)
				a.mu.Lock()
				if err == nil {
					a.told[r.Revision] = w.Key + " " + what(w.Value == nil, w.Value)
				} else if !errors.Is(err, store.ErrNotFound) {
					failed = err
				}
				stop := failed != nil
				a.mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	group.Wait()
	return failed
}

// check compares a store that was opened again with what was told, from a revision on, and returns its last revision.
func (a *acked) check(t *testing.T, s *Store, seen int64, records map[string]store.Event) int64 {
	t.Helper()
	for _, revision := range slices.Sorted(maps.Keys(a.told)) {
		if revision > s.Revision() {
			t.Fatalf("revision %d was acknowledged, but the store is back at %d", revision, s.Revision())
		}
	}
	for seen < s.Revision() {
		events, err := s.history(seen)
		if err != nil {
			t.Fatalf("events after revision %d: %v", seen, err)
		}
		for _, e := range events {
			if seen++; e.Revision != seen {
				t.Fatalf("got revision %d, want %d", e.Revision, seen)
			}
			checkEvent(t, 0, e, records)
			if got, want := e.Key+" "+what(e.Deleted, e.Value), a.told[seen]; want != "" && want != got {
				t.Fatalf("revision %d is %q, acknowledged was %q", seen, got, want)
			}
		}
	}
	checkList(t, 0, s, records)
	clear(a.told)
	return seen
}

// The power goes at a random call to the disk, again and again. This also shows what kill -9 cannot: that a write is
// answered only after its sync, since what was not synced may be lost here.
func TestPowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	opts := Options{HistoryBytes: 256 << 10}
	dir := t.TempDir()
	seen, records := store.First, map[string]store.Event{}
	told := acked{told: map[int64]string{}}
	for round := range 150 {
		d := &disk{t: t}
		calls := random.IntN(150)
		count := func() {
			if calls--; calls < 0 {
				d.off = true
			}
		}
		d.onWrite = func(_ string, b []byte) (int, error) {
			if count(); d.off {
				return random.IntN(len(b) + 1), errPower
			}
			return len(b), nil
		}
		d.onSync = func(string) error {
			if count(); d.off {
				return errPower
			}
			return nil
		}
		if s, err := Open(dir, d.options(opts)); err == nil {
			if s.Revision() != seen {
				t.Fatalf("round %d: opened at revision %d, was at %d", round, s.Revision(), seen)
			}
			// At most what history keeps, so that every event can be checked afterwards.
			if err := told.load(t, s, random, fmt.Sprintf("round%d", round), random.IntN(240)); err != nil && !errors.Is(err, store.ErrBroken) && !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			d.cut()
			s.Close() // it may well complain
		} else if !errors.Is(err, errPower) {
			t.Fatalf("round %d: %v", round, err)
		}
		d.cut()
		d.settle(random)

		s, err := Open(dir, opts)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		seen = told.check(t, s, seen, records)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if seen < 1000 {
		t.Fatalf("only %d revisions were written", seen)
	}
	t.Logf("%d revisions over 150 power cuts", seen)
}
