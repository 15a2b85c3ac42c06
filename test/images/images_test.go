package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/runtime/image"
	"sampan.dev/internal/runtime/snapshot"
)

// inside runs the calling test again in mount, network and process namespaces of its own, and says whether this is the one inside.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("IMAGES_TEST_INSIDE") == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs images")
	}
	for _, image := range All { // made outside, where the network is
		Archive(t, image)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "IMAGES_TEST_INSIDE="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Cloneflags: syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// rootOf loads an image as the runtime does and mounts a root file system of it, with devices and processes.
func rootOf(t *testing.T, name string) (string, *image.Image) {
	t.Helper()
	dir := t.TempDir()
	snaps, err := snapshot.Open(filepath.Join(dir, "snapshots"), nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(filepath.Join(dir, "images"), image.Options{InUse: snaps.Layers})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(Archive(t, name))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	all, err := store.Load(t.Context(), archive, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := snaps.Prepare("test", all[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(filepath.Join(root, "proc"), unix.MNT_DETACH), unix.Unmount(filepath.Join(root, "dev"), unix.MNT_DETACH),
			snaps.Remove("test"), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return root, all[0]
}

// command is a command in a root file system.
func command(ctx context.Context, root string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Err = nil // it is looked for inside
	cmd.Dir = "/"
	cmd.Env = []string{searchPath}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	return cmd
}

func TestNginxServesItsPage(t *testing.T) {
	if !inside(t) {
		return
	}
	root, img := rootOf(t, Nginx)
	want, err := os.ReadFile(filepath.Join(root, "usr/share/nginx/html/index.html"))
	if err != nil || !bytes.Contains(want, []byte("<title>Welcome to nginx!</title>")) {
		t.Fatalf("its page is %q, %v", want, err)
	}
	if got := strings.Join(img.Config.Config.Cmd, " "); got != "nginx -g daemon off;" {
		t.Errorf("it starts as %q", got)
	}
	var log bytes.Buffer
	cmd := command(t.Context(), root, append([]string{"/usr/sbin/nginx"}, img.Config.Config.Cmd[1:]...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	body, err := eventually(t.Context(), "http://127.0.0.1:80/")
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !bytes.Equal(body, want) {
		t.Errorf("it serves %q", body)
	}
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	access, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, &log)
	}
	if !strings.Contains(string(access), `"GET / HTTP/1.1" 200`) {
		t.Errorf("its log is %q", access)
	}
}

// eventually asks until something answers, as long as the test may run.
func eventually(ctx context.Context, url string) ([]byte, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			return io.ReadAll(resp.Body)
		}
		var op *net.OpError
		if !errors.As(err, &op) || !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestBusyboxHasAShell(t *testing.T) {
	if !inside(t) {
		return
	}
	root, _ := rootOf(t, Busybox)
	cmd := command(t.Context(), root, "/bin/sh", "-c", "id -u nobody; ls -ld /tmp | cut -c1-10; echo a b | awk '{print $2}'; env true && echo yes")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "65534\ndrwxrwxrwt\nb\nyes\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestTestprog(t *testing.T) {
	if !inside(t) {
		return
	}
	root, img := rootOf(t, Testprog)
	if got := strings.Join(img.Config.Config.Entrypoint, " "); got != "/testprog" {
		t.Errorf("it starts as %q", got)
	}
	cmd := command(t.Context(), root, "/testprog", "print:hi", "write:/tmp/f:text", "read:/tmp/f", "print:", "lines:2", "listen:8080", "get:http://127.0.0.1:8080/x", "eat:2", "exit:3")
	out, err := cmd.Output()
	host, _ := os.Hostname()
	want := fmt.Sprintf("hi\ntext\nline 1\nline 2\nlistening on [::]:8080\n200 OK\n%s /x\nate 2 MiB\n", host)
	if cmd.ProcessState.ExitCode() != 3 || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
}

func TestServeAndPull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: layers keep their owners")
	}
	host := Serve(t, Nginx, Nginx110, Busybox)
	store, err := image.Open(t.TempDir(), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ids := map[string]bool{}
	for _, name := range []string{Nginx, Nginx110, Busybox} {
		m, err := store.Pull(t.Context(), host+"/"+name, image.Auth{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[m.ID] = true
	}
	if len(ids) != 3 {
		t.Errorf("three names mean %d images", len(ids))
	}
}

func TestArchivesAreCachedAndWhole(t *testing.T) {
	path := Archive(t, Busybox)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if again := Archive(t, Busybox); again != path {
		t.Errorf("made anew as %s", again)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("written again: %v", err)
	}
	cache, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Archive(t.Context(), "none:1"); err == nil || !strings.Contains(err.Error(), "none of that name") {
		t.Errorf("got %v", err)
	}
}

func TestWriteBothForms(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: layers keep their owners")
	}
	cache, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := cache.WriteArchive(t.Context(), filepath.Join(dir, "all.tar"), Nginx, Nginx110, Busybox); err != nil {
		t.Fatal(err)
	}
	if err := cache.WriteLayout(t.Context(), filepath.Join(dir, "layout"), Nginx, Nginx110, Busybox); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"all.tar", "layout"} {
		store, err := image.Open(t.TempDir(), image.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if form == "layout" {
			_, err = store.LoadLayout(t.Context(), filepath.Join(dir, form), "", nil)
		} else {
			f, e := os.Open(filepath.Join(dir, form))
			if e != nil {
				t.Fatal(e)
			}
			defer f.Close()
			_, err = store.Load(t.Context(), f, "", nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{Nginx, Nginx110, Busybox, "docker.io/library/nginx"} {
			if _, ok := store.Resolve(name); !ok {
				t.Errorf("%s lacks %s", form, name)
			}
		}
	}
}
