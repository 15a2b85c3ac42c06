package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/test/images"
)

// Environment of the test's own processes.
const (
	asRuntime = "SAMPAN_TEST_RUNTIME" // be sampan-runtime
	archive   = "SAMPAN_TEST_ARCHIVE" // run the tests, with busybox from this file
)

// TestMain runs the tests inside mount and network namespaces of their own, with no way out, and is the runtime too.
func TestMain(m *testing.M) {
	if os.Getenv(asRuntime) != "" || len(os.Args) > 1 && (os.Args[1] == "init" || os.Args[1] == "pause" || os.Args[1] == "hello") {
		main()
		return
	}
	if os.Getenv(archive) != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cache, err := images.Open("")
	if err != nil {
		panic(err)
	}
	path, err := cache.Archive(context.Background(), images.Busybox)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), archive+"="+path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

// world is one runtime and a client of it.
type world struct {
	t      *testing.T
	dir    string
	parent string
	cmd    *exec.Cmd
	log    bytes.Buffer
	conn   *grpc.ClientConn
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
}

func newWorld(t *testing.T) *world {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sr") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, parent: fmt.Sprintf("/sampan-test-rt%d", os.Getpid())}
	w.start()
	t.Cleanup(w.end)
	w.load(os.Getenv(archive), "busybox:latest")
	if _, err := w.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.8.0.0/24"}},
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) start() {
	w.t.Helper()
	w.cmd = exec.Command("/proc/self/exe", "--root", w.path("root"), "--state", w.path("run"), "--socket", w.path("run/runtime.sock"),
		"--cgroup-parent", w.parent, "--bridge", "sprt", "--log-level", "debug")
	w.cmd.Env = append(os.Environ(), asRuntime+"=1")
	w.cmd.Stdout, w.cmd.Stderr = &w.log, &w.log
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+w.path("run/runtime.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.conn, w.RuntimeServiceClient, w.images = conn, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	for {
		v, err := w.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil && v.RuntimeName == "sampan" && v.RuntimeApiVersion == "v1" {
			return
		}
		if ctx.Err() != nil {
			w.t.Fatalf("the runtime does not serve: %v\n%s", err, w.log.String())
		}
		conn.ResetConnectBackoff()
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) stop(sig syscall.Signal) {
	_ = w.conn.Close()
	_ = w.cmd.Process.Signal(sig)
	_ = w.cmd.Wait()
}

// end stops all, and looks for what is left.
func (w *world) end() {
	t := w.t
	defer func() {
		if t.Failed() {
			t.Logf("the runtime's log:\n%s", w.log.String())
		}
	}()
	ctx := context.Background()
	list, err := w.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Error(err)
	}
	for _, p := range list.GetItems() {
		if _, err := w.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Error(err)
		}
	}
	w.stop(syscall.SIGTERM)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, w.dir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		if l.Attrs().Name == "sprt" {
			_ = netlink.LinkDel(l)
		} else if l.Attrs().Name != "lo" {
			t.Errorf("a link is left: %s", l.Attrs().Name)
		}
	}
	for _, hierarchy := range []string{"", "*"} { // version 2, version 1
		parents, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, w.parent))
		for _, parent := range parents {
			pods, _ := os.ReadDir(parent)
			for _, pod := range pods {
				// A pod's own group is the caller's to remove; that fails if a container has left one in it.
				if pod.IsDir() {
					if err := os.Remove(filepath.Join(parent, pod.Name())); err != nil {
						t.Errorf("a control group is left: %v", err)
					}
				}
			}
			_ = os.Remove(parent)
		}
	}
	for _, sub := range []string{"sandboxes", "containers-cri", "containers", "snapshots"} {
		if left, _ := os.ReadDir(filepath.Join(w.dir, "root", sub)); len(left) > 0 {
			t.Errorf("left in %s: %v", sub, left)
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Error(err)
	}
}

// load sends an image to the admin socket.
func (w *world) load(path, name string) {
	w.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.path("run/runtime-admin.sock"))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Post("http://runtime/load?name="+name, "application/x-tar", f)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(answer), `"loaded"`) {
		w.t.Fatalf("load: %v %s", err, answer)
	}
}

func (w *world) config(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "u-" + name}, Hostname: name,
		LogDirectory: w.path("logs/" + name), Labels: map[string]string{"app": name},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    w.parent + "/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
		},
	}
}

func (w *world) pod(config *runtimeapi.PodSandboxConfig) string {
	w.t.Helper()
	r, err := w.RunPodSandbox(w.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.PodSandboxId
}

func shell(name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "busybox:latest"},
		Command: []string{"sh", "-c", script}, LogPath: name + ".log", Labels: map[string]string{"name": name},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			MaskedPaths:      []string{"/proc/kcore", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/sys"},
		}},
	}
}

func (w *world) create(pod string, sandbox *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig) string {
	w.t.Helper()
	c, err := w.CreateContainer(w.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		w.t.Fatal(err)
	}
	return c.ContainerId
}

func (w *world) run(pod string, sandbox *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig) string {
	w.t.Helper()
	id := w.create(pod, sandbox, config)
	if _, err := w.StartContainer(w.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// sh runs a script in a container and gives what it wrote.
func (w *world) sh(id, script string) string {
	w.t.Helper()
	r, err := w.ExecSync(w.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 20})
	if err != nil {
		w.t.Fatalf("exec %q: %v", script, err)
	}
	if r.ExitCode != 0 {
		w.t.Errorf("exec %q: exit code %d: %s", script, r.ExitCode, r.Stderr)
	}
	return string(r.Stdout)
}

func (w *world) status(id string) (*runtimeapi.ContainerStatus, int) {
	w.t.Helper()
	r, err := w.ContainerStatus(w.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		w.t.Fatal(err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		w.t.Fatal(err)
	}
	return r.Status, info.PID
}
