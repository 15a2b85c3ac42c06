package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime keeps sandboxes and containers as a CRI runtime would. It is a connection: calls go straight to it.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	mu         sync.Mutex
	n          int
	sandboxes  map[string]*cri.PodSandbox
	containers map[string]*fakeContainer
	images     map[string]*cri.Image
	registry   map[string]error // what pulling says; a missing name is not found
	streams    map[*fakeStream]bool
	mute       bool             // events are lost
	fail       map[string]error // by method: what calls answer
	calls      []string
	starts     func(*fakeContainer)      // what a container does once it has started
	well       func(command string) bool // what commands in containers find
	usage      map[string]fakeUsage      // by pod
	removed    []string                  // images
	ignoreTERM bool
	logs       string // DIR/logs/pods
	streaming  string // URL of the streaming server
}

type fakeContainer struct {
	*cri.Container
	status *cri.ContainerStatus
	config *cri.ContainerConfig
	asked  chan struct{}
	ended  chan struct{}
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{
		sandboxes: map[string]*cri.PodSandbox{}, containers: map[string]*fakeContainer{}, images: map[string]*cri.Image{},
		registry: map[string]error{}, streams: map[*fakeStream]bool{}, fail: map[string]error{},
	}
}

func (f *fakeRuntime) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	f.mu.Lock()
	err := f.fail[name]
	f.calls = append(f.calls, name)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	for _, desc := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range desc.Methods {
			if m.MethodName != name {
				continue
			}
			out, err := m.Handler(f, ctx, func(in any) error { proto.Merge(in.(proto.Message), args.(proto.Message)); return nil }, nil)
			if err != nil {
				return err
			}
			proto.Merge(reply.(proto.Message), out.(proto.Message))
			return nil
		}
	}
	return status.Error(codes.Unimplemented, name)
}

type fakeStream struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *cri.ContainerEventResponse
	broken chan struct{}
}

func (f *fakeRuntime) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["GetContainerEvents"]; err != nil {
		return nil, err
	}
	s := &fakeStream{ctx: ctx, events: make(chan *cri.ContainerEventResponse, 1000), broken: make(chan struct{})}
	f.streams[s] = true
	return s, nil
}

func (s *fakeStream) Header() (metadata.MD, error) { return nil, nil }
func (s *fakeStream) CloseSend() error             { return nil }
func (s *fakeStream) Context() context.Context     { return s.ctx }
func (s *fakeStream) SendMsg(any) error            { return nil }
func (s *fakeStream) RecvMsg(m any) error {
	select {
	case e := <-s.events:
		proto.Merge(m.(proto.Message), e)
		return nil
	case <-s.broken:
		return io.EOF
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// breakStreams ends all event streams, as a runtime that dies does.
func (f *fakeRuntime) breakStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		close(s.broken)
	}
	clear(f.streams)
}

func (f *fakeRuntime) event(kind cri.ContainerEventType, c *fakeContainer) {
	if f.mute {
		return
	}
	sandbox := f.sandboxes[c.PodSandboxId]
	e := &cri.ContainerEventResponse{ContainerId: c.Id, ContainerEventType: kind}
	if sandbox != nil {
		e.PodSandboxStatus = &cri.PodSandboxStatus{Id: sandbox.Id, Metadata: sandbox.Metadata}
	}
	for s := range f.streams {
		s.events <- e
	}
}

func (f *fakeRuntime) id(kind string) string { f.n++; return fmt.Sprintf("%s%d", kind, f.n) }

func (f *fakeRuntime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "sampan", RuntimeVersion: "1"}, nil
}

func (f *fakeRuntime) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

