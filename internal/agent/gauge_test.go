package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/agent/pressure"
)

func TestTheMachineIsMeasured(t *testing.T) {
	proc, files, images := t.TempDir(), t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"meminfo": "MemTotal:        4096 kB\nMemFree:          100 kB\nMemAvailable:    1024 kB\nSwapTotal:       0 kB\n",
		"loadavg": "0.10 0.20 0.30 2/345 6789\n", "sys/kernel/pid_max": "4194304\n", "sys/kernel/threads-max": "1000\n",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := kernel{proc: proc, files: files, pids: true}
	seen, own := m.measure("")
	if l := seen[pressure.MemoryAvailable]; l.Available != 1<<20 || l.Capacity != 4<<20 {
		t.Errorf("memory %+v", l)
	}
	if l := seen[pressure.PIDAvailable]; l.Available != 655 || l.Capacity != 1000 {
		t.Errorf("process ids %+v", l)
	}
	if l := seen[pressure.NodeFsAvailable]; l.Available <= 0 || l.Available > l.Capacity {
		t.Errorf("disk %+v", l)
	}
	if _, known := seen[pressure.ImageFsAvailable]; known || own {
		t.Error("the file system of images is known before the runtime has said which it is")
	}
	if seen, own := m.measure(images); own || seen[pressure.ImageFsAvailable].Capacity != seen[pressure.NodeFsAvailable].Capacity {
		t.Errorf("images beside pods' files have a file system of their own: %+v", seen)
	}
	if _, own := m.measure("/proc"); !own {
		t.Error("images elsewhere have none")
	}
	if seen, _ := (kernel{proc: files, files: "/nowhere", pids: true}).measure("/nowhere"); len(seen) != 0 {
		t.Errorf("what cannot be measured is said to be %+v", seen)
	}
}

func TestWhatADirectoryTakes(t *testing.T) {
	dir := t.TempDir()
	if d := diskOf(filepath.Join(dir, "none")); d != (pressure.Disk{}) {
		t.Errorf("what is not there takes %+v", d)
	}
	file := filepath.Join(dir, "a", "f")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	before := diskOf(dir)
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	want := pressure.Disk{Bytes: before.Bytes + st.Blocks*512, Inodes: before.Inodes + 1}
	if got := diskOf(dir); got != want {
		t.Errorf("with a file %+v, want %+v", got, want)
	}
	if err := os.Link(file, filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	if got := diskOf(dir); got.Inodes != want.Inodes || got.Bytes > want.Bytes+4096 {
		t.Errorf("with a second name %+v, want %+v", got, want)
	}
	if err := os.Symlink("/usr", filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	if got := diskOf(dir); got.Inodes != want.Inodes+1 {
		t.Errorf("a link is followed: %+v", got)
	}
}
