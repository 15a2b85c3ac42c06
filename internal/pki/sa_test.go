package pki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTokenKeyIsMadeOnceAndClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	first, err := open(t, dir).TokenKey()
	if err != nil {
		t.Fatal(err)
	}
	second, err := open(t, dir).TokenKey()
	if err != nil || !second.Equal(first) {
		t.Errorf("another key the second time: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "sa.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if first.Equal(open(t, dir).key) {
		t.Error("the authority's key signs tokens")
	}
}

func TestDamagedTokenKeyIsNamed(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	for _, content := range []string{"hello", "-----BEGIN EC PRIVATE KEY-----\naGVsbG8=\n-----END EC PRIVATE KEY-----\n"} {
		if err := os.WriteFile(filepath.Join(dir, "sa.key"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := p.TokenKey(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "sa.key")) {
			t.Errorf("error %v", err)
		}
	}
}
