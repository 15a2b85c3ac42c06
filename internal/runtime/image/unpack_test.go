package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unpackTest unpacks an archive into a directory beside a file that it must not reach, and gives the layer.
func unpackTest(t testing.TB, archive []byte) (string, layerStat, error) {
	t.Helper()
	needRoot(t)
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "secret"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(top, "layer")
	stat, err := unpackDir(t.Context(), layer, bytes.NewReader(archive))
	entries, e := os.ReadDir(top)
	if e != nil {
		t.Fatal(e)
	}
	data, e := os.ReadFile(filepath.Join(top, "secret"))
	info, e2 := os.Lstat(filepath.Join(top, "secret"))
	if e != nil || e2 != nil || string(data) != "untouched" || len(entries) != 2 || info.Mode().Perm() != 0o600 || info.Sys().(*unixStat).Nlink != 1 {
		t.Fatalf("the archive reached outside: %v, secret %q %v", entries, data, info.Mode())
	}
	return layer, stat, err
}

func TestUnpackRefuses(t *testing.T) {
	xattr := func(key string) entry {
		e := file("a", "x")
		e.PAXRecords = map[string]string{xattrRecord + key: "y"}
		return e
	}
	for name, archive := range map[string][]entry{
		"a path that climbs out":                      {file("../secret", "gone")},
		"a path that climbs out on the way":           {file("a/../../secret", "gone")},
		"an absolute path that climbs out":            {file("/../secret", "gone")},
		"a directory that climbs out":                 {dir("..", 0o777)},
		"a link to above and a file through it":       {symlink("up", ".."), file("up/secret", "gone")},
		"a link that climbs further than it is deep":  {dir("a/b", 0o755), symlink("a/b/up", "../../../../.."), file("a/b/up/secret", "gone")},
		"links that lead around in circles":           {symlink("a", "b"), symlink("b", "a"), file("a/x", "gone")},
		"a link that doubles at each step":            {symlink("a", "a/a"), file("a/x", "gone")},
		"a hard link to a path that climbs out":       {hardlink("a", "../secret")},
		"a hard link through a link to above":         {symlink("up", ".."), hardlink("a", "up/secret")},
		"a hard link to what is not in the layer":     {hardlink("a", "etc/shadow")},
		"a hard link to an absolute path":             {hardlink("a", "/etc/passwd")},
		"a hard link to a directory":                  {dir("d", 0o755), hardlink("a", "d")},
		"a hard link to the root":                     {hardlink("a", ".")},
		"a file below a file":                         {file("a", ""), file("a/b", "")},
		"a root that is a link":                       {symlink(".", "/etc")},
		"a root that is a file":                       {file(".", "x")},
		"a whiteout of everything above":              {file(".wh...", "")},
		"a whiteout of the directory itself":          {file("a/.wh..", "")},
		"a whiteout of no name":                       {file(".wh.", "")},
		"a whiteout through a link to above":          {symlink("up", ".."), file("up/.wh.secret", "")},
		"an opaque mark through a link to above":      {symlink("up", ".."), file("up/.wh..wh..opq", "")},
		"the kernel's own attribute for redirection":  {xattr("trusted.overlay.redirect")},
		"the kernel's own attribute for opaqueness":   {xattr("trusted.overlay.opaque")},
		"the kernel's own attribute, of users":        {xattr("user.overlay.redirect")},
		"the device that stands for a deleted file":   {{tar.Header{Name: "n", Typeflag: tar.TypeChar}, ""}},
		"a device that no kernel has":                 {{tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1 << 20}, ""}},
		"an owner that means nobody is changed":       {{tar.Header{Name: "n", Uid: 1<<32 - 1, Format: tar.FormatPAX}, ""}},
		"an entry of a kind that nobody knows":        {{tar.Header{Name: "n", Typeflag: 'Z'}, ""}},
		"a path deeper than any program could follow": {file(strings.Repeat("d/", 300)+"f", "")},
		"a path longer than any program could name":   {file(strings.Repeat("d", 5000), "")},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpackTest(t, tarOf(t, archive...))
			var hostile *HostileError
			if !errors.As(err, &hostile) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "refused: ") {
				t.Errorf("not one clear sentence: %q", err)
			}
		})
	}
}

