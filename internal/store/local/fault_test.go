package local

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sampan.dev/internal/store"
)

func TestMissingLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{HistoryBytes: 4 << 10})
	var last store.Record
	for i := range 100 {
		var err error
		if last, err = s.Apply(t.Context(), store.Write{Key: fmt.Sprintf("/%d", i), Value: make([]byte, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, logs, _, err := listDir(dir)
	if err != nil || len(logs) < 3 {
		t.Fatalf("logs %v, %v", logs, err)
	}
	if err := os.Remove(filepath.Join(dir, fileName(logs[1], logEnd))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a log before revision %d is missing: %v", last.Revision, err)
	}
}

func TestFailingDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(d *disk)
	}{
		{"a sync fails", func(d *disk) { d.onSync = func(string) error { return syscall.EIO } }},
		{"a write fails", func(d *disk) { d.onWrite = func(string, []byte) (int, error) { return 0, syscall.EIO } }},
		{"a write is short", func(d *disk) {
			d.onWrite = func(_ string, b []byte) (int, error) { return min(20, len(b)), syscall.EIO }
		}},
		{"the disk is full and cannot be tidied", func(d *disk) {
			d.onWrite = func(_ string, b []byte) (int, error) { return min(20, len(b)), syscall.ENOSPC }
			d.onSync = func(string) error { return syscall.EIO }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			d := &disk{t: t}
			s := open(t, dir, d.options(Options{}))
			told := acked{told: map[int64]string{}}
			random := rand.New(rand.NewPCG(1, 1))
			if err := told.load(t, s, random, "before", 100); err != nil {
				t.Fatal(err)
			}
			revision := s.Revision()
			d.mu.Lock()
			c.fail(d)
			d.mu.Unlock()
			w := store.Write{Key: "/a", Value: []byte("lost or not"), Expect: store.Any}
			if _, err := s.Apply(t.Context(), w); !errors.Is(err, store.ErrBroken) {
				t.Fatalf("got %v", err)
			}
			d.mu.Lock()
			d.onWrite, d.onSync = nil, nil
			d.mu.Unlock()
			if _, err := s.Apply(t.Context(), w); !errors.Is(err, store.ErrBroken) {
				t.Fatalf("the disk works again, but what it has is unknown: %v", err)
			}
			if s.Revision() != revision || !errors.Is(s.Facts().Broken, store.ErrBroken) {
				t.Fatalf("at revision %d after %d, facts %+v", s.Revision(), revision, s.Facts())
			}
			if list, _, err := s.List(t.Context(), ""); err != nil || len(list) == 0 {
				t.Fatalf("reads no longer work: %d records, %v", len(list), err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, Options{})
			if now := s.Revision(); now != revision && now != revision+1 {
				t.Fatalf("opened at revision %d, was at %d", now, revision)
			}
			if list, err := s.history(revision); err == nil && string(list[0].Value) != "lost or not" {
				t.Fatalf("revision %d is %q", revision+1, list[0].Value)
			}
			records := map[string]store.Event{}
			events, err := s.history(store.First)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events[:revision-store.First] {
				checkEvent(t, 0, e, records)
				if got := e.Key + " " + what(e.Deleted, e.Value); told.told[e.Revision] != got {
					t.Fatalf("revision %d is %q, acknowledged was %q", e.Revision, got, told.told[e.Revision])
				}
			}
		})
	}
}

func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
		room func(path string) bool
	}{
		{"a log cannot grow", Options{}, func(string) bool { return false }},
		{"a new log cannot be made", Options{HistoryBytes: 16 << 10}, func(string) bool { return false }},
		{"a base cannot be written", Options{HistoryBytes: 16 << 10}, func(path string) bool { return !strings.HasSuffix(path, unfinished) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			d := &disk{t: t}
			s := open(t, dir, d.options(c.opts))
			full, refused := false, 0
			records := map[string]store.Record{}
			d.onWrite = func(path string, b []byte) (int, error) {
				if full && !c.room(path) {
					return len(b) / 2, syscall.ENOSPC
				}
				return len(b), nil
			}
			for i := range 1200 {
				d.mu.Lock()
				full = i%100 > 80
				d.mu.Unlock()
				w := store.Write{Key: fmt.Sprintf("/%d", i%30), Value: crashValue(fmt.Sprintf("%d", i)), Expect: store.Any}
				before := s.Revision()
				r, err := s.Apply(t.Context(), w)
				switch {
				case err == nil:
					records[w.Key] = r
				case !errors.Is(err, store.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC):
					t.Fatal(err)
				case s.Revision() != before:
					t.Fatalf("a refused write moved the revision from %d to %d", before, s.Revision())
				default:
					refused++
				}
			}
			if refused == 0 && !c.room("base"+unfinished) && !c.room("log") {
				t.Fatal("no write was refused")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, c.opts)
			list, _, err := s.List(t.Context(), "")
			if err != nil || len(list) != len(records) {
				t.Fatalf("%d records, want %d: %v", len(list), len(records), err)
			}
			for _, r := range list {
				if want := records[r.Key]; r.Revision != want.Revision || !bytes.Equal(r.Value, want.Value) {
					t.Fatalf("%s is at revision %d, acknowledged was %d", r.Key, r.Revision, want.Revision)
				}
			}
		})
	}
}
