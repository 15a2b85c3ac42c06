package image

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func totalAlloc() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestBuiltinImages(t *testing.T) {
	dir, exe := t.TempDir(), executable(t, "program one")
	s := openStore(t, dir, Options{Executable: exe})
	one, ok1 := s.Resolve("sampan.dev/hello:1")
	two, ok2 := s.Resolve("sampan.dev/hello:2")
	if !ok1 || !ok2 || one.ID == two.ID || one.Layers[0] != two.Layers[0] || !one.Pinned {
		t.Fatalf("there are %+v and %+v", one, two)
	}
	if !slices.Contains(two.Config.Config.Env, "HELLO_VERSION=2") || strings.Join(two.Config.Config.Entrypoint, " ") != "/hello hello" {
		t.Errorf("configured as %+v", two.Config.Config)
	}
	hello := filepath.Join(one.Layers[0], "hello")
	check(t, nil, hello, "program one")
	a, err1 := os.Stat(hello)
	b, err2 := os.Stat(exe)
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Error("the program is there twice, though one file would do")
	}
	if m, err := s.Pull(t.Context(), "sampan.dev/hello:1", Auth{}, nil); err != nil || m.ID != one.ID {
		t.Errorf("pulled %v, %v", m, err)
	}

	t.Run("are there again after they were removed", func(t *testing.T) {
		if err := s.Remove("sampan.dev/hello:1"); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Resolve("sampan.dev/hello:1"); ok {
			t.Error("still there")
		}
		if m, err := s.Pull(t.Context(), "sampan.dev/hello:1", Auth{}, nil); err != nil || m.ID != one.ID || !m.Pinned {
			t.Errorf("pulled %v, %v", m, err)
		}
	})
	t.Run("stay the same while the program does", func(t *testing.T) {
		_ = s.Close()
		s = openStore(t, dir, Options{Executable: exe})
		m, ok := s.Resolve("sampan.dev/hello:1")
		if !ok || m.ID != one.ID {
			t.Errorf("became %v", m)
		}
	})
	t.Run("stay after an upgrade under the names that a person gave them", func(t *testing.T) {
		dir, exe := t.TempDir(), executable(t, "first")
		s := openStore(t, dir, Options{Executable: exe})
		if err := s.Tag("sampan.dev/hello:1", "mine"); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		s = openStore(t, dir, Options{Executable: executable(t, "second")})
		mine, ok := s.Resolve("mine")
		if !ok || len(mine.RepoTags) != 1 || mine.Pinned {
			t.Fatalf("it is %+v", mine)
		}
		check(t, nil, filepath.Join(mine.Layers[0], "hello"), "first")
	})
	t.Run("are others after an upgrade, while what runs keeps the old layer", func(t *testing.T) {
		_ = s.Close()
		if err := os.Remove(exe); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(exe, []byte("program two"), 0o755); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, Options{Executable: exe, InUse: func() []string { return one.Layers }})
		m, ok := s.Resolve("sampan.dev/hello:1")
		if !ok || m.ID == one.ID || m.Layers[0] == one.Layers[0] {
			t.Fatalf("is %v", m)
		}
		check(t, nil, filepath.Join(m.Layers[0], "hello"), "program two")
		check(t, nil, hello, "program one")
		if _, ok := s.Resolve(one.ID); ok {
			t.Error("the old image is there still")
		}
		s.opts.InUse = nil
		if err := s.Collect(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(hello); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old layer is there still: %v", err)
		}
	})
	t.Run("keep the layer that containers run from when the same program is laid down anew", func(t *testing.T) {
		m, _ := s.Resolve("sampan.dev/hello:1")
		before, err := os.Stat(m.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if err := os.Remove(exe); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(exe, []byte("program two"), 0o755); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, Options{Executable: exe})
		again, ok := s.Resolve("sampan.dev/hello:1")
		after, err := os.Stat(m.Layers[0])
		if !ok || again.ID != m.ID || err != nil || !os.SameFile(before, after) {
			t.Errorf("became %v, %v", again, err)
		}
		onlyLayers(t, s, 0)
	})
	t.Run("are others after the file was overwritten in place", func(t *testing.T) {
		old, _ := s.Resolve("sampan.dev/hello:1")
		_ = s.Close()
		if err := os.WriteFile(exe, []byte("program three!"), 0o755); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, Options{Executable: exe})
		m, ok := s.Resolve("sampan.dev/hello:1")
		if !ok || m.ID == old.ID {
			t.Fatalf("is %v", m)
		}
		check(t, nil, filepath.Join(m.Layers[0], "hello"), "program three!")
	})
	t.Run("can be run by everyone though the program may not", func(t *testing.T) {
		_ = s.Close()
		if err := os.Chmod(exe, 0o700); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, t.TempDir(), Options{Executable: exe})
		m, _ := s.Resolve("sampan.dev/hello:2")
		info, err := os.Stat(filepath.Join(m.Layers[0], "hello"))
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("mode is %v, %v", info.Mode(), err)
		}
	})
}

