package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/devices"
	"github.com/opencontainers/cgroups"
	devicecg "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"
)

const mountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// config is a spec in libcontainer's terms.
func (m *Manager) config(s *Spec) (*configs.Config, error) {
	c := &configs.Config{
		Rootfs:          s.Rootfs,
		Readonlyfs:      s.ReadonlyRootfs,
		NoNewPrivileges: s.NoNewPrivileges,
		Seccomp:         s.Seccomp,
		MaskPaths:       s.MaskedPaths,
		ReadonlyPaths:   s.ReadonlyPaths,
		Sysctl:          s.Sysctls,
		RootPropagation: unix.MS_SLAVE | unix.MS_REC,
		Version:         "1.2.0",
		Namespaces:      namespaces(s),
		Capabilities: &configs.Capabilities{
			Bounding: s.Capabilities, Permitted: s.Capabilities, Effective: s.Capabilities,
		},
		Mounts: standardMounts(s),
	}
	if s.Hostname != "" && s.UTSNS == "" {
		s.Hostname = "" // the host's own name is not changed
	}
	if err := addMounts(c, s); err != nil {
		return nil, err
	}
	rules, err := addDevices(c, s)
	if err != nil {
		return nil, err
	}
	resources, err := cgroupResources(s.Resources)
	if err != nil {
		return nil, err
	}
	resources.Devices = rules
	c.Cgroups = &cgroups.Cgroup{Path: s.CgroupPath, Resources: resources}
	if r := s.Resources; r != nil {
		c.OomScoreAdj = m.oomScore(int(r.OomScoreAdj))
	}
	return c, nil
}

// namespaces lists those that are not the host's.
func namespaces(s *Spec) configs.Namespaces {
	list := configs.Namespaces{{Type: configs.NEWNS}}
	for _, n := range []struct {
		kind configs.NamespaceType
		path string
	}{{configs.NEWNET, s.NetNS}, {configs.NEWIPC, s.IPCNS}, {configs.NEWUTS, s.UTSNS}} {
		if n.path != "" {
			list = append(list, configs.Namespace{Type: n.kind, Path: n.path})
		}
	}
	switch s.PIDNS {
	case "":
		list = append(list, configs.Namespace{Type: configs.NEWPID})
	case "host":
	default:
		list = append(list, configs.Namespace{Type: configs.NEWPID, Path: s.PIDNS})
	}
	if cgroups.IsCgroup2UnifiedMode() && !s.Privileged {
		list = append(list, configs.Namespace{Type: configs.NEWCGROUP})
	}
	return list
}

// standardMounts are those of every container (runtime-spec, "Default Filesystems").
func standardMounts(s *Spec) []*configs.Mount {
	sysFlags := mountFlags | unix.MS_RDONLY
	if s.Privileged {
		sysFlags = mountFlags
	}
	list := []*configs.Mount{
		{Source: "proc", Destination: "/proc", Device: "proc", Flags: mountFlags},
		{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: mountFlags},
		{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: sysFlags},
		{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup", Flags: sysFlags},
	}
	if s.ShmPath != "" {
		return append(list, &configs.Mount{Source: s.ShmPath, Destination: "/dev/shm", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC})
	}
	return append(list, &configs.Mount{Source: "shm", Destination: "/dev/shm", Device: "tmpfs", Flags: mountFlags, Data: "mode=1777,size=65536k"})
}

var propagations = map[string]int{
	"": unix.MS_PRIVATE | unix.MS_REC, "private": unix.MS_PRIVATE | unix.MS_REC,
	"rslave": unix.MS_SLAVE | unix.MS_REC, "rshared": unix.MS_SHARED | unix.MS_REC,
}

func addMounts(c *configs.Config, s *Spec) error {
	for _, mnt := range s.Mounts {
		propagation, ok := propagations[mnt.Propagation]
		if !ok {
			return fmt.Errorf("mount %s: propagation %q is not known", mnt.Destination, mnt.Propagation)
		}
		dest := filepath.Clean(mnt.Destination)
		// What a person mounts takes the place of a standard mount.
		c.Mounts = without(c.Mounts, dest)
		out := &configs.Mount{Source: mnt.Source, Destination: dest, Device: "bind", Flags: unix.MS_BIND | unix.MS_REC, PropagationFlags: []int{propagation}}
		if mnt.Readonly {
			out.Flags |= unix.MS_RDONLY
		}
		if mnt.RecursiveReadonly {
			out.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		}
		if mnt.Propagation == "rshared" {
			c.RootPropagation = unix.MS_SHARED | unix.MS_REC
		}
		c.Mounts = append(c.Mounts, out)
	}
	return nil
}

func without(list []*configs.Mount, dest string) []*configs.Mount {
	var kept []*configs.Mount
	for _, m := range list {
		if m.Destination != dest || m.Device == "bind" {
			kept = append(kept, m)
		}
	}
	return kept
}

// addDevices adds the device nodes, and returns what the control group lets the container use.
func addDevices(c *configs.Config, s *Spec) ([]*devicecg.Rule, error) {
	for _, d := range specconv.AllowedDevices {
		if d.Path != "" {
			c.Devices = append(c.Devices, d)
		}
	}
	if s.Privileged {
		if err := addHostDevices(c); err != nil {
			return nil, err
		}
		return []*devicecg.Rule{{Type: devicecg.WildcardDevice, Major: devicecg.Wildcard, Minor: devicecg.Wildcard, Permissions: "rwm", Allow: true}}, nil
	}
	rules := []*devicecg.Rule{{Type: devicecg.WildcardDevice, Major: devicecg.Wildcard, Minor: devicecg.Wildcard, Permissions: "rwm", Allow: false}}
	for _, d := range specconv.AllowedDevices {
		rules = append(rules, &d.Rule)
	}
	for _, d := range s.Devices {
		permissions := d.Permissions
		if permissions == "" {
			permissions = "rwm"
		}
		dev, err := devices.DeviceFromPath(d.HostPath, permissions)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.HostPath, err)
		}
		dev.Path = d.ContainerPath
		c.Devices = append(c.Devices, dev)
		rules = append(rules, &dev.Rule)
	}
	return rules, nil
}

func addHostDevices(c *configs.Config) error {
	have := map[string]bool{}
	for _, d := range c.Devices {
		have[d.Path] = true
	}
	all, err := devices.HostDevices()
	if err != nil {
		return fmt.Errorf("devices of the host: %w", err)
	}
	for _, d := range all {
		if !have[d.Path] {
			c.Devices = append(c.Devices, d)
		}
	}
	return nil
}

// canLowerOOM says whether this process may make others less likely to be killed, which takes CAP_SYS_RESOURCE.
func canLowerOOM() (own int, can bool) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, false
	}
	own, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(own-1)), 0); err != nil {
		return own, false
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(own)), 0)
	return own, true
}

// oomScore goes on with what the kernel grants where it refuses what is wanted.
func (m *Manager) oomScore(want int) *int {
	if want < m.ownOOM && !m.lowerOOM {
		return nil
	}
	return &want
}
