package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func open(t testing.TB) *local.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// churn makes n random writes, and leaves some keys.
func churn(t testing.TB, s store.Store, random *rand.Rand, n int) {
	t.Helper()
	for range n {
		w := store.Write{Key: fmt.Sprintf("/registry/%c/%x", 'a'+random.IntN(3), random.IntN(300)), Expect: store.Any}
		if random.IntN(4) > 0 {
			w.Value = make([]byte, random.IntN(1<<random.IntN(15)))
			for i := range w.Value {
				w.Value[i] = byte(random.IntN(7))
			}
		}
		if _, err := s.Apply(t.Context(), w); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

func list(t testing.TB, s store.Store) []store.Record {
	t.Helper()
	records, _, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// What was saved, whatever it is, is what a restore brings; it saves the same again; and no revision of before goes on in the new store.
func TestRestoreBringsWhatWasSaved(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 5))
		from, to, dir := open(t), open(t), t.TempDir()
		churn(t, from, random, random.IntN(1500))
		saved, err := Save(t.Context(), from, dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		before := list(t, from)
		churn(t, from, random, 50) // is not in it
		path := filepath.Join(dir, saved.Name)
		restored, err := Restore(t.Context(), path, to)
		if err != nil {
			t.Fatal(err)
		}
		if restored.Count != int64(len(before)) || restored.Revision != saved.Revision || restored.Size != saved.Size {
			t.Errorf("seed %d: saved %+v, restored %+v", seed, saved, restored)
		}
		if err := compare(before, list(t, to)); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if to.Revision() <= saved.Revision {
			t.Errorf("seed %d: the store is at revision %d, the snapshot was at %d", seed, to.Revision(), saved.Revision)
		}
		for _, after := range []int64{store.First, saved.Revision / 2, saved.Revision, from.Revision()} {
			if _, _, err := to.Watch(t.Context(), "", after); !errors.Is(err, store.ErrCompacted) {
				t.Errorf("seed %d: a watch from revision %d of before: %v", seed, after, err)
			}
		}
		if _, err := to.Apply(t.Context(), store.Write{Key: "/more", Value: []byte("v")}); err != nil {
			t.Error(err)
		}
		if _, err := Restore(t.Context(), path, to); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("seed %d: a second restore into the same store: %v", seed, err)
		}
	}
}

// A snapshot taken beside writers is one moment: pairs that are always written together are together in it.
func TestSaveBesideWritersIsOneMoment(t *testing.T) {
	s, dir := open(t), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				v := fmt.Appendf(nil, "%d", i)
				_, err := s.ApplyAll(ctx, []store.Write{{Key: fmt.Sprintf("/a/%d", w), Value: v, Expect: store.Any}, {Key: fmt.Sprintf("/b/%d", w), Value: v, Expect: store.Any}})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	at := time.Unix(1_700_000_000, 0)
	for i := range 20 {
		info, err := Save(t.Context(), s, dir, at.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		to := map[string]string{}
		var head Head
		if err := each(filepath.Join(dir, info.Name), func(_ Head, r store.Record) error { to[r.Key] = string(r.Value); return nil }, &head); err != nil {
			t.Fatal(err)
		}
		for w := range 4 {
			if a, b := to[fmt.Sprintf("/a/%d", w)], to[fmt.Sprintf("/b/%d", w)]; a != b {
				t.Errorf("snapshot at %d has halves of two pairs: %s and %s", head.Revision, a, b)
			}
		}
	}
	cancel()
	group.Wait()
	all, err := List(dir)
	if err != nil || len(all) != 20 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	for i, info := range all {
		if info.Err != nil || !info.Time.Equal(at.Add(time.Duration(i)*time.Second)) || info.Size == 0 || i > 0 && info.Revision < all[i-1].Revision {
			t.Errorf("snapshot %d: %+v", i, info)
		}
	}
}

// Each byte of a file matters: with any one changed, cut off or added, nothing is restored.
func TestDamageIsFound(t *testing.T) {
	from, dir := open(t), t.TempDir()
	churn(t, from, rand.New(rand.NewPCG(1, 1)), 60)
	info, err := Save(t.Context(), from, dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, info.Name))
	if err != nil {
		t.Fatal(err)
	}
	to := open(t)
	path := filepath.Join(t.TempDir(), "x"+ending)
	try := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), path, to); !errors.Is(err, ErrDamaged) || to.Revision() != store.First {
			t.Errorf("%s: %v, the store is at revision %d", what, err, to.Revision())
		}
	}
	for i := 0; i < len(whole); i += 1 + len(whole)/400 {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if records, err := decodeAll(b); err == nil && !same(records, whole) {
			t.Errorf("byte %d of %d changed: other records, and no error", i, len(whole))
		} else if err != nil {
			try(fmt.Sprintf("byte %d of %d changed", i, len(whole)), b)
		}
		try(fmt.Sprintf("cut off at byte %d of %d", i, len(whole)), whole[:i])
	}
	try("something comes after it", append(bytes.Clone(whole), 'x'))
	try("it is there twice", append(bytes.Clone(whole), whole[headSize:]...))
	if info := inspect(path); info.Err != nil {
		t.Errorf("the head is whole: %v", info.Err)
	}
}

