package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/pressure"
)

// fakeMeter is a machine that is short of what the test says.
type fakeMeter struct {
	mu   sync.Mutex
	seen pressure.Seen
	own  bool
}

func (m *fakeMeter) measure(string) (pressure.Seen, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen, m.own
}

// set has the machine have so much left of something, in percent.
func (m *fakeMeter) set(signal pressure.Signal, percent int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := pressure.Seen{}
	for s, l := range m.seen {
		seen[s] = l
	}
	seen[signal] = pressure.Level{Available: percent * 10 << 20, Capacity: 1000 << 20}
	m.seen = seen
}

// touch has the runtime's directories say that images have changed, the n-th time.
func (f *fakeRuntime) touch(n int) {
	dir, at := filepath.Join(filepath.Dir(filepath.Dir(f.logs)), "store"), time.Date(2001, 1, 1, 0, 0, n, 0, time.UTC)
	for _, d := range []string{filepath.Join(dir, "images"), dir} {
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chtimes(d, at, at)); err != nil {
			panic(err)
		}
	}
}

// fakeUsage is what the fake runtime says of one pod's memory and of what its containers wrote.
type fakeUsage struct{ memory, wrote uint64 }

func (f *fakeRuntime) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	return &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{{FsId: &cri.FilesystemIdentifier{Mountpoint: filepath.Join(filepath.Dir(filepath.Dir(f.logs)), "store")}}}}, nil
}

func (f *fakeRuntime) ListImages(context.Context, *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListImagesResponse{}
	for _, img := range f.images {
		out.Images = append(out.Images, img)
	}
	return out, nil
}

func (f *fakeRuntime) RemoveImage(_ context.Context, r *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, img := range f.images {
		if img.Id == r.Image.Image {
			delete(f.images, name)
		}
	}
	f.removed = append(f.removed, r.Image.Image)
	return &cri.RemoveImageResponse{}, nil
}

func (f *fakeRuntime) ListPodSandboxStats(_ context.Context, r *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListPodSandboxStatsResponse{}
	for _, s := range f.sandboxes {
		if s.State != cri.PodSandboxState_SANDBOX_READY || !matches(s.Labels, r.GetFilter().GetLabelSelector()) {
			continue
		}
		use := f.usage[s.Metadata.Name]
		stats := &cri.PodSandboxStats{Attributes: &cri.PodSandboxAttributes{Labels: s.Labels}, Linux: &cri.LinuxPodSandboxStats{}}
		for _, c := range f.containers {
			if c.PodSandboxId == s.Id && c.State == cri.ContainerState_CONTAINER_RUNNING {
				stats.Linux.Containers = append(stats.Linux.Containers, &cri.ContainerStats{
					Attributes:    &cri.ContainerAttributes{Labels: c.Labels},
					Memory:        &cri.MemoryUsage{WorkingSetBytes: &cri.UInt64Value{Value: use.memory}},
					WritableLayer: &cri.FilesystemUsage{UsedBytes: &cri.UInt64Value{Value: use.wrote}},
				})
			}
		}
		out.Stats = append(out.Stats, stats)
	}
	return out, nil
}
