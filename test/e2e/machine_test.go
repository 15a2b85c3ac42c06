package e2e

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"sampan.dev/internal/instance"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rules lists the nftables tables of this network namespace.
func rules(t testing.TB) string {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, table := range tables {
		names = append(names, table.Name)
	}
	return "tables: " + strings.Join(names, " ") + "\n"
}

// containers lists the processes in the cluster's control groups.
func (c *cluster) containers() []int {
	c.t.Helper()
	inst, err := instance.At(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, hierarchy := range []string{"", "pids", "memory"} {
		pattern := filepath.Join("/sys/fs/cgroup", hierarchy, inst.CgroupParent())
		roots, _ := filepath.Glob(pattern)
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Name() == "cgroup.procs" {
					data, _ := os.ReadFile(path)
					for _, word := range strings.Fields(string(data)) {
						if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
							seen[pid] = true
						}
					}
				}
				return nil
			})
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// pause waits a moment before asking a command again; where there is something to watch, kubectl wait is used instead.
func pause() { time.Sleep(50 * time.Millisecond) }
