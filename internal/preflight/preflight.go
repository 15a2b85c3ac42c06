// Package preflight says, before anything is changed, what this machine lacks to run a node.
//
// It only reads: /proc, /sys and the state of ports. Always: each finding is one sentence that says what is missing and what to do.
package preflight

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Want is what a node needs of the machine.
type Want struct {
	DataDir string
	Ports   []Port
}

// Port is a TCP port that must be free.
type Port struct {
	Addr netip.AddrPort
	For  string // such as "the API"
	Flag string // that changes it, such as --api-port
}

// Check returns a sentence for each thing that is missing; none means that a start can go on.
func Check(want Want) []string { return check(want, "/") }

// check takes the root of the file system, so that a test can show another machine.
func check(want Want, root string) []string {
	var missing []string
	add := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	if runtime.GOOS != "linux" {
		add("sampan runs containers, so it needs Linux; this is %s", runtime.GOOS)
		return missing
	}
	if os.Geteuid() != 0 {
		add("sampan makes network links, mounts and control groups, so it must be started as root: use sudo")
		return missing
	}
	if major, minor, ok := kernel(root); ok && (major < 5 || major == 5 && minor < 8) {
		add("the kernel is %d.%d, and sampan needs 5.8 or later (clone3, pidfd and nftables)", major, minor)
	}
	if !lists(filepath.Join(root, "proc/filesystems"), "overlay") && !dirExists(filepath.Join(root, "sys/module/overlay")) {
		add("the kernel has no overlay file system, on which images are mounted: try `modprobe overlay`")
	}
	missing = append(missing, cgroups(root)...)
	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		if _, err := os.Lstat(filepath.Join(root, "proc/self/ns", ns)); err != nil {
			add("the kernel has no %s namespaces, which containers are made of", ns)
		}
	}
	if err := nftables(); err != nil {
		add("nftables cannot be used (%v): the kernel needs CONFIG_NF_TABLES, try `modprobe nf_tables`", err)
	}
	if want.DataDir != "" {
		missing = append(missing, disk(want.DataDir)...)
	}
	for _, p := range want.Ports {
		if holder, taken := heldBy(root, p.Addr); taken {
			add("port %d, which %s needs, is taken by %s: end that, or choose another port with %s", p.Addr.Port(), p.For, holder, p.Flag)
		}
	}
	return missing
}

func kernel(root string) (major, minor int, ok bool) {
	release, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease"))
	if err != nil {
		return 0, 0, false
	}
	n, _ := fmt.Sscanf(string(release), "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// cgroups looks for the controllers that requests and limits are made with: on the v2 hierarchy, or on those of v1.
func cgroups(root string) []string {
	base := filepath.Join(root, "sys/fs/cgroup")
	if data, err := os.ReadFile(filepath.Join(base, "cgroup.controllers")); err == nil {
		var missing []string
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !contains(strings.Fields(string(data)), c) {
				missing = append(missing, fmt.Sprintf("cgroup v2 has no %s controller here: where sampan runs inside a container or a systemd unit, delegate it (Delegate=yes)", c))
			}
		}
		return missing
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !dirExists(filepath.Join(base, c)) && !dirExists(filepath.Join(base, "cpu,cpuacct")) {
			missing = append(missing, fmt.Sprintf("there is no %s cgroup controller below %s: mount cgroup2, or boot with systemd.unified_cgroup_hierarchy=1", c, base))
		}
	}
	return missing
}

// nftables opens the netlink family once, which fails where the kernel lacks it.
func nftables() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func disk(dir string) []string {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			var missing []string
			if free := fs.Bavail * uint64(fs.Bsize); free < 256<<20 {
				missing = append(missing, fmt.Sprintf("%s has %d MiB free, and a cluster needs at least 256 MiB: make room, or choose another place with --data-dir", dir, free>>20))
			}
			if fs.Flags&unix.ST_RDONLY != 0 {
				missing = append(missing, fmt.Sprintf("%s is on a read-only file system: choose another place with --data-dir", dir))
			}
			return missing
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

func lists(file, word string) bool {
	data, _ := os.ReadFile(file)
	return contains(strings.Fields(string(data)), word)
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

func dirExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
