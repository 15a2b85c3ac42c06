package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sampan.dev/internal/store"
)

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