func decodeAll(b []byte) (records []store.Record, err error) {
	_, all, err := Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for r, err := range all {
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// same: a bit of the zstd frame that means nothing may be turned, if all that it holds is as it was.
func same(records []store.Record, whole []byte) bool {
	want, err := decodeAll(whole)
	return err == nil && fmt.Sprint(records) == fmt.Sprint(want)
}

func TestCopy(t *testing.T) {
	from, to := open(t), open(t)
	churn(t, from, rand.New(rand.NewPCG(3, 3)), 900)
	head, err := Copy(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := compare(list(t, from), list(t, to)); err != nil || head.Revision != from.Revision() || int(head.Count) != len(list(t, to)) {
		t.Errorf("%+v: %v", head, err)
	}
	if to.Revision() <= from.Revision() {
		t.Errorf("the copy is at revision %d, the original at %d", to.Revision(), from.Revision())
	}
	if _, err := Copy(t.Context(), from, to); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a copy into a store that has keys: %v", err)
	}
	if _, err := Copy(t.Context(), moving{from}, open(t)); !errors.Is(err, ErrDiffers) {
		t.Errorf("a copy of a store that goes on changing: %v", err)
	}
}

// moving is a store in which each list finds something new.
type moving struct{ store.Store }

func (m moving) List(ctx context.Context, prefix string) ([]store.Record, int64, error) {
	if _, err := m.Apply(ctx, store.Write{Key: "/moves", Value: fmt.Append(nil, m.Revision()), Expect: store.Any}); err != nil {
		return nil, 0, err
	}
	return m.Store.List(ctx, prefix)
}

func TestCompareNamesTheKey(t *testing.T) {
	r := func(pairs ...string) (all []store.Record) {
		for _, p := range pairs {
			key, value, _ := strings.Cut(p, "=")
			all = append(all, store.Record{Key: key, Value: []byte(value)})
		}
		return all
	}
	for name, c := range map[string]struct {
		from, to []store.Record
		want     string
	}{
		"both are the same":          {r("/a=1", "/b=2"), r("/a=1", "/b=2"), ""},
		"both are empty":             {nil, nil, ""},
		"a value is another":         {r("/a=1", "/b=2"), r("/a=1", "/b=3"), "/b has another value"},
		"a key is missing":           {r("/a=1", "/b=2"), r("/b=2"), "/a is only in the first"},
		"the last key is missing":    {r("/a=1", "/b=2"), r("/a=1"), "/b is only in the first"},
		"a key is too many":          {r("/b=2"), r("/a=1", "/b=2"), "/a is only in the second"},
		"the last key is too many":   {r("/a=1"), r("/a=1", "/b=2"), "/b is only in the second"},
		"one key instead of another": {r("/a=1"), r("/b=1"), "/a is only in the first"},
	} {
		err := compare(c.from, c.to)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A file that could not be written whole is not there.
func TestNothingUnfinishedHasAName(t *testing.T) {
	dir := t.TempDir()
	full := errors.New("no space")
	_, err := writeFile(dir, "a"+ending, func(w io.Writer) error {
		_, _ = w.Write([]byte(magic))
		return full
	})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("there is %v (%v)", names, err)
	}
	if all, err := List(filepath.Join(dir, "none")); err != nil || all != nil {
		t.Errorf("a directory that is not there has %v (%v)", all, err)
	}
}

// FuzzDecode: whatever the bytes, reading ends, and what is read without an error is written and read again the same.
func FuzzDecode(f *testing.F) {
	for _, records := range [][]store.Record{
		nil,
		{{Key: "/a", Value: []byte{}, Revision: 2, Created: 2}},
		{{Key: "/a", Value: []byte("1"), Revision: 9, Created: 2}, {Key: "/b", Value: bytes.Repeat([]byte("x"), 5000), Revision: 7, Created: 7}},
	} {
		var b bytes.Buffer
		if err := Encode(&b, Head{Revision: 9, Time: time.Unix(5, 0)}, records); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		head, _, err := Decode(bytes.NewReader(b))
		if err != nil {
			return
		}
		records, err := decodeAll(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v does not say that it is damaged", err)
			}
			return
		}
		var again bytes.Buffer
		if err := Encode(&again, head, records); err != nil {
			t.Fatal(err)
		}
		twice, err := decodeAll(again.Bytes())
		if err != nil || fmt.Sprint(twice) != fmt.Sprint(records) {
			t.Fatalf("written and read again it is other: %v", err)
		}
	})
}
