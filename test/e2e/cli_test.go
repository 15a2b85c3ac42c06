package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sampan.dev/test/images"
)

func TestUpSaysWhatIsInItsWay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "data")}
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"a port that is taken", []string{"up"}, fmt.Sprintf("port 6443, which the API needs, is taken by e2e.test (pid %d)", os.Getpid())},
		{"a name that is none", []string{"up", "--node-name=Not_A_Name"}, "--node-name"},
		{"ranges that overlap", []string{"up", "--pod-range=10.0.0.0/8", "--service-range=10.96.0.0/16"}, "overlaps"},
		{"a range that is none", []string{"up", "--pod-range=ten"}, `"ten" is not a range`},
		{"an unknown flag", []string{"up", "--prot=1"}, "unknown flag: --prot"},
		{"down of nothing", []string{"down"}, "there is no cluster in"},
		{"kubectl of nothing", []string{"kubectl", "get", "pods"}, "there is no cluster in"},
		{"images of nothing", []string{"image", "ls"}, "nothing runs on"},
	}
	for _, tc := range cases {
		_, err := c.try(tc.args...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := os.Stat(filepath.Join(c.dir, "store")); err == nil {
		t.Error("a start that was refused has made a store")
	}
	if out, err := c.try("status"); err == nil || !strings.Contains(out, "There is no cluster in") {
		t.Errorf("status of nothing: %v\n%s", err, out)
	}
}

func TestSecretsAreTheOwnersAloneAndStrangersSeeNothing(t *testing.T) {
	c := newCluster(t, 0)
	for _, name := range []string{"kubeconfig", "pki/ca.key", "pki/admin.key", "store"} {
		info, err := os.Stat(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode().Perm())
		}
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	ask := func(url string) (int, string) {
		resp, err := stranger.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for path, want := range map[string]int{"/version": 200, "/healthz": 200, "/livez": 200, "/readyz": 200, "/api/v1/pods": 403, "/api/v1/secrets": 403, "/metrics": 403, "/openapi/v2": 403} {
		if code, text := ask("https://127.0.0.1:6443" + path); code != want {
			t.Errorf("a stranger's %s gets %d, want %d: %s", path, code, want, text)
		}
	}
	if code, text := ask("https://127.0.0.1:10250/pods"); code != 401 {
		t.Errorf("the node tells a stranger of its pods: %d %s", code, text)
	}
}

func TestResetAfterEverythingWasKilledLeavesNothing(t *testing.T) {
	before := leftBehind(t)
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(counter)
	c.waitReady("counter")
	kill(t, c.pid("sampan-runtime"))
	kill(t, c.pid("sampan"))
	c.sampan("reset")
	if after := leftBehind(t); after != before {
		t.Errorf("reset left something behind:\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(c.dir); err == nil {
		t.Errorf("%s is still there", c.dir)
	}
	if left := c.containers(); len(left) > 0 {
		t.Errorf("there run %v", left)
	}
}

// TestATerminal types into a shell in a pod through a real terminal, whose size it changes.
func TestATerminal(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(once("shell", "sleep 1000", ""))
	c.waitReady("shell")
	master, slave := terminal(t)
	resize := func(rows, columns uint16) {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(33, 77)
	cmd := c.command(t.Context(), "kubectl", "exec", "-it", "shell", "--", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), want) {
			n, err := master.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("the terminal ended with %v before it said %q:\n%s", err, want, seen.String())
			}
		}
	}
	// The prompt says that the shell is there; what is typed is echoed, so the answers differ from the questions.
	until("#")
	fmt.Fprint(master, "echo size $(stty size)\n")
	until("size 33 77")
	resize(20, 50)
	_ = unix.Kill(cmd.Process.Pid, unix.SIGWINCH)
	fmt.Fprint(master, "while [ \"$(stty size)\" != '20 50' ]; do usleep 10000; done; echo size is $(stty size)\n")
	until("size is 20 50")
	fmt.Fprint(master, "exit 5\n")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("the shell's exit code is lost: %v\n%s", err, seen.String())
	}
}

func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestJoinTokens(t *testing.T) {
	c := newCluster(t, 0)
	out := strings.TrimSpace(c.sampan("token", "create", "--description=lab"))
	token := out[strings.LastIndex(out, "\n")+1:]
	id, _, _ := strings.Cut(token, ".")
	if len(id) != 6 || !strings.Contains(token, "@sha256:") {
		t.Fatalf("the last line is %q", token)
	}
	list := c.sampan("token", "list")
	contains(t, "the list", list, id+"   23h       lab")
	if strings.Contains(list, strings.Split(token, ".")[1][:16]) {
		t.Errorf("the list tells what is secret:\n%s", list)
	}
	contains(t, "kubectl", c.kubectl("get", "secrets", "-n", "kube-system", "--field-selector=type=bootstrap.kubernetes.io/token"), "bootstrap-token-"+id)
	if _, err := c.try("token", "create", "--ttl=1s"); err == nil {
		t.Error("a token of a second is made")
	}
	c.sampan("token", "delete", token)
	contains(t, "the list", c.sampan("token", "list"), "There are no join tokens.")
	if _, err := c.try("token", "delete", id); err == nil || !strings.Contains(err.Error(), "there is no join token "+id) {
		t.Errorf("deleting it twice: %v", err)
	}
}
