// Package sweep removes what an instance left on the machine: processes, mounts and control groups.
//
// It asks nothing of sampan or of the runtime, so that it works after either has died. Always: it touches only processes inside the
// instance's control group, mounts below its own directories, and control groups of its own name; doing it twice is safe.
package sweep

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the control group hierarchies are.
const Root = "/sys/fs/cgroup"

// groups returns the directory of a control group in every hierarchy that has it: one with cgroup v2, one a controller with v1.
func groups(root, parent string) []string {
	var found []string
	seen := map[string]bool{}
	candidates := []string{filepath.Join(root, parent)}
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		candidates = append(candidates, filepath.Join(root, e.Name(), parent))
	}
	for _, dir := range candidates {
		real, err := filepath.EvalSymlinks(dir) // cpu and cpuacct may be links to one hierarchy
		if err != nil || seen[real] {
			continue
		}
		if _, err := os.Stat(filepath.Join(real, "cgroup.procs")); err == nil {
			seen[real] = true
			found = append(found, real)
		}
	}
	return found
}

// Processes returns the processes in a control group and below it, over all hierarchies.
func Processes(root, parent string) []int {
	set := map[int]bool{}
	for _, dir := range groups(root, parent) {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a group that goes meanwhile has no processes
			}
			data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, word := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 1 && pid != os.Getpid() {
					set[pid] = true
				}
			}
			return nil
		})
	}
	pids := make([]int, 0, len(set))
	for pid := range set {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// Kill ends every process of a control group: with SIGTERM if grace is above zero, and with SIGKILL what is left after it. It returns how many there were.
func Kill(ctx context.Context, root, parent string, grace time.Duration) (int, error) {
	first := Processes(root, parent)
	if len(first) == 0 {
		return 0, nil
	}
	if grace > 0 {
		signal(first, unix.SIGTERM)
		if gone(ctx, root, parent, grace) {
			return len(first), nil
		}
	}
	// A process may fork while it is being looked for, so this goes on until none is found.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		signal(Processes(root, parent), unix.SIGKILL)
		if gone(ctx, root, parent, 100*time.Millisecond) {
			return len(first), nil
		}
	}
	if err := ctx.Err(); err != nil {
		return len(first), err
	}
	return len(first), fmt.Errorf("processes %v of control group %s do not end even with SIGKILL", Processes(root, parent), parent)
}

func signal(pids []int, sig unix.Signal) {
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // one that has gone meanwhile is what is wanted
	}
}

func gone(ctx context.Context, root, parent string, within time.Duration) bool {
	for end := time.Now().Add(within); ; {
		if len(Processes(root, parent)) == 0 {
			return true
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// RemoveGroups removes a control group, with all below it, from every hierarchy. There must be no processes in it.
func RemoveGroups(root, parent string) error {
	if parent == "" || parent == "/" {
		return fmt.Errorf("remove control group %q: that is the root", parent)
	}
	var errs []error
	for _, dir := range groups(root, parent) {
		var all []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		slices.Reverse(all) // children first
		for _, path := range all {
			if err := remove(path); err != nil {
				errs = append(errs, fmt.Errorf("remove control group: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// remove tries for a while: a group is busy until the last of its processes has been reaped.
func remove(path string) error {
	for try := 0; ; try++ {
		err := unix.Rmdir(path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try == 200 {
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Unmount takes away every mount at or below the given directories, the last made first. A mount that is still in use goes as soon as it is not.
func Unmount(dirs ...string) error {
	points, err := mountPoints("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("unmount below %s: %w", strings.Join(dirs, ", "), err)
	}
	var errs []error
	for _, point := range slices.Backward(points) {
		if !slices.ContainsFunc(dirs, func(dir string) bool { return within(point, dir) }) {
			continue
		}
		err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

func within(path, dir string) bool {
	dir = filepath.Clean(dir)
	return dir != "/" && (path == dir || strings.HasPrefix(path, dir+"/"))
}

// mountPoints reads the fifth field of each line of mountinfo (proc(5)), in the order in which they were mounted.
func mountPoints(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20) // overlay mounts of many layers make long lines
	for in.Scan() {
		if fields := strings.Fields(in.Text()); len(fields) > 4 {
			points = append(points, unescape(fields[4]))
		}
	}
	return points, in.Err()
}

// unescape undoes the kernel's octal escapes for space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
