package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/network"
)

// TestMain runs everything again inside mount and network namespaces of its own, with no way out.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		os.Exit(Pause())
	}
	if os.Getenv("SAMPAN_INSIDE") != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "SAMPAN_INSIDE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

type world struct {
	t      *testing.T
	dir    string
	parent string
	net    *network.Network
	*Manager
}

func (w *world) reopen() {
	w.t.Helper()
	var err error
	w.net, err = network.Open(network.Config{Dir: filepath.Join(w.dir, "net"), Bridge: "sptest", Log: slog.Default()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.net.Close)
	w.Manager, err = Open(context.Background(), Config{
		Dir: filepath.Join(w.dir, "disk"), RunDir: filepath.Join(w.dir, "run"), CgroupParent: w.parent, Network: w.net, Log: slog.Default(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, family := range []string{"ipv4", "ipv6"} { // pods of one node reach each other by it; this namespace is the test's own
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, dir: t.TempDir(), parent: fmt.Sprintf("/sampan-test-%d", os.Getpid())}
	w.reopen()
	t.Cleanup(func() {
		for _, s := range w.List() {
			w.end(s.ID)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if left := mountsBelow(t, w.dir); len(left) > 0 {
			t.Errorf("mounts are left: %v", left)
		}
		if link, err := netlink.LinkByName("sptest"); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	if err := w.net.SetCIDR(network.Ranges{IPv4: netip.MustParsePrefix("10.9.0.0/24"), IPv6: netip.MustParsePrefix("fd00:9::/64")}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) end(id string) {
	w.t.Helper()
	for range 2 { // once more changes nothing
		if err := w.Stop(context.Background(), id, func() error { return nil }); err != nil {
			w.t.Error(err)
		}
	}
	for range 2 {
		if err := w.Remove(id); err != nil {
			w.t.Error(err)
		}
	}
}

func mountsBelow(t *testing.T, dir string) (found []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found
}

func pod(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "u-" + name}, Hostname: name,
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			Sysctls:         map[string]string{"net.ipv4.ip_local_port_range": "2000 3000", "kernel.shm_rmid_forced": "1"},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
		},
	}
}

func id(c string) string { return strings.Repeat(c, 64) }

func TestPodsReachEachOtherAndOutliveTheManager(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	a, err := w.Run(ctx, id("a"), pod("a"), "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.Run(ctx, id("b"), pod("b"), "")
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(a.IPs, b.IPs) != "[10.9.0.2 fd00:9::2] [10.9.0.3 fd00:9::3]" {
		t.Fatalf("addresses: %v %v", a.IPs, b.IPs)
	}
	if _, err := w.Run(ctx, id("c"), pod("a"), ""); !errors.Is(err, ErrExists) {
		t.Errorf("a pod twice: %v", err)
	}
	conf, err := os.ReadFile(w.ResolvConf(a))
	if err != nil || string(conf) != "search a b\nnameserver 10.96.0.10\noptions ndots:5\n" {
		t.Errorf("resolv.conf: %q, %v", conf, err)
	}

	w.reopen() // as after kill -9

	again, err := w.Get(a.ID)
	if err != nil || !again.Ready || !slices.Equal(again.IPs, a.IPs) || again.Config.GetHostname() != "a" {
		t.Fatalf("after opening again: %+v, %v", again, err)
	}
	var l net.Listener
	err = InNetwork(w.Namespace(a, "net"), func() (err error) {
		if got, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err != nil || string(got) != "2000\t3000\n" {
			t.Errorf("sysctl: %q, %v", got, err)
		}
		l, err = net.Listen("tcp", ":80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, from := range []string{"", w.Namespace(b, "net"), w.Namespace(a, "net")} {
		err := InNetwork(from, func() error {
			for _, to := range []string{"10.9.0.2:80", "[fd00:9::2]:80"} {
				c, err := net.Dial("tcp", to)
				if err != nil {
					return err
				}
				c.Close()
			}
			return nil
		})
		if err != nil {
			t.Errorf("dial from %q: %v", from, err)
		}
	}
	err = OnThread(func() error {
		f, err := os.Open(w.Namespace(a, "uts"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWUTS); err != nil {
			return err
		}
		if name, err := os.Hostname(); err != nil || name != "a" {
			t.Errorf("host name: %q, %v", name, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	w.end(a.ID)
	if _, err := w.Get(a.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	if _, err := netlink.LinkByName(network.LinkName(a.ID)); err == nil {
		t.Error("the link is left")
	}
	if c, err := w.Run(ctx, id("c"), pod("a"), ""); err != nil || c.IPs[0].String() != "10.9.0.4" {
		t.Errorf("the next pod: %+v, %v", c, err)
	}
}

func TestAPodWithoutItsPinsIsNotReady(t *testing.T) {
	w := newWorld(t)
	s, err := w.Run(context.Background(), id("a"), pod("a"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(w.Namespace(s, "ipc"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	if got, err := w.Get(s.ID); err != nil || got.Ready {
		t.Errorf("got %+v, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "run")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := netlink.LinkByName(network.LinkName(s.ID)); err == nil {
		t.Error("the link is left")
	}
}

func TestAFailedPodLeavesNothing(t *testing.T) {
	w := newWorld(t)
	config := pod("a")
	config.Linux.Sysctls = map[string]string{"kernel.panic": "1"}
	if _, err := w.Run(context.Background(), id("a"), config, ""); err == nil || !strings.Contains(err.Error(), "kernel.panic") {
		t.Fatalf("got %v", err)
	}
	for _, dir := range []string{"run", "disk"} {
		if left, err := os.ReadDir(filepath.Join(w.dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	if _, err := w.Run(context.Background(), id("b"), pod("a"), ""); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestASharedProcessNamespaceHasAPauseThatReachesNoFile(t *testing.T) {
	w := newWorld(t)
	config := pod("a")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	s, err := w.Run(context.Background(), id("a"), config, "")
	if err != nil {
		t.Fatal(err)
	}
	group, err := w.pauseGroup(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, hierarchy := range []string{"", "*"} { // version 2, version 1
			dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, w.parent))
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		}
	})
	pids, err := group.GetPids()
	if err != nil || len(pids) != 1 {
		t.Fatalf("pause: %v, %v", pids, err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(pids[0]))
	if entries, err := os.ReadDir(filepath.Join(proc, "root")); err != nil || len(entries) > 0 {
		t.Errorf("pause reaches %v, %v", entries, err)
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil || !strings.Contains(string(status), "CapPrm:\t0000000000000000") || !strings.Contains(string(status), "Uid:\t65535") {
		t.Errorf("pause may too much: %s, %v", status, err)
	}
	for _, ns := range []string{"net", "uts", "ipc", "pid"} {
		a, errA := os.Stat(filepath.Join(proc, "ns", ns))
		b, errB := os.Stat(w.Namespace(s, ns))
		if errA != nil || errB != nil || !os.SameFile(a, b) {
			t.Errorf("pause's %s namespace is not the pod's: %v %v", ns, errA, errB)
		}
	}
	w.reopen()
	if got, _ := w.Get(s.ID); !got.Ready {
		t.Error("not ready after opening again")
	}
	w.end(s.ID)
	if group.Exists() {
		t.Error("pause's control group is left")
	}
}
