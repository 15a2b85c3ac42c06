package sweep

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// group makes a control group of the test's own in whatever hierarchies the machine has.
func group(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("control groups are made by root")
	}
	name := "/sampan-sweep-test-" + strconv.Itoa(os.Getpid())
	made := 0
	for _, h := range []string{"", "pids", "memory"} {
		if _, err := os.Stat(filepath.Join(Root, h, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(Root, h, name, "pod", "container"), 0o755); err == nil {
			made++
		}
	}
	if made == 0 {
		t.Fatal("no control group could be made")
	}
	t.Cleanup(func() { _ = RemoveGroups(Root, name) })
	return name
}

func TestKillEndsWhatIgnoresSIGTERMAndItsChildren(t *testing.T) {
	name := group(t)
	cmd := exec.Command("sh", "-c", "trap '' TERM; sleep 300 & sleep 300; sleep 300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	for _, dir := range groups(Root, name) {
		file := filepath.Join(dir, "pod", "container", "cgroup.procs")
		for _, pid := range append(children(cmd.Process.Pid), cmd.Process.Pid) {
			_ = os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644)
		}
	}
	if !slices.Contains(Processes(Root, name), cmd.Process.Pid) {
		t.Fatal("the process is not seen in its group")
	}
	n, err := Kill(context.Background(), Root, name, 50*time.Millisecond)
	if err != nil || n == 0 {
		t.Fatalf("killed %d, %v", n, err)
	}
	if err := syscall.Kill(cmd.Process.Pid, 0); err == nil && len(Processes(Root, name)) > 0 {
		t.Error("it still runs")
	}
	if err := RemoveGroups(Root, name); err != nil {
		t.Error(err)
	}
	if left := groups(Root, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func children(pid int) []int {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	var pids []int
	for _, w := range strings.Fields(string(data)) {
		n, _ := strconv.Atoi(w)
		pids = append(pids, n)
	}
	return pids
}

func TestUnmountTakesOnlyWhatIsBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts are made by root")
	}
	dir := t.TempDir()
	inside, beside := filepath.Join(dir, "a", "b c"), filepath.Join(dir, "ab")
	for _, d := range []string{inside, beside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, "size=64k"); err != nil {
			t.Skipf("mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
	}
	if err := Unmount(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	points, err := mountPoints("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(points, inside) || !slices.Contains(points, beside) {
		t.Errorf("after Unmount of a: inside mounted %v, beside mounted %v", slices.Contains(points, inside), slices.Contains(points, beside))
	}
}

func TestTheRootIsNeverRemoved(t *testing.T) {
	for _, parent := range []string{"", "/"} {
		if RemoveGroups(t.TempDir(), parent) == nil {
			t.Errorf("RemoveGroups(%q) did not refuse", parent)
		}
	}
	if within("/etc", "/") {
		t.Error("everything is within /")
	}
}
