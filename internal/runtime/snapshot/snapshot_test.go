package snapshot

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/runtime/image"
)

// The tests mount, so all of them run in a mount namespace of their own, which takes its mounts with it.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv("SNAPSHOT_TEST_INSIDE") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "SNAPSHOT_TEST_INSIDE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type both struct {
	dir    string
	snaps  *Store
	images *image.Store
}

// open opens both stores, as the runtime does: a second time it finds what the first one left.
func open(t *testing.T, dir string) *both {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	exe := filepath.Join(dir, "program")
	if _, err := os.Stat(exe); err != nil {
		if err := os.WriteFile(exe, []byte("hello"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	snaps, err := Open(filepath.Join(dir, "snapshots"), nil)
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(dir, "images"), image.Options{Executable: exe, InUse: snaps.Layers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = images.Close()
		for _, id := range snaps.List() {
			_ = snaps.Remove(id)
		}
	})
	return &both{dir, snaps, images}
}

type entry struct {
	name, content string
	mode          int64 // a directory if the name ends in a slash
}

// load loads an image with the layers given.
func (b *both) load(t *testing.T, name string, layers ...[]entry) *image.Image {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(w *tar.Writer, h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	var files []string
	cfg := v1.ConfigFile{OS: "linux", Architecture: "amd64", Author: name, RootFS: v1.RootFS{Type: "layers"}}
	for i, l := range layers {
		var layer bytes.Buffer
		lw := tar.NewWriter(&layer)
		for _, e := range l {
			h := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: tar.TypeReg}
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
			put(lw, h, []byte(e.content))
		}
		if err := lw.Close(); err != nil {
			t.Fatal(err)
		}
		hash, _, err := v1.SHA256(bytes.NewReader(layer.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, hash)
		files = append(files, fmt.Sprintf("%d.tar", i))
		put(w, &tar.Header{Name: files[i], Mode: 0o644}, layer.Bytes())
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(w, &tar.Header{Name: "c.json", Mode: 0o644}, config)
	manifest, err := json.Marshal([]map[string]any{{"Config": "c.json", "RepoTags": []string{name}, "Layers": files}})
	if err != nil {
		t.Fatal(err)
	}
	put(w, &tar.Header{Name: "manifest.json", Mode: 0o644}, manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := b.images.Load(t.Context(), &out, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func read(t *testing.T, path, want string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s holds %q, %v, want %q", path, data, err, want)
	}
}

func TestLayersAreStacked(t *testing.T) {
	b := open(t, t.TempDir())
	m := b.load(t, "x:1",
		[]entry{{"./", "", 0o711}, {"tmp/", "", 0o1777}, {"f", "low", 0o644}, {"gone", "", 0o644}, {"hidden/", "", 0o755}, {"hidden/old", "", 0o644}, {"dir/", "", 0o755}, {"dir/low", "1", 0o644}},
		[]entry{{"f", "high", 0o644}, {".wh.gone", "", 0o644}, {"hidden/", "", 0o755}, {"hidden/.wh..wh..opq", "", 0o644}, {"hidden/new", "", 0o644}, {"dir/high", "2", 0o644}, {"tmp/x", "", 0o644}})
	root, err := b.snaps.Prepare("c1", m)
	if err != nil {
		t.Fatal(err)
	}
	read(t, filepath.Join(root, "f"), "high")
	read(t, filepath.Join(root, "dir/low"), "1")
	read(t, filepath.Join(root, "dir/high"), "2")
	for _, name := range []string{"gone", "hidden/old"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "hidden/new")); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{".": "drwx--x--x", "tmp": "dtrwxrwxrwx"} {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || info.Mode().String() != want {
			t.Errorf("%s is %v, %v, want %s", name, info.Mode(), err, want)
		}
	}

	t.Run("what a container writes is its own", func(t *testing.T) {
		other, err := b.snaps.Prepare("c2", m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "f"), bytes.Repeat([]byte("x"), 100_000), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(root, "dir/low")); err != nil {
			t.Fatal(err)
		}
		read(t, filepath.Join(other, "f"), "high")
		read(t, filepath.Join(other, "dir/low"), "1")
		one, err1 := b.snaps.Usage("c1")
		two, err2 := b.snaps.Usage("c2")
		if err1 != nil || err2 != nil || one.Bytes < 100_000 || one.Inodes < 3 || two.Bytes > 50_000 || two.Inodes != 1 {
			t.Errorf("they use %+v, %v and %+v, %v", one, err1, two, err2)
		}
		if _, err := b.snaps.Usage("c3"); !errors.Is(err, ErrNotFound) {
			t.Errorf("usage of nobody: %v", err)
		}
	})
	t.Run("one container, one snapshot", func(t *testing.T) {
		if _, err := b.snaps.Prepare("c1", m); !errors.Is(err, ErrExists) {
			t.Errorf("prepared twice: %v", err)
		}
		if _, mounted, err := b.snaps.Rootfs("c1"); err != nil || !mounted {
			t.Errorf("the first one is gone: %v", err)
		}
	})
	t.Run("the image may be removed meanwhile", func(t *testing.T) {
		if err := b.images.Remove(m.ID); err != nil {
			t.Fatal(err)
		}
		read(t, filepath.Join(root, "dir/high"), "2")
		if _, err := b.snaps.Prepare("c9", m); err != nil {
			t.Errorf("the layers are still there: %v", err)
		}
	})
	t.Run("removing leaves nothing", func(t *testing.T) {
		for _, id := range []string{"c1", "c2", "c9", "c1", "never"} {
			if err := b.snaps.Remove(id); err != nil {
				t.Error(err)
			}
		}
		if entries, err := os.ReadDir(filepath.Join(b.dir, "snapshots")); err != nil || len(entries) != 0 {
			t.Errorf("left %v, %v", entries, err)
		}
		if mounts := mountsBelow(t, b.dir); len(mounts) != 0 {
			t.Errorf("mounted: %v", mounts)
		}
		if err := b.images.Collect(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.snaps.Prepare("c1", m); err == nil || !strings.Contains(err.Error(), "layer is gone") {
			t.Errorf("prepared from layers that are gone: %v", err)
		}
		if left := b.snaps.List(); len(left) != 0 {
			t.Errorf("a failed one is listed: %v", left)
		}
	})
}

// What a process killed at any moment leaves: mounts go on, and the next process knows them.
func TestSnapshotsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	m := b.load(t, "x:1", []entry{{"f", "1", 0o644}})
	for _, id := range []string{"kept", "orphan", "rebooted", "half"} {
		if _, err := b.snaps.Prepare(id, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "snapshots/rebooted/rootfs/own"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	// As after the machine's restart, and as after a kill before the note was written.
	for _, id := range []string{"rebooted", "half"} {
		if err := unmount(filepath.Join(dir, "snapshots", id, "rootfs")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "snapshots/half/snapshot.json")); err != nil {
		t.Fatal(err)
	}
	if err := b.images.Close(); err != nil {
		t.Fatal(err)
	}

	b = open(t, dir)
	if got := b.snaps.List(); !slices.Equal(got, []string{"half", "kept", "orphan", "rebooted"}) {
		t.Errorf("found %v", got)
	}
	if err := b.images.Remove("x:1"); err != nil {
		t.Fatal(err)
	}
	if err := b.snaps.Reconcile([]string{"kept", "rebooted"}); err != nil {
		t.Fatal(err)
	}
	if got := b.snaps.List(); !slices.Equal(got, []string{"kept", "rebooted"}) {
		t.Errorf("kept %v", got)
	}
	if mounts := mountsBelow(t, dir); len(mounts) != 1 || !strings.HasSuffix(mounts[0], "kept/rootfs") {
		t.Errorf("mounted: %v", mounts)
	}
	root, mounted, err := b.snaps.Rootfs("kept")
	if err != nil || !mounted {
		t.Fatalf("%v, %v", mounted, err)
	}
	read(t, filepath.Join(root, "f"), "1")
	if _, mounted, err := b.snaps.Rootfs("rebooted"); err != nil || mounted {
		t.Errorf("rebooted is mounted: %v, %v", mounted, err)
	}
	if err := b.snaps.Reconcile(nil); err != nil {
		t.Fatal(err)
	}
	if err := b.images.Collect(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(m.Layers[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layer that nobody needs is there: %v", err)
	}
}

// A bind mount that was left in a root file system is not deleted with it, wherever it leads.
func TestRemoveDoesNotReachThroughMounts(t *testing.T) {
	b := open(t, t.TempDir())
	m := b.load(t, "x:1", []entry{{"mnt/", "", 0o755}})
	root, err := b.snaps.Prepare("c", m)
	if err != nil {
		t.Fatal(err)
	}
	precious := t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "f"), []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, filepath.Join(root, "mnt"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.snaps.Remove("c"); err != nil {
		t.Fatal(err)
	}
	read(t, filepath.Join(precious, "f"), "dear")
	if mounts := mountsBelow(t, b.dir); len(mounts) != 0 {
		t.Errorf("mounted: %v", mounts)
	}
}

func TestIDsStayInTheirDirectory(t *testing.T) {
	b := open(t, t.TempDir())
	m := b.load(t, "x:1", []entry{{"f", "1", 0o644}})
	for _, id := range []string{"", ".", "..", "../images", "a/b", ".hidden", "a\x00", strings.Repeat("x", 300)} {
		if _, err := b.snaps.Prepare(id, m); err == nil {
			t.Errorf("prepared %q", id)
		}
		if err := b.snaps.Remove(id); err == nil {
			t.Errorf("removed %q", id)
		}
	}
	if _, ok := b.images.Resolve("x:1"); !ok {
		t.Error("the images are gone")
	}
}

func TestAnImageWithoutLayers(t *testing.T) {
	b := open(t, t.TempDir())
	root, err := b.snaps.Prepare("c", b.load(t, "empty:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "f"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the root is %v, %v", info.Mode(), err)
	}
}

// Each way of mounting, with as many layers as it is for, on paths with every character that options give a meaning.
func TestMountManyLayers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	for name, way := range map[string]struct {
		mount  func(overlay, bool) error
		layers int
	}{"new": {mountNew, 400}, "old": {mountOld, 180}} {
		for kind, base := range map[string]string{"plain": "d", "odd": `a:b,c\d` + strings.Repeat("long", 50)} {
			t.Run(name+" "+kind, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), base)
				o := overlay{upper: filepath.Join(dir, "u"), work: filepath.Join(dir, "w"), target: filepath.Join(dir, "t")}
				for i := range way.layers {
					l := filepath.Join(dir, fmt.Sprintf("layer%d", i))
					if err := os.MkdirAll(l, 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(l, fmt.Sprint("own", i)), nil, 0o644); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(l, "all"), fmt.Append(nil, i), 0o644); err != nil {
						t.Fatal(err)
					}
					o.lower = append(o.lower, l)
				}
				for _, d := range []string{o.upper, o.work, o.target} {
					if err := os.Mkdir(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := way.mount(o, true); err != nil {
					if errors.Is(err, errOldKernel) {
						t.Skip("needs Linux 6.8")
					}
					t.Fatal(err)
				}
				defer func() {
					if err := unmount(o.target); err != nil {
						t.Error(err)
					}
				}()
				entries, err := os.ReadDir(o.target)
				if err != nil || len(entries) != way.layers+1 {
					t.Errorf("%d names of %d, %v", len(entries), way.layers+1, err)
				}
				read(t, filepath.Join(o.target, "all"), "0")
				if err := os.WriteFile(filepath.Join(o.target, "new"), nil, 0o644); err != nil {
					t.Error(err)
				}
				if _, err := os.Lstat(filepath.Join(o.upper, "new")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestMountSaysWhyItCannot(t *testing.T) {
	b := open(t, t.TempDir())
	m := b.load(t, "x:1", []entry{{"f", "1", 0o644}})
	root, err := b.snaps.Prepare("outer", m)
	if err != nil {
		t.Fatal(err)
	}
	inner := open(t, root) // a data directory in a container, on its overlay
	_, err = inner.snaps.Prepare("c", inner.load(t, "y:1", []entry{{"f", "1", 0o644}}))
	if err == nil || !strings.Contains(err.Error(), "can't put one on another overlay; keep the data directory on ext4") {
		t.Errorf("got %v", err)
	}
	if left := inner.snaps.List(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	_ = inner.images.Close()
}

func mountsBelow(t *testing.T, dir string) (all []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			all = append(all, f[4])
		}
	}
	return all
}
