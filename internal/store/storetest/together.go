package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"sampan.dev/internal/store"
)

func testTogether(t *testing.T, s store.Store) {
	ctx := t.Context()
	put(t, s, "/there", []byte("v"), 0)
	first, err := s.ApplyAll(ctx, []store.Write{{Key: "/a", Value: []byte("1")}, {Key: "/b", Value: []byte("2")}})
	if err != nil {
		t.Fatalf("two creates: %v", err)
	}
	if len(first) != 2 || first[0].Key != "/a" || first[1].Key != "/b" || first[1].Revision != first[0].Revision+1 && first[1].Revision != first[0].Revision {
		t.Fatalf("two creates answer %+v", first)
	}
	one, err := s.ApplyAll(ctx, []store.Write{{Key: "/one", Value: []byte("1")}})
	if err != nil || len(one) != 1 || one[0].Key != "/one" {
		t.Fatalf("one create answers %+v, %v", one, err)
	}
	for name, c := range map[string]struct {
		writes []store.Write
		want   error
		key    string
	}{
		"the second is there already":    {[]store.Write{{Key: "/c", Value: []byte("3")}, {Key: "/there", Value: []byte("x")}}, store.ErrConflict, "/there"},
		"the first is at another":        {[]store.Write{{Key: "/a", Value: []byte("3"), Expect: 1}, {Key: "/c", Value: []byte("3")}}, store.ErrConflict, "/a"},
		"one to be deleted is not there": {[]store.Write{{Key: "/c", Value: []byte("3")}, {Key: "/never", Expect: store.Any}}, store.ErrNotFound, ""},
		"one key twice":                  {[]store.Write{{Key: "/c", Value: []byte("3")}, {Key: "/c", Value: []byte("4"), Expect: store.Any}}, store.ErrInvalid, ""},
		"one key is none":                {[]store.Write{{Key: "/c", Value: []byte("3")}, {Key: "", Value: []byte("4")}}, store.ErrInvalid, ""},
	} {
		before := s.Revision()
		_, err := s.ApplyAll(ctx, c.writes)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
		var conflict *store.ConflictError
		if errors.As(err, &conflict) && conflict.Key != c.key {
			t.Errorf("%s: the conflict is of %s, want %s", name, conflict.Key, c.key)
		}
		if _, err := s.Get(ctx, "/c"); !errors.Is(err, store.ErrNotFound) || s.Revision() != before {
			t.Errorf("%s: something was done all the same: %v, revision %d after %d", name, err, s.Revision(), before)
		}
	}
	if _, err := s.ApplyAll(ctx, []store.Write{{Key: "/a", Expect: first[0].Revision}, {Key: "/c", Value: []byte("3")}}); err != nil {
		t.Errorf("a delete and a create: %v", err)
	}
	if _, err := s.Get(ctx, "/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was deleted together with a create is there: %v", err)
	}
}

// testTogetherConcurrent: each of many writers takes two keys, of which each two overlap; no key is ever taken by half of a pair.
func testTogetherConcurrent(t *testing.T, s store.Store) {
	const keys = 40
	var all sync.WaitGroup
	for writer := range 8 {
		all.Go(func() {
			for i := range keys {
				v := fmt.Appendf(nil, "%d/%d", writer, i)
				_, err := s.ApplyAll(t.Context(), []store.Write{{Key: fmt.Sprintf("/k/%02d", i), Value: v}, {Key: fmt.Sprintf("/k/%02d", (i+writer+1)%keys), Value: v}})
				if err != nil && !errors.Is(err, store.ErrConflict) {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	all.Wait()
	records, _, err := s.List(t.Context(), "/k/")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range records {
		count[string(r.Value)]++
	}
	for v, n := range count {
		if n != 2 {
			t.Errorf("%s has %d keys, want both or none", v, n)
		}
	}
	if len(count) == 0 {
		t.Error("nobody has taken anything")
	}
}
