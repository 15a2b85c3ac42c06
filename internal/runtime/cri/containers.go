package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/sandbox"
)

// StartContainer starts a container's process.
func (s *Service) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return nil, coded(err)
	}
	// The pod can't be stopped meanwhile, so no process begins in it after its last one was ended.
	err = s.sandboxes.Use(r.Sandbox, func(sandbox.Sandbox) error { return s.containers.Start(ctx, r.ID) })
	if err != nil {
		return nil, coded(fmt.Errorf("failed to start container %q: %w", r.ID, err))
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends a container's process, within its grace period.
func (s *Service) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return &runtimeapi.StopContainerResponse{}, nil // idempotent
	}
	if err := s.stop(ctx, r.ID, time.Duration(max(req.GetTimeout(), 0))*time.Second); err != nil {
		return nil, coded(fmt.Errorf("failed to stop container %q: %w", r.ID, err))
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// stop leaves alone a container that does not run.
func (s *Service) stop(ctx context.Context, id string, grace time.Duration) error {
	st, err := s.state(id)
	if err != nil || st.Status != container.Running {
		return nil
	}
	return s.containers.Stop(ctx, id, grace)
}

// RemoveContainer removes a container, and ends it first if it runs.
func (s *Service) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return &runtimeapi.RemoveContainerResponse{}, nil // idempotent
	}
	if err := s.removeContainer(ctx, r); err != nil {
		return nil, coded(fmt.Errorf("failed to remove container %q: %w", r.ID, err))
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (s *Service) removeContainer(ctx context.Context, r *record) error {
	unlock := s.records.lock(r.ID)
	if unlock == nil {
		return nil
	}
	defer unlock()
	if err := s.stop(ctx, r.ID, 0); err != nil {
		return err
	}
	if err := s.containers.Remove(ctx, r.ID); err != nil {
		return err
	}
	if err := s.snapshots.Remove(r.ID); err != nil {
		return err
	}
	if err := s.records.remove(r.ID); err != nil {
		return err
	}
	s.samples.forget(r.ID)
	s.emit(r.ID, r.Sandbox, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, time.Now())
	if _, ok := s.images.Resolve(r.ImageID); !ok && s.collecting.TryLock() {
		defer s.collecting.Unlock()
		if err := s.images.Collect(); err != nil { // the image was removed while the container used its layers
			s.cfg.Log.Warn("delete layers that nobody needs", "error", err)
		}
	}
	return nil
}

func containerState(st container.Status) runtimeapi.ContainerState {
	switch st {
	case container.Created:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case container.Running:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case container.Exited:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

// ListContainers lists containers.
func (s *Service) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: s.listContainers(req.GetFilter())}, nil
}

func (s *Service) listContainers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	pod := s.sandboxes.Resolve(f.GetPodSandboxId())
	id := f.GetId()
	if id != "" {
		if r, err := s.records.find(id); err == nil {
			id = r.ID
		}
	}
	var all []*runtimeapi.Container
	for _, r := range s.records.list() {
		if id != "" && r.ID != id || pod != "" && r.Sandbox != pod || !labelled(r.Config.GetLabels(), f.GetLabelSelector()) {
			continue
		}
		st, err := s.state(r.ID)
		if err != nil {
			continue // being removed
		}
		state := containerState(st.Status)
		if f.GetState() != nil && f.GetState().GetState() != state {
			continue
		}
		all = append(all, &runtimeapi.Container{
			Id: r.ID, PodSandboxId: r.Sandbox, Metadata: r.Config.GetMetadata(), Image: r.Config.GetImage(), ImageRef: r.ImageRef, ImageId: r.ImageID,
			State: state, CreatedAt: r.Created, Labels: r.Config.GetLabels(), Annotations: r.Config.GetAnnotations(),
		})
	}
	return all
}

