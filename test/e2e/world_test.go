// Package e2e runs the built program, with real containers, as a person would.
//
// Its tests need root and bin/sampan (SAMPAN_BIN names another directory). Always: everything happens in one network namespace and one mount
// namespace made for the run, with no way out, and nothing is left when it ends.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
	"sampan.dev/test/images"
)

// inside marks the process that runs in the namespaces.
const inside = "SAMPAN_E2E_INSIDE"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "skipped: containers need root")
		os.Exit(0)
	}
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this program again in namespaces of its own. What comes from the network is fetched before: there is none inside.
func enter() int {
	store, err := images.Open("")
	if err == nil {
		err = store.Fill(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: tests that need these images will fail:", err)
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is of the thread
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return 0
}

func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	// A test that asks 127.0.0.1 hundreds of times a second would get ports again after a second, while the kernel still remembers the pod, gone since,
	// that the last connection from there went to (nf_conntrack's TIME_WAIT).
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("0"), 0o644); err != nil {
		return fmt.Errorf("keep ports of connections that have ended: %w", err)
	}
	return nil
}

// bin returns the directory of the built programs.
func bin(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SAMPAN_BIN")
	if dir == "" {
		dir, _ = filepath.Abs("../../bin")
	}
	if _, err := os.Stat(filepath.Join(dir, "sampan")); err != nil {
		t.Fatalf("bin/sampan is not built: run make build (%v)", err)
	}
	return dir
}

// cluster is one data directory, and the person at its keyboard.
type cluster struct {
	t    testing.TB
	dir  string
	args []string // of up, beside --data-dir
	on   *machine // where it runs; nil: in the run's own network namespace
}

// ids are those of all clusters that this run has started.
var (
	ids   []string
	idsMu sync.Mutex
)

// remember adds to them.
func remember(id string) {
	idsMu.Lock()
	defer idsMu.Unlock()
	ids = append(ids, id)
}

// newCluster starts a cluster that the test's end removes. With a number above zero it takes ports and ranges of its own.
func newCluster(t testing.TB, number int, flags ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "data")}
	inst, err := instance.At(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	remember(inst.ID)
	c.args = []string{"--merge-kubeconfig=false", "--log-level=info", "--node-name=node"}
	if number > 0 {
		c.args = append(c.args, fmt.Sprintf("--api-port=%d", 6443+number), fmt.Sprintf("--node-port=%d", 10250+number),
			fmt.Sprintf("--pod-range=10.%d.0.0/16", 100+number), fmt.Sprintf("--service-range=10.%d.0.0/16", 200+number))
	}
	c.args = append(c.args, flags...)
	t.Cleanup(func() {
		if t.Failed() {
			c.evidence()
		}
		if out, err := c.command(context.Background(), "reset").CombinedOutput(); err != nil {
			t.Errorf("reset: %v\n%s", err, out)
		}
	})
	c.up()
	return c
}

func (c *cluster) up() {
	c.t.Helper()
	c.sampan(append([]string{"up", "--detach"}, c.args...)...)
}

// evidence prints what a person would look at after a failure.
func (c *cluster) evidence() {
	for _, args := range [][]string{{"get", "pods,events", "-A", "-o", "wide"}, {"describe", "pods", "-A"}} {
		out, _ := c.command(context.Background(), append([]string{"kubectl"}, args...)...).CombinedOutput()
		c.t.Logf("kubectl %s:\n%s", strings.Join(args, " "), out)
	}
	for _, name := range []string{"sampan.log", "runtime.log"} {
		data, _ := os.ReadFile(filepath.Join(c.dir, "logs", name))
		if len(data) > 8000 {
			data = data[len(data)-8000:]
		}
		c.t.Logf("%s:\n%s", name, data)
	}
}

// command is `sampan WORD --data-dir DIR ...`.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{args[0], "--data-dir=" + c.dir}, args[1:]...)
	if args[0] == "image" { // its subcommand stands before the flag's place
		args[0], args[1], args[2] = "image", args[2], args[1]
	}
	words := append([]string{filepath.Join(bin(c.t), "sampan")}, args...)
	if c.on != nil {
		words = c.on.words(words...)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(c.dir), "KUBECONFIG=")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// try runs a command and returns what it wrote and whether it failed.
func (c *cluster) try(args ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs strings.Builder
	cmd := c.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("sampan %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (c *cluster) sampan(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.sampan(append([]string{"kubectl"}, args...)...)
}

// apply applies a manifest that is written in the test.
func (c *cluster) apply(manifest string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := c.command(ctx, "kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("apply: %v\n%s\n%s", err, out, manifest)
	}
}

func (c *cluster) waitReady(pods ...string) {
	c.t.Helper()
	for _, pod := range pods {
		c.kubectl("wait", "--for=condition=Ready", "pod/"+pod, "--timeout=60s")
	}
}

// field reads one field of a pod by JSONPath.
func (c *cluster) field(pod, path string) string {
	c.t.Helper()
	return c.kubectl("get", "pod", pod, "-o", "jsonpath={"+path+"}")
}

// eventually waits until what a pod's field says is what is wanted, by watching.
func (c *cluster) eventually(pod, path, want string) {
	c.t.Helper()
	c.kubectl("wait", "--for=jsonpath={"+path+"}="+want, "pod/"+pod, "--timeout=90s")
}

// load brings a test image onto the node.
func (c *cluster) load(archive string) {
	c.t.Helper()
	c.sampan("image", "load", archive)
}

func (c *cluster) pid(process string) int {
	c.t.Helper()
	out, _ := c.try("status", "-o", "json") // fails while the node is not Ready
	_, rest, found := strings.Cut(out, `"name": "`+process+`"`)
	var pid int
	if found {
		_, rest, _ = strings.Cut(rest, `"pid": `)
		fmt.Sscanf(rest, "%d", &pid)
	}
	if pid == 0 {
		c.t.Fatalf("%s does not run:\n%s", process, out)
	}
	return pid
}

// kill ends one of the cluster's own processes with SIGKILL and waits until it has gone.
func kill(t testing.TB, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("open process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// get asks a pod over HTTP from the node.
func get(t testing.TB, url string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			return string(body)
		}
		last = err
	}
	t.Fatalf("get %s: %v", url, last)
	return ""
}

func contains(t testing.TB, what, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%s does not say %q:\n%s", what, want, text)
	}
}
