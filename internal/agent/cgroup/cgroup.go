// Package cgroup keeps the control groups that pods' containers lie in.
//
// It writes below one parent group in each hierarchy, of cgroup v2 or v1: PARENT/podUID for guaranteed pods,
// PARENT/burstable/podUID and PARENT/besteffort/podUID for the others, with the pod's own CPU shares, CPU quota and memory limit.
// Always: only groups below the parent are touched; the runtime makes the containers' groups below the pod's.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Limits are those of one group; zero means none.
type Limits struct {
	Shares uint64 // CPU weight as v1 counts it: 1024 a core
	Quota  int64  // microseconds of CPU in each period of 100 ms
	Memory int64  // bytes
}

// Period is the CPU period, in microseconds.
const Period = 100_000

// Manager makes and removes groups.
type Manager struct {
	root, parent string
	find         func() ([]hierarchy, error)
}

// New manages the groups below parent ("/sampan-ID"), in the hierarchies mounted at or below root. Without a parent it makes none.
func New(root, parent string) *Manager {
	m := &Manager{root: root, parent: parent}
	if parent == "" {
		m.find = func() ([]hierarchy, error) { return nil, nil }
		return m
	}
	m.find = sync.OnceValues(func() ([]hierarchy, error) { return hierarchies(root) })
	return m
}

// Parent is the group that all others lie in.
func (m *Manager) Parent() string { return m.parent }

type hierarchy struct {
	path        string
	v2          bool
	controllers map[string]bool
}

// hierarchies finds what is mounted, so that v1, v2 and the mixture of both are alike to the rest of the package.
func hierarchies(root string) ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	defer f.Close()
	var all []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		part := strings.Fields(lines.Text())
		if len(part) < 4 || part[1] != root && !strings.HasPrefix(part[1], root+"/") {
			continue
		}
		h := hierarchy{path: part[1], controllers: map[string]bool{}}
		switch part[2] {
		case "cgroup2":
			h.v2 = true
			list, _ := os.ReadFile(filepath.Join(h.path, "cgroup.controllers"))
			for _, c := range strings.Fields(string(list)) {
				h.controllers[c] = true
			}
		case "cgroup":
			for _, c := range strings.Split(part[3], ",") {
				h.controllers[c] = true
			}
		default:
			continue
		}
		all = append(all, h)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("find cgroup hierarchies: none is mounted at %s", root)
	}
	return all, nil
}

// controlled are the controllers whose files this package writes or the runtime needs enabled.
var controlled = []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}

// Set makes a group (a path below the parent, "" for the parent itself) with these limits.
func (m *Manager) Set(group string, limits Limits) error {
	all, err := m.find()
	if err != nil {
		return err
	}
	for _, h := range all {
		if !h.v2 && !h.controllers["cpu"] && !h.controllers["memory"] || h.v2 && len(h.controllers) == 0 {
			continue
		}
		dir, err := m.make(h, group)
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", m.path(group), err)
		}
		if err := write(h, dir, limits); err != nil {
			return fmt.Errorf("limit cgroup %s: %w", m.path(group), err)
		}
	}
	return nil
}

func (m *Manager) path(group string) string { return filepath.Join(m.parent, group) }

// make creates the directories down to the group; on v2 each level hands its controllers on to the next.
func (m *Manager) make(h hierarchy, group string) (string, error) {
	dir := h.path
	for _, elem := range strings.Split(strings.Trim(m.path(group), "/"), "/") {
		if h.v2 {
			for _, c := range controlled {
				if h.controllers[c] {
					// What cannot be handed on is missed when its limit is written; a limit nobody asks for is not missed.
					_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
				}
			}
		}
		dir = filepath.Join(dir, elem)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return dir, nil
}

func write(h hierarchy, dir string, l Limits) error {
	put := func(name, value string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
	}
	var errs []error
	if h.controllers["cpu"] {
		switch {
		case h.v2:
			quota := "max"
			if l.Quota > 0 {
				quota = strconv.FormatInt(l.Quota, 10)
			}
			errs = append(errs, put("cpu.weight", strconv.FormatUint(weight(l.Shares), 10)), put("cpu.max", fmt.Sprintf("%s %d", quota, Period)))
		default:
			quota := int64(-1)
			if l.Quota > 0 {
				quota = l.Quota
			}
			errs = append(errs, put("cpu.shares", strconv.FormatUint(max(l.Shares, 2), 10)))
			if quota > 0 || read(dir, "cpu.cfs_quota_us") != "-1" {
				errs = append(errs, put("cpu.cfs_period_us", strconv.Itoa(Period)), put("cpu.cfs_quota_us", strconv.FormatInt(quota, 10)))
			}
		}
	}
	if h.controllers["memory"] {
		name, none := "memory.limit_in_bytes", "-1"
		if h.v2 {
			name, none = "memory.max", "max"
		}
		if l.Memory > 0 {
			errs = append(errs, put(name, strconv.FormatInt(l.Memory, 10)))
		} else {
			errs = append(errs, put(name, none))
		}
	}
	return errors.Join(errs...)
}

func read(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b))
}

// weight turns shares (2 to 262144) into a v2 weight (1 to 10000): a curve on which 1024, one core, is 100, the default.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// Remove removes a group, and what is left of groups below it, in all hierarchies. Groups that still hold processes stay, and are an error.
func (m *Manager) Remove(group string) error {
	if strings.Trim(group, "/") == "" {
		return errors.New("remove cgroup: no group is named")
	}
	all, err := m.find()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		errs = append(errs, removeTree(filepath.Join(h.path, m.path(group))))
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove cgroup: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
	}
	return errors.Join(errs...)
}

// Pods lists the groups of pods that are there, as Set takes them.
func (m *Manager) Pods() ([]string, error) {
	all, err := m.find()
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var groups []string
	for _, h := range all {
		for _, class := range []string{"", "burstable", "besteffort"} {
			entries, _ := os.ReadDir(filepath.Join(h.path, m.parent, class))
			for _, e := range entries {
				group := filepath.Join(class, e.Name())
				if e.IsDir() && strings.HasPrefix(e.Name(), "pod") && !seen[group] {
					seen[group] = true
					groups = append(groups, group)
				}
			}
		}
	}
	return groups, nil
}

// Unified says that cgroup v2 alone is there.
func (m *Manager) Unified() bool {
	all, err := m.find()
	return err == nil && len(all) == 1 && all[0].v2
}