// nanos is zero for no time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (s *Service) status(r *record, st container.State) *runtimeapi.ContainerStatus {
	named := proto.CloneOf(r.Config.GetImage())
	if asked := named.GetUserSpecifiedImage(); asked != "" {
		named.Image = asked // an ID says little to a person
	}
	out := &runtimeapi.ContainerStatus{
		Id: r.ID, Metadata: r.Config.GetMetadata(), State: containerState(st.Status), CreatedAt: r.Created,
		StartedAt: nanos(st.Started), FinishedAt: nanos(st.Finished), ExitCode: st.ExitCode, Reason: st.Reason, Message: st.Message,
		Image: named, ImageRef: r.ImageRef, ImageId: r.ImageID, Labels: r.Config.GetLabels(), Annotations: r.Config.GetAnnotations(),
		Mounts: r.Config.GetMounts(), LogPath: r.LogPath, Resources: &runtimeapi.ContainerResources{Linux: r.Config.GetLinux().GetResources()},
		User: &runtimeapi.ContainerUser{Linux: r.User}, StopSignal: r.Signal,
	}
	if st.Status == container.Exited && out.Reason == "" {
		out.Reason = "Completed"
		if st.ExitCode != 0 {
			out.Reason = "Error"
		}
	}
	return out
}

// statuses describes the containers of a pod.
func (s *Service) statuses(pod string) []*runtimeapi.ContainerStatus {
	var all []*runtimeapi.ContainerStatus
	for _, r := range s.records.of(pod) {
		if st, err := s.state(r.ID); err == nil {
			all = append(all, s.status(r, st))
		}
	}
	return all
}

// ContainerStatus describes a container.
func (s *Service) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return nil, coded(err)
	}
	st, err := s.state(r.ID)
	if err != nil {
		return nil, coded(fmt.Errorf("container %q: %w", r.ID, err))
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: s.status(r, st)}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{"sandboxID": r.Sandbox, "pid": st.PID, "config": r.Config})
		if err != nil {
			return nil, coded(fmt.Errorf("describe container %s: %w", r.ID, err))
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// UpdateContainerResources changes a container's limits; what is zero stays.
func (s *Service) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return nil, coded(err)
	}
	unlock := s.records.lock(r.ID)
	if unlock == nil {
		return nil, coded(fmt.Errorf("container %q: %w", r.ID, errNoContainer))
	}
	defer unlock()
	changed := *s.records.get(r.ID)
	changed.Config = proto.CloneOf(changed.Config)
	if changed.Config.Linux == nil {
		changed.Config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if changed.Config.Linux.Resources == nil {
		changed.Config.Linux.Resources = &runtimeapi.LinuxContainerResources{}
	}
	proto.Merge(changed.Config.Linux.Resources, &runtimeapi.LinuxContainerResources{
		CpuPeriod: req.GetLinux().GetCpuPeriod(), CpuQuota: req.GetLinux().GetCpuQuota(), CpuShares: req.GetLinux().GetCpuShares(),
		MemoryLimitInBytes: req.GetLinux().GetMemoryLimitInBytes(), OomScoreAdj: req.GetLinux().GetOomScoreAdj(),
		CpusetCpus: req.GetLinux().GetCpusetCpus(), CpusetMems: req.GetLinux().GetCpusetMems(),
		MemorySwapLimitInBytes: req.GetLinux().GetMemorySwapLimitInBytes(), Unified: req.GetLinux().GetUnified(),
	})
	st, err := s.state(r.ID)
	if err != nil {
		return nil, coded(fmt.Errorf("container %q: %w", r.ID, err))
	}
	if st.Status == container.Exited {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", r.ID)
	}
	if err := s.containers.Update(ctx, r.ID, changed.Config.GetLinux().GetResources()); err != nil {
		return nil, coded(fmt.Errorf("failed to update resources of container %q: %w", r.ID, err))
	}
	if err := s.records.save(&changed); err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog opens the log file anew after it was moved away.
func (s *Service) ReopenContainerLog(_ context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	r, err := s.records.find(req.GetContainerId())
	if err != nil {
		return nil, coded(err)
	}
	if st, err := s.state(r.ID); err != nil || st.Status != container.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", r.ID)
	}
	if err := s.containers.ReopenLog(r.ID); err != nil {
		return nil, coded(fmt.Errorf("failed to reopen log of container %q: %w", r.ID, err))
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