func TestCollectKeepsWhatIsNeeded(t *testing.T) {
	reg := newRegistry(t)
	var used []string
	s := openStore(t, t.TempDir(), Options{InUse: func() []string { return used }})
	push(t, reg.host+"/x", imageOf(t, v1.Config{}, tarOf(t, file("f", "x"))))
	m, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	used = m.Layers
	if err := s.Remove(m.ID); err != nil {
		t.Fatal(err)
	}
	onlyLayers(t, s, 1)
	if err := m.Use(func() error { return nil }); err != nil {
		t.Errorf("layers in use: %v", err)
	}
	used = nil
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	onlyLayers(t, s, 0)
	if err := m.Use(func() error { t.Error("called"); return nil }); err == nil {
		t.Error("layers that are gone were used")
	}
}

// A layer that does not say what its directories are takes that from below, without harm to an image whose layers below
// are others.
func TestImpliedDirectoriesAreThoseBelow(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	home := entry{tar.Header{Name: "home/me", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1000}, ""}
	base := tarOf(t, dir("./", 0o711), dir("tmp", 0o1777), dir("home", 0o755), home, dir("usr", 0o755))
	upper := tarOf(t, file("tmp/f", "1"), file("home/me/f", "2"), file("usr/f", "3"))
	push(t, reg.host+"/over", imageOf(t, v1.Config{}, base, upper))
	push(t, reg.host+"/alone", imageOf(t, v1.Config{}, upper))
	over, err := s.Pull(t.Context(), reg.host+"/over", Auth{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := s.Pull(t.Context(), reg.host+"/alone", Auth{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	modes := func(layer string) (all []string) {
		for _, n := range []string{"tmp", "home", "home/me", "usr"} {
			info, err := os.Lstat(filepath.Join(layer, n))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info.Mode().String())
		}
		return all
	}
	if got := strings.Join(modes(over.Layers[1]), " "); got != "dtrwxrwxrwx drwxr-xr-x drwx------ drwxr-xr-x" {
		t.Errorf("over the base they are %s", got)
	}
	if got := strings.Join(modes(alone.Layers[0]), " "); got != "drwxr-xr-x drwxr-xr-x drwxr-xr-x drwxr-xr-x" {
		t.Errorf("alone they are %s", got)
	}
	if st, _ := os.Lstat(filepath.Join(over.Layers[1], "home/me")); st.Sys().(*unixStat).Uid != 1000 {
		t.Error("the owner is not the one below")
	}
	if over.Root() != over.Layers[0] || over.Size != 3 || readIn(t, over, 1, "home/me/f") != "2" {
		t.Errorf("it is %+v", over)
	}
	onlyLayers(t, s, 3)
	for _, m := range []*Image{over, alone} {
		if err := s.Remove(m.ID); err != nil {
			t.Fatal(err)
		}
	}
	onlyLayers(t, s, 0)
}

func TestAnOpaqueRootHidesAllBelow(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	push(t, reg.host+"/x", imageOf(t, v1.Config{}, tarOf(t, file("old", "")), tarOf(t, file(".wh..wh..opq", ""), file("new", "1"))))
	m, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil)
	if err != nil || len(m.Layers) != 1 || readIn(t, m, 0, "new") != "1" {
		t.Errorf("pulled %+v, %v", m, err)
	}
}

func TestService(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	svc := NewService(s)
	ctx := t.Context()
	img := imageOf(t, v1.Config{User: "1000:1000"}, tarOf(t, file("f", "12345")))
	push(t, reg.host+"/x:1", img)
	spec := &runtimeapi.ImageSpec{Image: reg.host + "/x:1"}

	if r, err := svc.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec}); err != nil || r.Image != nil {
		t.Errorf("before pulling: %v, %v", r, err)
	}
	pulled, err := svc.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec})
	if err != nil || pulled.ImageRef != idOf(t, img) {
		t.Fatalf("pulled %v, %v", pulled, err)
	}
	st, err := svc.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec, Verbose: true})
	if err != nil || st.Image.Id != pulled.ImageRef || st.Image.Size != 5 || st.Image.Uid.GetValue() != 1000 || st.Image.Username != "" || !strings.Contains(st.Info["info"], `"imageSpec"`) {
		t.Errorf("status is %v, %v", st, err)
	}
	list, err := svc.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.Images) != 3 {
		t.Errorf("listed %v, %v", list, err)
	}
	list, err = svc.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec}})
	if err != nil || len(list.Images) != 1 {
		t.Errorf("listed %v, %v", list, err)
	}
	info, err := svc.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) != 1 || info.ImageFilesystems[0].UsedBytes.Value < 5 || info.ImageFilesystems[0].FsId.Mountpoint != s.dir {
		t.Errorf("file system is %v, %v", info, err)
	}
	if _, err := svc.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: pulled.ImageRef}}); err != nil {
		t.Error(err)
	}
	if r, err := svc.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec}); err != nil || r.Image != nil {
		t.Errorf("after removing: %v, %v", r, err)
	}
	if _, err := svc.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "No Name"}}); err == nil || err.Error() != `rpc error: code = InvalidArgument desc = couldn't parse image name "No Name": invalid reference format` {
		t.Errorf("got %v", err)
	}
}

