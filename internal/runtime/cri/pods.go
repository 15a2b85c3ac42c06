package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/sandbox"
)

// handlers are the names by which pods ask for this runtime: none, and the one that others have for the same.
var handlers = []string{"", "runc"}

// RunPodSandbox makes a pod's sandbox.
func (s *Service) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	config := req.GetConfig()
	if config.GetMetadata() == nil {
		return nil, invalid("sandbox config must include metadata")
	}
	if h := req.GetRuntimeHandler(); !slices.Contains(handlers, h) {
		return nil, status.Errorf(codes.Unknown, "failed to get sandbox runtime: no runtime for %q is configured", h)
	}
	sc := config.GetLinux().GetSecurityContext()
	if sc.GetNamespaceOptions().GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD && sc.GetNamespaceOptions().GetUsernsOptions() != nil {
		return nil, status.Error(codes.Unimplemented, "user namespaces of pods are not supported")
	}
	if mode := sc.GetNamespaceOptions().GetPid(); mode == runtimeapi.NamespaceMode_TARGET {
		return nil, invalid("a pod sandbox can't have the process namespace of a target")
	}
	pod, err := s.sandboxes.Run(ctx, newID(), config, req.GetRuntimeHandler())
	if err != nil {
		return nil, coded(err)
	}
	s.emit(pod.ID, pod.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, time.Now())
	s.emit(pod.ID, pod.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, time.Now())
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: pod.ID}, nil
}

// StopPodSandbox ends a pod's containers and takes its network away.
func (s *Service) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	id := s.sandboxes.Resolve(req.GetPodSandboxId())
	before, err := s.sandboxes.Get(id)
	if err != nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	if err := s.sandboxes.Stop(ctx, id, func() error { return s.stopAll(ctx, id) }); err != nil {
		return nil, coded(err)
	}
	if before.Ready {
		s.emit(id, id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, time.Now())
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// stopAll kills the containers of a pod, all at once.
func (s *Service) stopAll(ctx context.Context, id string) error {
	all := s.records.of(id)
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, r := range all {
		wait.Go(func() {
			if err := s.stop(ctx, r.ID, 0); err != nil {
				errs[i] = fmt.Errorf("stop container %s: %w", r.ID, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// RemovePodSandbox removes a pod's sandbox with all its containers.
func (s *Service) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	id := s.sandboxes.Resolve(req.GetPodSandboxId())
	pod, err := s.sandboxes.Get(id)
	if err != nil {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	if _, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return nil, err
	}
	for _, r := range s.records.of(id) {
		if err := s.removeContainer(ctx, r); err != nil {
			return nil, coded(err)
		}
	}
	pod.Ready = false
	last := s.podStatus(pod)
	if err := s.sandboxes.Remove(id); err != nil {
		return nil, coded(err)
	}
	s.events.send(event{id: id, pod: id, kind: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, at: time.Now(), status: last})
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func podState(ready bool) runtimeapi.PodSandboxState {
	if ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (s *Service) podStatus(p sandbox.Sandbox) *runtimeapi.PodSandboxStatus {
	net := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range p.IPs {
		if i == 0 {
			net.Ip = ip.String()
			continue
		}
		net.AdditionalIps = append(net.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return &runtimeapi.PodSandboxStatus{
		Id: p.ID, Metadata: p.Config.GetMetadata(), State: podState(p.Ready), CreatedAt: p.Created.UnixNano(), Network: net,
		Linux:  &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: p.Options()}},
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(), RuntimeHandler: p.Handler,
	}
}

// PodSandboxStatus describes a pod's sandbox.
func (s *Service) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	now := time.Now()
	pod, err := s.sandboxes.Get(s.sandboxes.Resolve(req.GetPodSandboxId()))
	if err != nil {
		return nil, coded(err)
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: s.podStatus(pod), Timestamp: now.UnixNano(), ContainersStatuses: s.statuses(pod.ID)}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{
			"netns": s.sandboxes.Namespace(pod, "net"), "ipcns": s.sandboxes.Namespace(pod, "ipc"),
			"utsns": s.sandboxes.Namespace(pod, "uts"), "pidns": s.sandboxes.Namespace(pod, "pid"), "config": pod.Config,
		})
		if err != nil {
			return nil, coded(fmt.Errorf("describe pod sandbox %s: %w", pod.ID, err))
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// ListPodSandbox lists pods' sandboxes.
func (s *Service) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.listPods(req.GetFilter())}, nil
}

func (s *Service) listPods(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var items []*runtimeapi.PodSandbox
	id := s.sandboxes.Resolve(f.GetId())
	for _, p := range s.sandboxes.List() {
		if id != "" && p.ID != id || f.GetState() != nil && f.GetState().GetState() != podState(p.Ready) || !labelled(p.Config.GetLabels(), f.GetLabelSelector()) {
			continue
		}
		items = append(items, &runtimeapi.PodSandbox{
			Id: p.ID, Metadata: p.Config.GetMetadata(), State: podState(p.Ready), CreatedAt: p.Created.UnixNano(),
			Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(), RuntimeHandler: p.Handler,
		})
	}
	return items
}

func labelled(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// UpdatePodSandboxResources is told after the agent has changed the pod's control group itself: nothing is left to do.
func (s *Service) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if _, err := s.sandboxes.Get(s.sandboxes.Resolve(req.GetPodSandboxId())); err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
