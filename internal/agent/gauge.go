package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/agent/pressure"
)

// meter measures what of the machine can run short. images is a directory on the file system of images; ownImages says that it is another than that of pods' files.
type meter interface {
	measure(images string) (seen pressure.Seen, ownImages bool)
}

// kernel measures the machine that the agent runs on: a small file or three of /proc, and a few calls of the kernel.
type kernel struct {
	proc  string // where /proc is
	files string // a directory on the file system of pods' files
	pids  bool   // somebody wants to know of process ids
}

func (m kernel) measure(images string) (pressure.Seen, bool) {
	seen := pressure.Seen{}
	// What the kernel itself takes for available: it counts what it could drop without harm, as the working sets of `kubectl top` do.
	if memory := meminfo(m.proc); memory["MemTotal"] > 0 {
		seen[pressure.MemoryAvailable] = pressure.Level{Available: int64(memory["MemAvailable"]), Capacity: int64(memory["MemTotal"])}
	}
	if m.pids {
		if level, ok := m.processes(); ok {
			seen[pressure.PIDAvailable] = level
		}
	}
	var files, other unix.Statfs_t
	if unix.Statfs(m.files, &files) == nil {
		fileSystem(seen, &files, pressure.NodeFsAvailable, pressure.NodeFsInodes)
	}
	if images == "" || unix.Statfs(images, &other) != nil {
		return seen, false
	}
	fileSystem(seen, &other, pressure.ImageFsAvailable, pressure.ImageFsInodes)
	return seen, !sameDevice(m.files, images)
}

// fileSystem notes what is left of one. Some have no number of inodes, and never run out of them.
func fileSystem(seen pressure.Seen, fs *unix.Statfs_t, bytes, inodes pressure.Signal) {
	seen[bytes] = pressure.Level{Available: int64(fs.Bavail) * fs.Bsize, Capacity: int64(fs.Blocks) * fs.Bsize}
	if fs.Files > 0 {
		seen[inodes] = pressure.Level{Available: int64(fs.Ffree), Capacity: int64(fs.Files)}
	}
}

// processes is how many more threads there may be: the kernel has two bounds of them, and says in loadavg how many there are.
func (m kernel) processes() (pressure.Level, bool) {
	most := int64(0)
	for _, name := range []string{"pid_max", "threads-max"} {
		n, err := strconv.ParseInt(readLine(filepath.Join(m.proc, "sys/kernel", name)), 10, 64)
		if err == nil && (most == 0 || n < most) {
			most = n
		}
	}
	fields := strings.Fields(readLine(filepath.Join(m.proc, "loadavg")))
	if most == 0 || len(fields) < 4 {
		return pressure.Level{}, false
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	return pressure.Level{Available: most - n, Capacity: most}, err == nil
}

func sameDevice(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

// diskOf is what a directory and all below it take of the file system that it is on. Files that have several names count once; what is mounted below does not count.
func diskOf(dir string) pressure.Disk {
	var total pressure.Disk
	var top unix.Stat_t
	if unix.Lstat(dir, &top) != nil {
		return total
	}
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // gone meanwhile
		}
		switch {
		case st.Dev != top.Dev:
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case !e.IsDir() && st.Nlink > 1:
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		total.Bytes += st.Blocks * 512
		total.Inodes++
		return nil
	})
	return total
}
