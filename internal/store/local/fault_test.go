package local

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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

// threeAndABatch makes a store with three writes, and returns its log up to there and the bytes of a batch of three
// more: an update, a create and a delete.
func threeAndABatch(t *testing.T) (log, batch []byte, ends []int) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for _, key := range []string{"/a", "/b", "/c"} {
		if _, err := s.Apply(t.Context(), store.Write{Key: key, Value: crashValue("first" + key)[:40]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(filepath.Join(dir, fileName(store.First+1, logEnd)))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range []record{
		{key: []byte("/a"), value: []byte("updated in the batch"), revision: 5, created: 2, previous: 2},
		{key: []byte("/d"), value: []byte("created in the batch"), revision: 6, created: 6},
		{key: []byte("/c"), deleted: true, revision: 7, created: 4, previous: 4},
	} {
		r.place = uint32(i)
		batch = appendRecord(batch, &r)
		ends = append(ends, len(batch))
	}
	return all[:s.active.size], batch, ends
}

func TestTornAtEveryByte(t *testing.T) {
	log, batch, ends := threeAndABatch(t)
	garbage := bytes.Repeat([]byte("\xa5garbage"), 40)
	for cut := range len(batch) + 1 {
		for name, behind := range map[string][]byte{
			"nothing": nil, "zeros": make([]byte, 4096), "garbage": garbage,
			"a hole and the rest": append(make([]byte, min(align, len(batch)-cut)), batch[min(len(batch), cut+align):]...),
		} {
			torn := slices.Concat(batch[:cut], behind)
			want := int64(4)
			for _, end := range ends { // zeros may complete a record that ends in zeros
				if bytes.HasPrefix(torn, batch[:end]) {
					want++
				}
			}
			dir := t.TempDir()
			path := filepath.Join(dir, fileName(store.First+1, logEnd))
			if err := os.WriteFile(path, slices.Concat(log, torn), 0o600); err != nil {
				t.Fatal(err)
			}
			// Twice with a write between: what was behind the tear must not come back behind that write.
			for range 2 {
				s, err := Open(dir, Options{})
				if err != nil {
					t.Fatalf("cut at byte %d, then %s: %v", cut, name, err)
				}
				if s.Revision() != want {
					t.Fatalf("cut at byte %d, then %s: at revision %d, want %d", cut, name, s.Revision(), want)
				}
				r, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte("written after a tear"), Expect: store.Any})
				if err != nil || r.Revision != want+1 {
					t.Fatalf("cut at byte %d, then %s: %+v, %v", cut, name, r, err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				want++
			}
		}
	}
}

// A killed process leaves writes in the page cache. Who finds them there tells others, and so must make sure of them.
func TestOpenMakesDurableWhatItFinds(t *testing.T) {
	log, batch, _ := threeAndABatch(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName(store.First+1, logEnd)), slices.Concat(log, batch), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, cached: true}
	s := open(t, dir, d.options(Options{}))
	if s.Revision() != 7 {
		t.Fatalf("opened at revision %d", s.Revision())
	}
	d.cut()
	s.Close()
	for _, f := range d.files {
		if !bytes.Equal(f.durable, slices.Concat(log, batch)) {
			t.Fatalf("of %s %d bytes are durable", f.path, len(f.durable))
		}
	}
}

// A log is named before a record can be in it. What a crash leaves of its beginning must not be in the way.
func TestLogBegunButNotWritten(t *testing.T) {
	log, batch, _ := threeAndABatch(t)
	beginning := frame(magicLog, 8)
	for cut := range len(beginning) + 1 {
		for _, begun := range [][]byte{beginning[:cut], append(bytes.Clone(beginning[:cut]), make([]byte, 999)...)} {
			dir := t.TempDir()
			if err := errors.Join(
				os.WriteFile(filepath.Join(dir, fileName(2, logEnd)), slices.Concat(log, batch), 0o600),
				os.WriteFile(filepath.Join(dir, fileName(8, logEnd)), begun, 0o600),
			); err != nil {
				t.Fatal(err)
			}
			for want := int64(7); want < 9; want++ {
				s := open(t, dir, Options{})
				if s.Revision() != want {
					t.Fatalf("%d bytes: opened at revision %d, want %d", cut, s.Revision(), want)
				}
				if _, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte("v"), Expect: store.Any}); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestDamageToAcknowledgedWritesIsNeverSilent(t *testing.T) {
	log, batch, _ := threeAndABatch(t)
	file := slices.Concat(log, batch)
	for at := range log {
		dir := t.TempDir()
		damaged := bytes.Clone(file)
		damaged[at] ^= 1 << (at % 8)
		path := filepath.Join(dir, fileName(store.First+1, logEnd))
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Fatalf("byte %d was damaged: %v", at, err)
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, damaged) {
			t.Fatalf("byte %d was damaged, and the file then changed (%v)", at, err)
		}
	}
}

func TestDamageToABase(t *testing.T) {
	origin := t.TempDir()
	s := open(t, origin, Options{})
	for i := range 5 {
		if _, err := s.Apply(t.Context(), store.Write{Key: fmt.Sprintf("/%d", i), Value: []byte("value")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Compact(t.Context(), 5), s.Close()); err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(filepath.Join(origin, fileName(5, baseEnd)))
	if err != nil {
		t.Fatal(err)
	}
	for at := range len(base) + 1 {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		damaged := base[:len(base)-1]
		if at < len(base) {
			damaged = bytes.Clone(base)
			damaged[at] ^= 1 << (at % 8)
		}
		if err := os.WriteFile(filepath.Join(dir, fileName(5, baseEnd)), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d was damaged: %v", at, err)
		}
	}
}

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