func TestUnpackStaysInside(t *testing.T) {
	t.Run("an absolute path is one from the layer's root", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, file("/etc/x", "1")))
		check(t, err, filepath.Join(layer, "etc/x"), "1")
	})
	t.Run("an absolute link on the way is one from the layer's root", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, symlink("var", "/run/var"), file("var/x", "1")))
		check(t, err, filepath.Join(layer, "run/var/x"), "1")
		if _, err := os.Lstat("/run/var/x"); err == nil {
			t.Error("written to this machine's own /run")
		}
	})
	t.Run("a link that goes up within the layer is followed", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, dir("a/b", 0o755), dir("c", 0o755), symlink("a/b/up", "../../c"), file("a/b/up/x", "1")))
		check(t, err, filepath.Join(layer, "c/x"), "1")
	})
	t.Run("a file that takes a link's place does not write through it", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, symlink("x", "../secret"), file("x", "mine")))
		check(t, err, filepath.Join(layer, "x"), "mine")
	})
	t.Run("a directory that takes a link's place is a directory", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, symlink("d", ".."), dir("d", 0o700), file("d/secret", "mine")))
		check(t, err, filepath.Join(layer, "d/secret"), "mine")
	})
	t.Run("a link that takes a directory's place is not gone through from memory", func(t *testing.T) {
		_, _, err := unpackTest(t, tarOf(t, file("d/a", ""), symlink("d", ".."), file("d/secret", "gone")))
		var hostile *HostileError
		if !errors.As(err, &hostile) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("a hard link to a link is a second name of the link", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, symlink("l", "../secret"), hardlink("m", "l")))
		if err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(filepath.Join(layer, "m")); err != nil || to != "../secret" {
			t.Errorf("%q, %v", to, err)
		}
	})
	t.Run("a hard link may take the place of its target's directory", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, file("d/f", "1"), hardlink("d", "d/f")))
		check(t, err, filepath.Join(layer, "d"), "1")
	})
	t.Run("a hard link to itself changes nothing", func(t *testing.T) {
		layer, _, err := unpackTest(t, tarOf(t, file("f", "1"), hardlink("f", "f"), hardlink("g", "f"), hardlink("g", "f")))
		check(t, err, filepath.Join(layer, "g"), "1")
		if names := names(t, layer); names != "f g" {
			t.Errorf("names are %s", names)
		}
	})
}

