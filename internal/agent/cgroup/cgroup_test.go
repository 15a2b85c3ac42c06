package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
}

func TestGroupsOfTheMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	parent := fmt.Sprintf("/sampan-test-%d", os.Getpid())
	m := New("/sys/fs/cgroup", parent)
	all, err := m.find()
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		for _, h := range all {
			if err := removeTree(filepath.Join(h.path, parent)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		if err := m.Set("burstable/pod1", Limits{Shares: 512, Quota: 50_000, Memory: 64 << 20}); err != nil {
			t.Skipf("control groups cannot be made here: %v", err)
		}
	}
	checked := 0
	check := func(h hierarchy, controller, file, want string) {
		if !h.controllers[controller] {
			return
		}
		checked++
		if got := read(filepath.Join(h.path, parent, "burstable/pod1"), file); got != want {
			t.Errorf("%s of %s: %q, want %q", file, h.path, got, want)
		}
	}
	for _, h := range all {
		if h.v2 {
			check(h, "cpu", "cpu.max", "50000 100000")
			check(h, "memory", "memory.max", fmt.Sprint(64<<20))
			continue
		}
		check(h, "cpu", "cpu.shares", "512")
		check(h, "cpu", "cpu.cfs_quota_us", "50000")
		check(h, "memory", "memory.limit_in_bytes", fmt.Sprint(64<<20))
	}
	if checked == 0 {
		t.Error("no controller was there to check")
	}
	if err := m.Set("burstable/pod1", Limits{}); err != nil {
		t.Errorf("taking limits away: %v", err)
	}
	if pods, err := m.Pods(); err != nil || len(pods) != 1 || pods[0] != "burstable/pod1" {
		t.Errorf("pods %v, %v", pods, err)
	}
	for _, h := range all { // as a runtime leaves it
		if dir := filepath.Join(h.path, parent, "burstable/pod1"); exists(dir) {
			if err := os.Mkdir(filepath.Join(dir, "container"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if err := m.Remove("burstable/pod1"); err != nil {
			t.Error(err)
		}
	}
	for _, h := range all {
		if dir := filepath.Join(h.path, parent, "burstable/pod1"); exists(dir) {
			t.Errorf("%s is left", dir)
		}
	}
	for _, group := range []string{"", "/"} {
		if err := m.Remove(group); err == nil {
			t.Errorf("the parent itself can be removed as %q", group)
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestWithoutParentNothingIsMade(t *testing.T) {
	m := New("/sys/fs/cgroup", "")
	if err := m.Set("burstable/pod1", Limits{Shares: 2}); err != nil {
		t.Error(err)
	}
	if exists("/sys/fs/cgroup/cpu/burstable") || exists("/sys/fs/cgroup/burstable") {
		t.Error("a group was made at the root")
	}
}
