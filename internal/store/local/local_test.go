package local

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

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
