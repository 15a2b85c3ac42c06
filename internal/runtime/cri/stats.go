package cri

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/sandbox"
)

// sample is what was measured last of one container or pod: rates are the difference to it.
type sample struct {
	at    time.Time
	cpu   uint64
	rate  uint64
	disk  *runtimeapi.FilesystemUsage
	found time.Time // when disk was counted
}

// samples by ID. The zero value is ready.
type samples struct {
	mu  sync.Mutex // guards all
	all map[string]sample
}

func (s *samples) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func (s *samples) change(id string, f func(*sample)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]sample{}
	}
	v := s.all[id]
	f(&v)
	s.all[id] = v
}

// shortest time that a rate is measured over.
const shortest = 500 * time.Millisecond

func (s *samples) rate(id string, now time.Time, used uint64) (nanoCores uint64) {
	s.change(id, func(v *sample) {
		if passed := now.Sub(v.at); v.at.IsZero() || used < v.cpu {
			v.at, v.cpu = now, used
		} else if passed >= shortest {
			v.rate = uint64(float64(used-v.cpu) / passed.Seconds())
			v.at, v.cpu = now, used
		}
		nanoCores = v.rate
	})
	return nanoCores
}

func u64(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func (s *Service) cpu(id string, now time.Time, st *cgroups.Stats) *runtimeapi.CpuUsage {
	used := st.CpuStats.CpuUsage.TotalUsage
	return &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: u64(used), UsageNanoCores: u64(s.samples.rate(id, now, used))}
}

// memory reads what both versions of control groups count, each under its own names.
func memory(now time.Time, st *cgroups.Stats) *runtimeapi.MemoryUsage {
	m := st.MemoryStats
	first := func(names ...string) uint64 {
		for _, n := range names {
			if v, ok := m.Stats[n]; ok {
				return v
			}
		}
		return 0
	}
	working := m.Usage.Usage
	working -= min(working, first("total_inactive_file", "inactive_file"))
	out := &runtimeapi.MemoryUsage{
		Timestamp: now.UnixNano(), UsageBytes: u64(m.Usage.Usage), WorkingSetBytes: u64(working), RssBytes: u64(first("total_rss", "anon", "rss")),
		PageFaults: u64(first("total_pgfault", "pgfault")), MajorPageFaults: u64(first("total_pgmajfault", "pgmajfault")),
	}
	if limit := m.Usage.Limit; limit > 0 && limit < 1<<60 {
		out.AvailableBytes = u64(limit - min(limit, working))
	}
	return out
}

// diskAge is how old a count of what a container wrote may be: counting walks all its files.
const diskAge = time.Minute

func (s *Service) disk(id string, now time.Time) *runtimeapi.FilesystemUsage {
	var usage *runtimeapi.FilesystemUsage
	s.samples.change(id, func(v *sample) {
		if now.Sub(v.found) < diskAge {
			usage = v.disk
		}
	})
	if usage != nil {
		return usage
	}
	counted, err := s.snapshots.Usage(id)
	if err != nil {
		return nil
	}
	usage = &runtimeapi.FilesystemUsage{
		Timestamp: now.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: filepath.Join(s.cfg.Root, "snapshots")},
		UsedBytes: u64(counted.Bytes), InodesUsed: u64(counted.Inodes),
	}
	s.samples.change(id, func(v *sample) { v.disk, v.found = usage, now })
	return usage
}

func (s *Service) containerStats(r *record) (*runtimeapi.ContainerStats, error) {
	now := time.Now()
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: r.ID, Metadata: r.Config.GetMetadata(), Labels: r.Config.GetLabels(), Annotations: r.Config.GetAnnotations(),
		},
		WritableLayer: s.disk(r.ID, now),
	}
	st, err := s.state(r.ID)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", r.ID, err)
	}
	if st.Status != container.Running {
		return out, nil
	}
	stats, err := s.containers.Stats(r.ID)
	if err != nil {
		return nil, fmt.Errorf("measure container %q: %w", r.ID, err)
	}
	out.Cpu, out.Memory = s.cpu(r.ID, now, stats), memory(now, stats)
	out.Swap = &runtimeapi.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: u64(stats.MemoryStats.SwapUsage.Usage - min(stats.MemoryStats.SwapUsage.Usage, stats.MemoryStats.Usage.Usage))}
	return out, nil
}

// ContainerStats measures one container.
func (s *Service) ContainerStats(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return nil, coded(err)
	}
	stats, err := s.containerStats(r)
	if err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, nil
}

// ListContainerStats measures the containers that run.
func (s *Service) ListContainerStats(_ context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: s.listStats(req.GetFilter())}, nil
}

func (s *Service) listStats(f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	var all []*runtimeapi.ContainerStats
	for _, c := range s.listContainers(&runtimeapi.ContainerFilter{
		Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector(),
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}) {
		if r := s.records.get(c.GetId()); r != nil {
			if stats, err := s.containerStats(r); err == nil { // else it has just ended
				all = append(all, stats)
			}
		}
	}
	return all
}

func (s *Service) podStats(p sandbox.Sandbox) *runtimeapi.PodSandboxStats {
	now := time.Now()
	linux := &runtimeapi.LinuxPodSandboxStats{Containers: s.listStats(&runtimeapi.ContainerStatsFilter{PodSandboxId: p.ID})}
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: p.ID, Metadata: p.Config.GetMetadata(), Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations()},
		Linux:      linux,
	}
	if parent := p.Config.GetLinux().GetCgroupParent(); parent != "" && p.Ready {
		group, err := manager.New(&cgroups.Cgroup{Path: filepath.Join("/", parent), Resources: &cgroups.Resources{}})
		if err == nil {
			if stats, err := group.GetStats(); err == nil {
				linux.Cpu, linux.Memory = s.cpu(p.ID, now, stats), memory(now, stats)
				linux.Process = &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: u64(stats.PidsStats.Current)}
			}
		}
	}
	if p.Ready && !p.HostNetwork() {
		if t, err := s.network.Traffic(p.ID); err == nil {
			eth := &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: u64(t.RxBytes), RxErrors: u64(t.RxErrors), TxBytes: u64(t.TxBytes), TxErrors: u64(t.TxErrors)}
			linux.Network = &runtimeapi.NetworkUsage{Timestamp: now.UnixNano(), DefaultInterface: eth}
		}
	}
	return out
}

// PodSandboxStats measures one pod.
func (s *Service) PodSandboxStats(_ context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	pod, err := s.sandboxes.Get(s.sandboxes.Resolve(req.GetPodSandboxId()))
	if err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.podStats(pod)}, nil
}

// ListPodSandboxStats measures the pods that are ready.
func (s *Service) ListPodSandboxStats(_ context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.listPodStats(req.GetFilter())}, nil
}

func (s *Service) listPodStats(f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	var all []*runtimeapi.PodSandboxStats
	id := s.sandboxes.Resolve(f.GetId())
	for _, p := range s.sandboxes.List() {
		if p.Ready && (id == "" || p.ID == id) && labelled(p.Config.GetLabels(), f.GetLabelSelector()) {
			all = append(all, s.podStats(p))
		}
	}
	return all
}