type imageStream struct {
	runtimeapi.ImageService_StreamImagesServer
	got []string
}

func (s *imageStream) Send(r *runtimeapi.StreamImagesResponse) error {
	if len(r.Images) == 0 {
		return errors.New("an empty message")
	}
	for _, m := range r.Images {
		s.got = append(s.got, m.Id)
	}
	return nil
}

func TestStreamImages(t *testing.T) {
	s := newStore(t)
	stream := &imageStream{}
	if err := NewService(s).StreamImages(&runtimeapi.StreamImagesRequest{}, stream); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range s.List() {
		want = append(want, m.ID)
	}
	if !slices.Equal(stream.got, want) || len(want) != 2 {
		t.Errorf("sent %v, want %v", stream.got, want)
	}
}

func TestDamagedNamesDoNotKeepTheNodeDown(t *testing.T) {
	dir, exe := t.TempDir(), executable(t, "x")
	s := openStore(t, dir, Options{Executable: exe})
	if err := s.Tag("sampan.dev/hello:1", "mine"); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if err := os.WriteFile(filepath.Join(dir, "names.json"), []byte(`{"docker.io/library/mine:latest":"sh`), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{Executable: exe})
	if _, ok := s.Resolve("mine"); ok {
		t.Error("a name was read from a damaged file")
	}
	if _, ok := s.Resolve("sampan.dev/hello:1"); !ok {
		t.Error("the built-in image is gone")
	}
}

func TestTag(t *testing.T) {
	s := newStore(t)
	if err := s.Tag("sampan.dev/hello:1", "mine"); err != nil {
		t.Fatal(err)
	}
	if m, ok := s.Resolve("mine:latest"); !ok || !slices.Contains(m.RepoTags, "docker.io/library/mine:latest") {
		t.Errorf("it is %v", m)
	}
	if err := s.Tag("none", "x"); code(err).String() != "NotFound" {
		t.Errorf("tagging what is not there: %v", err)
	}
	for _, name := range []string{"x@" + someDigest, "sampan.dev/hello:9", "No"} {
		if err := s.Tag("mine", name); err == nil {
			t.Errorf("%s was given", name)
		}
	}
}
