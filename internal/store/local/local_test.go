package local

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sampan.dev/internal/store"
	"sampan.dev/internal/store/storetest"
)

// TestMain keeps the log to itself: faults are what is tested.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func open(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir(), Options{}) })
}

func TestReopen(t *testing.T) {
	t.Run("large files", func(t *testing.T) {
		storetest.Reopen(t, func(t *testing.T, dir string) store.Store { return open(t, dir, Options{}) })
	})
	t.Run("small files", func(t *testing.T) {
		storetest.Reopen(t, func(t *testing.T, dir string) store.Store {
			return open(t, dir, Options{HistoryBytes: 400 << 10})
		})
	})
}

func TestSecondOpenNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())+" (") {
		t.Fatalf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

// A few keys are updated without end: neither the files nor the memory for watchers may grow with that.
func TestDiskUseIsBounded(t *testing.T) {
	opts := Options{HistoryBytes: 256 << 10}
	s := open(t, t.TempDir(), opts)
	_, reason, err := s.Watch(t.Context(), "", s.Revision()) // nobody takes anything from it
	if err != nil {
		t.Fatal(err)
	}
	told := acked{told: map[int64]string{}}
	for round := range 20 {
		if err := told.load(t, s, rand.New(rand.NewPCG(uint64(round), 0)), strconv.Itoa(round), 800); err != nil {
			t.Fatal(err)
		}
		facts := s.Facts()
		// What the package comment says, and the log being written with the space it has ahead.
		bound := 2*facts.Live + 3*opts.HistoryBytes/2 + s.logSize() + spaceStep
		for s.Size() > bound { // while the keeper is at it
			time.Sleep(time.Millisecond)
		}
		s.mu.RLock()
		held := s.recent.bytes
		s.mu.RUnlock()
		if held > 2*ringBytes {
			t.Fatalf("%d bytes are held for a watcher that takes nothing", held)
		}
	}
	if facts := s.Facts(); facts.Compacted == 0 || facts.Watchers != 0 || facts.Keys > 40 || facts.Syncs > facts.Writes {
		t.Fatalf("%+v", facts)
	}
	if !errors.Is(reason(), store.ErrSlow) {
		t.Fatalf("the watcher ended because: %v", reason())
	}
}

func TestHistoryOverARestart(t *testing.T) {
	opts := Options{HistoryRevisions: 100}
	dir := t.TempDir()
	s := open(t, dir, opts)
	for i := range 500 {
		if _, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte(strconv.Itoa(i)), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, opts)
	kept := s.Revision() - 100
	if s.Compacted() != kept {
		t.Fatalf("events up to %d of %d are forgotten", s.Compacted(), s.Revision())
	}
	if _, _, err := s.Watch(t.Context(), "", kept-1); !errors.Is(err, store.ErrCompacted) {
		t.Fatalf("got %v", err)
	}
	batches, _, err := s.Watch(t.Context(), "", kept)
	if err != nil {
		t.Fatal(err)
	}
	for next := kept + 1; next <= s.Revision(); {
		for _, e := range <-batches {
			if want := strconv.FormatInt(next-3, 10); e.Revision != next || string(e.Previous) != want {
				t.Fatalf("got revision %d over %s, want %d over %s", e.Revision, e.Previous, next, want)
			}
			next++
		}
	}
}

// A receiver that is behind by more than is held in memory reads on from the log, and misses nothing.
func TestWatcherFarBehindReadsTheLog(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	start := s.Revision()
	batches, reason, err := s.Watch(t.Context(), "", start)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		w := store.Write{Key: "/" + strconv.Itoa(i%7), Value: make([]byte, 100_000+i), Expect: store.Any}
		if _, err := s.Apply(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	for next := start + 1; next <= s.Revision(); {
		batch, ok := <-batches
		if !ok {
			t.Fatal(reason())
		}
		for _, e := range batch {
			if i := int(next - start - 1); e.Revision != next || len(e.Value) != 100_000+i || i >= 7 && len(e.Previous) != 100_000+i-7 {
				t.Fatalf("got revision %d with %d bytes over %d", e.Revision, len(e.Value), len(e.Previous))
			}
			next++
		}
	}
}
