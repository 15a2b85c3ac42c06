package keyring

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sampan.dev/internal/pki"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
)

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func authority(t *testing.T, dir string) []byte {
	t.Helper()
	p, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p.CA()
}

func tokenOf(t *testing.T, dir string) string {
	t.Helper()
	token, err := Token(dir)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTheSecondServerGetsTheKeysOfTheFirst(t *testing.T) {
	st, a, b := open(t), t.TempDir(), t.TempDir()
	if first, err := Share(t.Context(), st, a, ""); err != nil || !first {
		t.Fatalf("the first: %v %v", first, err)
	}
	if first, err := Share(t.Context(), st, b, tokenOf(t, a)); err != nil || first {
		t.Fatalf("the second: %v %v", first, err)
	}
	for _, name := range []string{"ca.crt", "ca.key", "sa.key", tokenFile} {
		one, err := os.ReadFile(filepath.Join(a, name))
		two, err2 := os.ReadFile(filepath.Join(b, name))
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s differs (%v)", name, err)
		}
		if info, err := os.Stat(filepath.Join(b, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	// Both start again without being told.
	for _, dir := range []string{a, b} {
		if first, err := Share(t.Context(), st, dir, ""); err != nil || first {
			t.Errorf("again: %v %v", first, err)
		}
	}
	rec, err := st.Get(t.Context(), Key)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(rec.Value, []byte("PRIVATE")) || strings.Contains(string(rec.Value), tokenOf(t, a)) {
		t.Error("the datastore has what is secret in the open")
	}
}

func TestKeysThatAreThereGoIntoAnEmptyDatastore(t *testing.T) {
	st, dir := open(t), t.TempDir()
	before := authority(t, dir)
	if _, err := Share(t.Context(), st, dir, ""); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, authority(t, dir)) {
		t.Error("the authority is another one")
	}
}

func TestWhoMayNotHaveTheKeys(t *testing.T) {
	st, owner := open(t), t.TempDir()
	if _, err := Share(t.Context(), st, owner, ""); err != nil {
		t.Fatal(err)
	}
	good := tokenOf(t, owner)
	other := t.TempDir()
	authority(t, other)
	for name, c := range map[string]struct {
		dir, token string
		want       error
	}{
		"a server without a token":                {t.TempDir(), "", ErrNoToken},
		"a server with something else":            {t.TempDir(), "abcdef.0123456789abcdef@sha256:00", ErrNotAToken},
		"a server with another cluster's token":   {t.TempDir(), strings.Repeat("ab", tokenSize), ErrWrongToken},
		"a server that has other keys":            {other, good, pki.ErrOther},
		"a server that is given a token it lacks": {owner, strings.Repeat("ab", tokenSize), ErrWrongToken},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := os.ReadDir(c.dir)
			if _, err := Share(t.Context(), st, c.dir, c.token); !errors.Is(err, c.want) {
				t.Errorf("it gets %v, want %v", err, c.want)
			}
			if after, _ := os.ReadDir(c.dir); len(after) != len(before) {
				t.Errorf("its directory had %v and has %v", before, after)
			}
		})
	}
}

// Of servers that start at the same time with nothing, one is the first, and the others are told to bring its token; that one then serves them all.
func TestOneOfManyIsTheFirst(t *testing.T) {
	st := open(t)
	dirs, firsts, errs := make([]string, 8), make([]bool, 8), make([]error, 8)
	var all sync.WaitGroup
	for i := range dirs {
		dirs[i] = t.TempDir()
		all.Go(func() { firsts[i], errs[i] = Share(t.Context(), st, dirs[i], "") })
	}
	all.Wait()
	winner := ""
	for i := range dirs {
		switch {
		case firsts[i] && winner == "":
			winner = dirs[i]
		case firsts[i]:
			t.Error("two are the first")
		case !errors.Is(errs[i], ErrNoToken):
			t.Errorf("another gets %v", errs[i])
		}
	}
	for _, dir := range dirs {
		if _, err := Share(t.Context(), st, dir, tokenOf(t, winner)); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(authority(t, dir), authority(t, winner)) {
			t.Error("the authorities differ")
		}
	}
}

// forgetful is a datastore whose server is killed right after the keys were put there.
type forgetful struct{ store.Store }

var errKilled = errors.New("killed")

func (f forgetful) Apply(ctx context.Context, w store.Write) (store.Record, error) {
	rec, err := f.Store.Apply(ctx, w)
	return rec, errors.Join(err, errKilled)
}

func TestAKillAfterTheDatastoreHasTheKeysLosesNothing(t *testing.T) {
	st, dir := open(t), t.TempDir()
	if _, err := Share(t.Context(), forgetful{st}, dir, ""); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if _, err := Token(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the token is kept already: %v", err)
	}
	if _, err := Share(t.Context(), st, dir, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Share(t.Context(), st, t.TempDir(), tokenOf(t, dir)); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, stage)); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
