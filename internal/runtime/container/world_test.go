package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/hold"
	"sampan.dev/test/images"
)

// Environment of the test's own processes.
const (
	asManager = "SAMPAN_TEST_MANAGER" // look after the containers in this directory until killed
	rootfs    = "SAMPAN_TEST_ROOTFS"  // run the tests, with busybox in this directory
)

// TestMain runs the tests inside mount and network namespaces of their own, with no way out.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "init":
		Init()
	case len(os.Args) > 1 && os.Args[1] == "hold":
		os.Exit(hold.Main(os.Args[2:]))
	case os.Getenv(asManager) != "":
		manage(os.Getenv(asManager))
	case os.Getenv(rootfs) != "" || os.Getuid() != 0:
		os.Exit(m.Run())
	default:
		os.Exit(inside())
	}
}

func inside() int {
	dir, err := os.MkdirTemp("", "sampan-root")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	cache, err := images.Open("")
	if err != nil {
		panic(err)
	}
	img, err := cache.Image(context.Background(), images.Busybox)
	if err != nil {
		panic(err)
	}
	tar := exec.Command("tar", "-x", "-C", dir)
	tar.Stdin, tar.Stderr = mutate.Extract(img), os.Stderr
	if err := tar.Run(); err != nil {
		panic(err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), rootfs+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		return 1
	}
	return 0
}

func openIn(dir string) (*Manager, error) {
	return Open(Config{
		Dir: filepath.Join(dir, "containers"), RunDir: filepath.Join(dir, "run"),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// manage is a manager to be killed. It starts what is not started yet.
func manage(dir string) {
	m, err := openIn(dir)
	if err != nil {
		panic(err)
	}
	for _, id := range m.IDs() {
		if s, _ := m.State(id); s.Status == Created {
			if err := m.Start(context.Background(), id); err != nil {
				panic(err)
			}
		}
	}
	fmt.Println("ready")
	select {}
}

// world is a manager and its directory.
type world struct {
	t *testing.T
	*Manager
	dir, group string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w := &world{t: t, dir: t.TempDir(), group: fmt.Sprintf("/sampan-test-ct%d", os.Getpid())}
	w.open()
	t.Cleanup(w.end)
	return w
}

func (w *world) open() {
	w.t.Helper()
	m, err := openIn(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Manager = m
}

// end removes all, and looks for what is left.
func (w *world) end() {
	for _, id := range w.IDs() {
		if err := w.Remove(context.Background(), id); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
	for _, dir := range []string{"containers", "run/libcontainer"} {
		if left, _ := os.ReadDir(filepath.Join(w.dir, dir)); len(left) > 0 {
			w.t.Errorf("left in %s: %v", dir, left)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(w.dir, "run")); len(left) != 2 { // libcontainer, boot
		w.t.Errorf("left in run: %v", left)
	}
	for _, hierarchy := range []string{"", "*"} {
		groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, w.group))
		for _, group := range groups {
			if err := os.Remove(group); err != nil { // it fails if there is one inside
				w.t.Errorf("a control group is left: %v", err)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), w.dir) {
		w.t.Errorf("mounts are left: %v", err)
	}
}

// child makes a manager in a process of its own, which looks after the containers once it has said so.
func (w *world) child() *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asManager+"="+w.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		w.t.Fatalf("manager: %v", err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func (w *world) spec(script string) Spec {
	id := make([]byte, 32)
	_, _ = rand.Read(id)
	s := Spec{
		ID: hex.EncodeToString(id), Rootfs: os.Getenv(rootfs), ReadonlyRootfs: true, Args: []string{"sh", "-c", script},
		Env: []string{"PATH=/bin:/usr/bin", "WORD=boat"}, Cwd: "/", Capabilities: DefaultCapabilities(), Seccomp: DefaultSeccomp(DefaultCapabilities()),
		MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}, Resources: &runtimeapi.LinuxContainerResources{},
	}
	s.CgroupPath = filepath.Join(w.group, s.ID)
	s.LogPath = filepath.Join(w.dir, "logs", s.ID)
	return s
}

func (w *world) create(s Spec) string {
	w.t.Helper()
	if _, err := w.Create(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
	return s.ID
}

func (w *world) run(s Spec) string {
	w.t.Helper()
	w.create(s)
	if err := w.Start(w.t.Context(), s.ID); err != nil {
		w.t.Fatal(err)
	}
	return s.ID
}

// ended waits for a container's end.
func (w *world) ended(id string) State {
	w.t.Helper()
	c, err := w.get(id)
	if err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		w.t.Fatal("it does not end")
	}
	return c.now()
}

// said gives one stream of a container's log as it was written.
func (w *world) said(id, stream string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "logs", id))
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			w.t.Fatalf("broken line %q", line)
		}
		if f[1] == stream {
			b.WriteString(f[3])
			if f[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// await waits until a container has said something.
func (w *world) await(id, text string) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(w.dir, "logs", id))
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(string(data), " F "+text+"\n") {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("it does not say %q", text)
		}
	}
}
