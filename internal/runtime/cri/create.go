package cri

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/image"
	"sampan.dev/internal/runtime/sandbox"
)

// CreateContainer makes a container, ready to be started.
func (s *Service) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	config := req.GetConfig()
	if config.GetMetadata().GetName() == "" {
		return nil, invalid("container config must include metadata with a name")
	}
	ref := config.GetImage().GetImage()
	img, ok := s.images.Resolve(ref)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "failed to resolve image %q: not found", ref)
	}
	rec := &record{
		ID: newID(), Sandbox: s.sandboxes.Resolve(req.GetPodSandboxId()), Created: time.Now().UnixNano(),
		Config: config, ImageID: img.ID, ImageRef: img.ID,
	}
	if len(img.RepoDigests) > 0 {
		rec.ImageRef = img.RepoDigests[0]
	}
	err := s.sandboxes.Use(rec.Sandbox, func(pod sandbox.Sandbox) error { return s.create(ctx, pod, rec, img) })
	if err != nil {
		return nil, coded(err)
	}
	s.emit(rec.ID, rec.Sandbox, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, time.Unix(0, rec.Created))
	return &runtimeapi.CreateContainerResponse{ContainerId: rec.ID}, nil
}

func (s *Service) create(ctx context.Context, pod sandbox.Sandbox, rec *record, img *image.Image) (err error) {
	if err := s.records.reserve(rec); err != nil {
		return status.Error(codes.AlreadyExists, err.Error())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.snapshots.Remove(rec.ID), s.records.remove(rec.ID))
		}
	}()
	if dir := pod.Config.GetLogDirectory(); dir != "" && rec.Config.GetLogPath() != "" {
		rec.LogPath = filepath.Join(dir, rec.Config.GetLogPath())
	}
	if err := s.records.save(rec); err != nil {
		return err
	}
	var rootfs string
	err = img.Use(func() (err error) {
		rootfs, err = s.snapshots.Prepare(rec.ID, img)
		return err
	})
	if err != nil {
		return fmt.Errorf("make root file system of container %s: %w", rec.ID, err)
	}
	spec, err := s.spec(pod, rec, img, rootfs)
	if err != nil {
		return err
	}
	user := &runtimeapi.LinuxContainerUser{Uid: int64(spec.UID), Gid: int64(spec.GID)}
	for _, g := range spec.Groups {
		user.SupplementalGroups = append(user.SupplementalGroups, int64(g))
	}
	made := *rec
	made.User, made.Signal, made.made = user, signalOf(spec.StopSignal), true
	if _, err := s.containers.Create(ctx, spec); err != nil {
		return fmt.Errorf("create container %s: %w", rec.ID, err)
	}
	if err := s.records.save(&made); err != nil {
		return errors.Join(err, s.containers.Remove(context.WithoutCancel(ctx), rec.ID))
	}
	return nil
}

// spec puts together what the container's process gets, from the pod, the image and what was asked for.
func (s *Service) spec(pod sandbox.Sandbox, rec *record, img *image.Image, rootfs string) (container.Spec, error) {
	config := rec.Config
	linux := config.GetLinux()
	sc := linux.GetSecurityContext()
	who, err := resolveUser(rootfs, sc, img.Config.Config.User)
	if err != nil {
		return container.Spec{}, err
	}
	args, err := command(config, img.Config.Config)
	if err != nil {
		return container.Spec{}, err
	}
	spec := container.Spec{
		ID: rec.ID, Sandbox: pod.ID, Rootfs: rootfs, Args: args,
		Env: environment(config, img.Config.Config, sandbox.Hostname(pod)), Cwd: workingDir(config, img.Config.Config),
		UID: who.uid, GID: who.gid, Groups: who.groups,
		Privileged: sc.GetPrivileged(), NoNewPrivileges: sc.GetNoNewPrivs(), ReadonlyRootfs: sc.GetReadonlyRootfs(),
		NetNS: s.sandboxes.Namespace(pod, "net"), IPCNS: s.sandboxes.Namespace(pod, "ipc"), UTSNS: s.sandboxes.Namespace(pod, "uts"),
		Resources: linux.GetResources(), ShmPath: s.sandboxes.Shm(pod),
		TTY: config.GetTty(), Stdin: config.GetStdin(), StdinOnce: config.GetStdinOnce(),
		LogPath: rec.LogPath, StopSignal: stopSignal(config.GetStopSignal(), img.Config.Config.StopSignal),
	}
	parent := pod.Config.GetLinux().GetCgroupParent()
	if parent == "" {
		parent = s.cfg.CgroupParent
	}
	spec.CgroupPath = filepath.Join("/", parent, rec.ID)
	if spec.PIDNS, err = s.pidNamespace(pod, sc.GetNamespaceOptions()); err != nil {
		return spec, err
	}
	if spec.Capabilities, err = capabilities(sc); err != nil {
		return spec, err
	}
	if err := confine(&spec, sc); err != nil {
		return spec, err
	}
	if spec.Mounts, err = s.mounts(pod, config, sc.GetReadonlyRootfs()); err != nil {
		return spec, err
	}
	for _, d := range config.GetDevices() {
		spec.Devices = append(spec.Devices, container.Device{HostPath: d.GetHostPath(), ContainerPath: d.GetContainerPath(), Permissions: d.GetPermissions()})
	}
	return spec, nil
}

// pidNamespace is empty for one of the container's own, "host", or a path.
func (s *Service) pidNamespace(pod sandbox.Sandbox, o *runtimeapi.NamespaceOption) (string, error) {
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_NODE:
		return "host", nil
	case runtimeapi.NamespaceMode_POD:
		if path := s.sandboxes.Namespace(pod, "pid"); path != "" {
			return path, nil
		}
		if o != nil && pod.Options().GetPid() == runtimeapi.NamespaceMode_NODE {
			return "host", nil
		}
		return "", nil
	case runtimeapi.NamespaceMode_TARGET:
		target, err := s.records.find(o.GetTargetId())
		if err != nil {
			return "", fmt.Errorf("process namespace of target: %w", err)
		}
		if target.Sandbox != pod.ID {
			return "", invalid("target container %q is not in pod sandbox %s", o.GetTargetId(), pod.ID)
		}
		st, err := s.state(target.ID)
		if err != nil {
			return "", fmt.Errorf("process namespace of target: %w", err)
		}
		if st.Status != container.Running {
			return "", status.Errorf(codes.FailedPrecondition, "target container %q is not running", o.GetTargetId())
		}
		return fmt.Sprintf("/proc/%d/ns/pid", st.PID), nil
	}
	return "", nil
}