func TestUnpackKeepsWhatTheArchiveSays(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // CAP_NET_BIND_SERVICE
	ping := entry{tar.Header{
		Name: "bin/ping", Mode: 0o755, Uid: 12, Gid: 34, ModTime: time.Unix(77, 5), Format: tar.FormatPAX,
		PAXRecords: map[string]string{xattrRecord + "security.capability": capability, xattrRecord + "user.note": "hi", xattrRecord + "security.selinux": "no"},
	}, "ping"}
	su := entry{tar.Header{Name: "bin/su", Mode: 0o4755, Uid: 1000, Gid: 1000}, "su"}
	layer, stat, err := unpackTest(t, tarOf(t,
		dir("./", 0o711), dir("bin", 0o1777), ping, su, symlink("bin/sh", "busybox"),
		entry{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		entry{tar.Header{Name: "dev/pipe", Typeflag: tar.TypeFifo, Mode: 0o622}, ""},
		entry{tar.Header{Name: "sub/deep/file", Mode: 0o600}, "12345"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode     fs.FileMode
		uid, gid uint32
	}{
		".":             {fs.ModeDir | 0o711, 0, 0},
		"bin":           {fs.ModeDir | fs.ModeSticky | 0o777, 0, 0},
		"bin/ping":      {0o755, 12, 34},
		"bin/su":        {fs.ModeSetuid | 0o755, 1000, 1000},
		"bin/sh":        {fs.ModeSymlink | 0o777, 0, 0},
		"dev/null":      {fs.ModeDevice | fs.ModeCharDevice | 0o666, 0, 0},
		"dev/pipe":      {fs.ModeNamedPipe | 0o622, 0, 0},
		"sub":           {fs.ModeDir | 0o755, 0, 0},
		"sub/deep":      {fs.ModeDir | 0o755, 0, 0},
		"sub/deep/file": {0o600, 0, 0},
	} {
		info, err := os.Lstat(filepath.Join(layer, name))
		if err != nil {
			t.Error(err)
			continue
		}
		st := info.Sys().(*unixStat)
		if info.Mode() != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s is %v %d:%d, want %v %d:%d", name, info.Mode(), st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
	}
	for name, want := range map[string]time.Time{"bin/ping": time.Unix(77, 5), "bin": time.Unix(2000, 0), ".": time.Unix(2000, 0)} {
		info, err := os.Lstat(filepath.Join(layer, name))
		if err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s was changed at %v, want %v", name, info.ModTime(), want)
		}
	}
	for key, want := range map[string]string{"security.capability": capability, "user.note": "hi"} {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(layer, "bin/ping"), key, buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("attribute %s is %q, %v", key, buf[:max(n, 0)], err)
		}
	}
	if stat.Bytes != int64(len("ping")+len("su")+5) || !stat.Root || strings.Join(stat.Implied, " ") != "dev sub sub/deep" {
		t.Errorf("counted %+v", stat)
	}
	if stat.Inodes != 10 {
		t.Errorf("counted %d inodes, made 10", stat.Inodes)
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	layer, stat, err := unpackTest(t, tarOf(t,
		file("a/.wh.gone", ""),
		file("b/.wh..wh..opq", ""), file("b/kept", "1"),
		file("c/new", "1"), file("c/.wh.new", ""), // the same layer's own file stays
		file(".wh.d", ""), dir("d", 0o755), file("d/x", "1"), // gone, and there anew
		dir("e", 0o755), file(".wh.e", ""),
		file(".wh.f", ""), file("f/x", "1"), // there anew without an entry of its own
		file(".wh.g", ""), file("g", "1"),
		file(".wh..wh.plnk/1.2", "aufs"), file(".wh..wh.aufs", ""),
	))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(layer, "a/gone"), &st); err != nil || !isWhiteout(&st) {
		t.Errorf("a/gone is no whiteout: %v", err)
	}
	for name, want := range map[string]bool{"a": false, "b": true, "c": false, "d": true, "e": true, "f": true} {
		buf := make([]byte, 10)
		n, err := unix.Lgetxattr(filepath.Join(layer, name), opaqueXattr, buf)
		if got := err == nil && string(buf[:n]) == "y"; got != want {
			t.Errorf("%s is opaque: %v, want %v", name, got, want)
		}
	}
	check(t, nil, filepath.Join(layer, "c/new"), "1")
	check(t, nil, filepath.Join(layer, "g"), "1")
	check(t, nil, filepath.Join(layer, "f/x"), "1")
	if got := names(t, layer); got != "a b c d e f g" {
		t.Errorf("the layer has %s", got)
	}
	if stat.Opaque {
		t.Error("the root counts as opaque")
	}
}

func TestUnpackFailsOnBrokenArchives(t *testing.T) {
	whole := tarOf(t, file("a", strings.Repeat("x", 5000)), file("b", "y"))
	for _, n := range []int{1, 511, 513, 3000, 6000} {
		if _, _, err := unpackTest(t, whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for whole", n, len(whole))
		}
	}
}

// Whatever the archive, nothing outside the layer changes, and nothing panics.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, dir("a", 0o755), file("a/b", "x"), symlink("a/up", "../.."), file("a/up/secret", "")))
	f.Add(tarOf(f, symlink("l", "/"), file("l/secret", ""), hardlink("h", "l/secret")))
	f.Add(tarOf(f, file(".wh.x", ""), dir("x", 0o755), file("x/.wh..wh..opq", ""), hardlink("y", "x/z")))
	f.Fuzz(func(t *testing.T, archive []byte) {
		_, _, _ = unpackTest(t, archive)
	})
}

func check(t *testing.T, err error, path, want string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s holds %q, %v, want %q", path, data, err, want)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}
