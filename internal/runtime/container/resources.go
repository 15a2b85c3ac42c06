package container

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupResources is the CRI's limits in the control groups' terms. Zero means: not limited.
func cgroupResources(r *runtimeapi.LinuxContainerResources) (*cgroups.Resources, error) {
	out := &cgroups.Resources{}
	if r == nil {
		return out, nil
	}
	if r.CpuShares < 0 || r.MemoryLimitInBytes < 0 {
		return nil, fmt.Errorf("resources: cpu shares %d and memory %d must not be negative", r.CpuShares, r.MemoryLimitInBytes)
	}
	out.CpuShares = uint64(r.CpuShares)
	if cgroups.IsCgroup2UnifiedMode() && r.CpuShares > 0 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(uint64(r.CpuShares))
	}
	out.CpuQuota = r.CpuQuota
	out.CpuPeriod = uint64(r.CpuPeriod)
	out.CpusetCpus, out.CpusetMems = r.CpusetCpus, r.CpusetMems
	out.Memory = r.MemoryLimitInBytes
	if r.MemorySwapLimitInBytes > 0 {
		out.MemorySwap = r.MemorySwapLimitInBytes
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	out.Unified = maps.Clone(r.Unified)
	out.SkipDevices = false
	return out, nil
}

// Update changes the limits of a container that runs.
func (m *Manager) Update(_ context.Context, id string, r *runtimeapi.LinuxContainerResources) error {
	c, err := libcontainer.Load(m.libRoot(), id)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	config := c.Config()
	next, err := cgroupResources(r)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	next.Devices = config.Cgroups.Resources.Devices
	next.SkipDevices = true
	config.Cgroups.Resources = next
	if err := c.Set(config); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	return nil
}

// Stats reads a container's use from its control group.
func (m *Manager) Stats(id string) (*cgroups.Stats, error) {
	c, err := libcontainer.Load(m.libRoot(), id)
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", id, err)
	}
	s, err := c.Stats()
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return s.CgroupStats, nil
}

// outOfMemory says whether the kernel has killed a process of this control group for want of memory.
func outOfMemory(paths map[string]string) bool {
	for _, f := range []struct{ dir, file, key string }{
		{paths[""], "memory.events", "oom_kill "},
		{paths["memory"], "memory.oom_control", "oom_kill "},
	} {
		if f.dir == "" {
			continue
		}
		data, err := cgroups.ReadFile(f.dir, f.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(data) {
			if n, ok := strings.CutPrefix(line, f.key); ok && strings.TrimSpace(n) != "0" {
				return true
			}
		}
	}
	return false
}
