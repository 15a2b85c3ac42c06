package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sampan.dev/internal/instance"
)

// available is the kernel's estimate of memory that new work can have, in bytes.
func available() (int64, error) {
	n, ok := field("/proc/meminfo", "MemAvailable:")
	if !ok {
		return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
	}
	return n, nil
}

// field reads a line such as "VmRSS:  12 kB", in bytes.
func field(file, name string) (int64, bool) {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

func statusField(pid int, name string) int64 {
	n, _ := field(fmt.Sprintf("/proc/%d/status", pid), name)
	return n
}

// containerMemory is the sum of the proportional set sizes of all processes in the cluster's control group.
func (b *bench) containerMemory() (int64, error) {
	inst, err := instance.At(b.data())
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for _, hierarchy := range []string{"", "pids", "memory"} {
		root := filepath.Join("/sys/fs/cgroup", hierarchy, inst.CgroupParent())
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				data, _ := os.ReadFile(path)
				for _, pid := range strings.Fields(string(data)) {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	var sum int64
	for pid := range seen {
		n, _ := field("/proc/"+pid+"/smaps_rollup", "Pss:")
		sum += n
	}
	return sum, nil
}

// cpu is the time that processes have run so far, their reaped children's included.
func cpu(pids map[string]int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(data), ") ") // the name before it may hold spaces
		if f := strings.Fields(rest); len(f) > 14 {
			for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime (proc(5), counted from the state)
				n, _ := strconv.ParseInt(f[i], 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}