func (f *fakeRuntime) RunPodSandbox(_ context.Context, r *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id("s")
	f.sandboxes[id] = &cri.PodSandbox{
		Id: id, Metadata: r.Config.Metadata, State: cri.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Labels: r.Config.Labels, Annotations: r.Config.Annotations, RuntimeHandler: r.RuntimeHandler,
	}
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, r *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sandboxes[r.PodSandboxId]; s != nil {
		s.State = cri.PodSandboxState_SANDBOX_NOTREADY
	}
	for _, c := range f.containers {
		if c.PodSandboxId == r.PodSandboxId {
			f.end(c, 137, "")
		}
	}
	return &cri.StopPodSandboxResponse{}, nil
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, c := range f.containers {
		if c.PodSandboxId == r.PodSandboxId {
			f.end(c, 137, "")
			delete(f.containers, id)
		}
	}
	delete(f.sandboxes, r.PodSandboxId)
	return &cri.RemovePodSandboxResponse{}, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sandboxes[r.PodSandboxId] == nil {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{Network: &cri.PodSandboxNetworkStatus{Ip: "10.244.0.5"}}}, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, s := range f.sandboxes {
		if matches(s.Labels, r.GetFilter().GetLabelSelector()) && (r.GetFilter().GetState() == nil || r.Filter.State.State == s.State) {
			out.Items = append(out.Items, proto.Clone(s).(*cri.PodSandbox))
		}
	}
	return out, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListContainersResponse{}
	for _, c := range f.containers {
		if matches(c.Labels, r.GetFilter().GetLabelSelector()) {
			out.Containers = append(out.Containers, proto.Clone(c.Container).(*cri.Container))
		}
	}
	return out, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &cri.ContainerStatusResponse{Status: proto.Clone(c.status).(*cri.ContainerStatus)}, nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, r *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.PodSandboxId == r.PodSandboxId && proto.Equal(c.Metadata, r.Config.Metadata) {
			return nil, status.Error(codes.AlreadyExists, "name is reserved")
		}
	}
	id, now := f.id("c"), time.Now().UnixNano()
	c := &fakeContainer{
		Container: &cri.Container{
			Id: id, PodSandboxId: r.PodSandboxId, Metadata: r.Config.Metadata, Image: r.Config.Image, Labels: r.Config.Labels,
			Annotations: r.Config.Annotations, CreatedAt: now,
		},
		status: &cri.ContainerStatus{
			Id: id, Metadata: r.Config.Metadata, CreatedAt: now, Labels: r.Config.Labels, Annotations: r.Config.Annotations,
			ImageRef: r.Config.Image.Image,
		},
		config: r.Config, asked: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	f.containers[id] = c
	f.event(cri.ContainerEventType_CONTAINER_CREATED_EVENT, c)
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, r *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	c.State, c.status.State, c.status.StartedAt = cri.ContainerState_CONTAINER_RUNNING, cri.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	if s := f.sandboxes[c.PodSandboxId]; s != nil && f.logs != "" {
		c.status.LogPath = filepath.Join(f.logs, fmt.Sprintf("%s_%s_%s", s.Metadata.Namespace, s.Metadata.Name, s.Metadata.Uid), c.config.LogPath)
		if err := os.WriteFile(c.status.LogPath, nil, 0o640); err != nil {
			return nil, err
		}
	}
	f.event(cri.ContainerEventType_CONTAINER_STARTED_EVENT, c)
	if f.starts != nil {
		go f.starts(c)
	}
	return &cri.StartContainerResponse{}, nil
}

// end ends a container that runs, or would. The caller holds the lock.
func (f *fakeRuntime) end(c *fakeContainer, code int32, reason string) {
	if c.State == cri.ContainerState_CONTAINER_EXITED {
		return
	}
	c.State, c.status.State = cri.ContainerState_CONTAINER_EXITED, cri.ContainerState_CONTAINER_EXITED
	c.status.ExitCode, c.status.Reason, c.status.FinishedAt = code, reason, time.Now().UnixNano()
	close(c.ended)
	f.event(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, c)
}

// exit ends a container from within.
func (f *fakeRuntime) exit(c *fakeContainer, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(c, code, "")
}

func (f *fakeRuntime) StopContainer(ctx context.Context, r *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	f.mu.Lock()
	c := f.containers[r.ContainerId]
	if c == nil {
		f.mu.Unlock()
		return nil, status.Error(codes.NotFound, "no such container")
	}
	if !f.ignoreTERM {
		f.end(c, 143, "")
	}
	f.mu.Unlock()
	select {
	case <-c.ended:
	case <-time.After(time.Duration(r.Timeout) * time.Second):
		f.mu.Lock()
		f.end(c, 137, "")
		f.mu.Unlock()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &cri.StopContainerResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[r.ContainerId]; c != nil {
		f.end(c, 137, "")
	}
	delete(f.containers, r.ContainerId)
	return &cri.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, r *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &cri.ImageStatusResponse{Image: f.images[r.Image.Image]}, nil
}

func (f *fakeRuntime) PullImage(_ context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	time.Sleep(1200 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err, known := f.registry[r.Image.Image]; err != nil {
		return nil, err
	} else if !known {
		return nil, status.Error(codes.NotFound, "manifest unknown")
	}
	f.images[r.Image.Image] = &cri.Image{Id: r.Image.Image, Size: 1234}
	return &cri.PullImageResponse{ImageRef: r.Image.Image}, nil
}

func (f *fakeRuntime) has(image string) { f.images[image] = &cri.Image{Id: image, Size: 1234} }

func (f *fakeRuntime) ExecSync(_ context.Context, r *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	if f.well(strings.Join(r.Cmd, " ")) {
		return &cri.ExecSyncResponse{}, nil
	}
	return &cri.ExecSyncResponse{ExitCode: 1, Stderr: []byte("ill")}, nil
}

func (f *fakeRuntime) counts() (sandboxes, running, all int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.State == cri.ContainerState_CONTAINER_RUNNING {
			running++
		}
	}
	return len(f.sandboxes), running, len(f.containers)
}

func (f *fakeRuntime) named(name string) []*fakeContainer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*fakeContainer
	for _, c := range f.containers {
		if c.Metadata.Name == name {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *fakeContainer) int { return int(b.Metadata.Attempt) - int(a.Metadata.Attempt) })
	return all
}
