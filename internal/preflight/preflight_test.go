package preflight

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPortThatIsTakenNamesItsHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	for _, addr := range []netip.AddrPort{taken, netip.AddrPortFrom(netip.IPv4Unspecified(), taken.Port())} {
		holder, ok := heldBy("/", addr)
		if want := fmt.Sprintf("(pid %d)", os.Getpid()); !ok || !strings.HasSuffix(holder, want) {
			t.Errorf("%v is held by %q (%v), want %s", addr, holder, ok, want)
		}
	}
	other := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), taken.Port())
	if holder, ok := heldBy("/", other); ok {
		t.Errorf("%v is said to be held by %s", other, holder)
	}
}

func TestAMachineThatLacksThings(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("the first thing missing is root")
	}
	write("proc/sys/kernel/osrelease", "4.19.0-foo\n")
	write("proc/filesystems", "nodev\tproc\n\text4\n")
	write("sys/fs/cgroup/cgroup.controllers", "cpu io\n")
	got := strings.Join(check(Want{}, root), "\n")
	for _, want := range []string{"the kernel is 4.19", "no overlay file system", "no memory controller", "no pids controller", "no net namespaces"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not said:\n%s", want, got)
		}
	}
	if strings.Contains(got, "no cpu controller") {
		t.Errorf("the cpu controller is there:\n%s", got)
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1")
	f.Add("0: 00000000000000000000000001000000:0050 0:0 0A 0 0 0 0 0 9")
	f.Fuzz(func(t *testing.T, line string) { listening(line) })
}
