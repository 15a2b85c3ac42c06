package agent

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"sampan.dev/internal/agent/pressure"
)

// capacity is what the machine has, and what of it pods may ask for: not what is kept back so that none has to be evicted. dir is on the file system that pods' files are on.
func capacity(dir string, maxPods int, kept []pressure.Threshold) (all, allocatable corev1.ResourceList) {
	memory := int64(meminfo("/proc")["MemTotal"])
	all = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	var fs unix.Statfs_t
	var disk int64
	if unix.Statfs(dir, &fs) == nil {
		disk = int64(fs.Blocks) * fs.Bsize
	}
	all[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk, resource.BinarySI)
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	huge := int64(0)
	for _, path := range sizes {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, _ := strconv.ParseInt(readLine(filepath.Join(path, "nr_hugepages")), 10, 64)
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		all[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(n*kb<<10, resource.BinarySI)
		huge += n * kb << 10
	}
	allocatable = all.DeepCopy()
	allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(memory-huge-pressure.Reserved(kept, pressure.MemoryAvailable, memory), 0), resource.BinarySI)
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk-pressure.Reserved(kept, pressure.NodeFsAvailable, disk), resource.DecimalSI)
	return all, allocatable
}

// meminfo is what the kernel says of the machine's memory, in bytes by name. proc is where /proc is.
func meminfo(proc string) map[string]uint64 {
	amounts := map[string]uint64{}
	f, err := os.Open(filepath.Join(proc, "meminfo"))
	if err != nil {
		return amounts
	}
	defer f.Close()
	var data [8 << 10]byte // the kernel counts at the first read: all of it comes by that
	n, _ := f.Read(data[:])
	for line := range strings.Lines(string(data[:n])) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 && (name == "MemTotal" || name == "MemAvailable" || name == "SwapTotal") {
			kb, _ := strconv.ParseUint(f[0], 10, 64)
			amounts[name] = kb << 10
		}
	}
	return amounts
}

// nodeInfo is what identifies the machine.
func nodeInfo(version string) corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		MachineID:       cmp.Or(readLine("/etc/machine-id"), readLine("/var/lib/dbus/machine-id")),
		SystemUUID:      strings.ToLower(readLine("/sys/class/dmi/id/product_uuid")),
		BootID:          readLine("/proc/sys/kernel/random/boot_id"),
		KernelVersion:   readLine("/proc/sys/kernel/osrelease"),
		OSImage:         osImage(),
		KubeletVersion:  version,
		OperatingSystem: runtime.GOOS,
		Architecture:    runtime.GOARCH,
	}
	info.SystemUUID = cmp.Or(info.SystemUUID, info.MachineID)
	if swap := int64(meminfo("/proc")["SwapTotal"]); swap > 0 {
		info.Swap = &corev1.NodeSwapStatus{Capacity: &swap}
	}
	return info
}

func osImage() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			if plain, err := strconv.Unquote(name); err == nil {
				return plain
			}
			return strings.Trim(name, `'"`)
		}
	}
	return "Linux"
}

func readLine(path string) string {
	b, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// runtimeVersion is how a Node names its runtime.
func runtimeVersion(name, version string) string { return fmt.Sprintf("%s://%s", name, version) }

// machineUsage is the processor time that the machine has used, in nanoseconds, and the memory that it could not do without, in bytes. proc is where /proc is.
func machineUsage(proc string) (nano, working uint64) {
	const ticks = 100 // a second: what the kernel counts in for programs, USER_HZ
	if fields := strings.Fields(readLine(filepath.Join(proc, "stat"))); len(fields) > 8 && fields[0] == "cpu" {
		for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal (proc_stat(5))
			n, err := strconv.ParseUint(f, 10, 64)
			if idle := i == 3 || i == 4; err == nil && !idle {
				nano += n * (1e9 / ticks)
			}
		}
	}
	amounts := meminfo(proc)
	if amounts["MemAvailable"] > amounts["MemTotal"] {
		return nano, 0
	}
	return nano, amounts["MemTotal"] - amounts["MemAvailable"]
}
