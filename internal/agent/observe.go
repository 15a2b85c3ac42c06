package agent

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/logs"
)

// Labels and annotations of what the agent makes in the runtime. Those of Kubernetes' own are what crictl and others look for.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	noteHash      = "io.kubernetes.container.hash"
	noteRestarts  = "io.kubernetes.container.restartCount"
	noteLastWords = "io.kubernetes.container.terminationMessagePath"
	notePolicy    = "io.kubernetes.container.terminationMessagePolicy"
	notePodGrace  = "io.kubernetes.pod.terminationGracePeriod"
	noteDelay     = "sampan.dev/restart-delay"
	noteImage     = "sampan.dev/image"
	noteSource    = "kubernetes.io/config.source"
)

// maxLastWords bounds a termination message, maxLastLines and maxLastLog what is taken of a log in its place.
const (
	maxLastWords = 4096
	maxLastLines = 80
	maxLastLog   = 2048
)

// memory keeps what the runtime said of things that no longer change, so that looking again costs two calls.
type memory struct {
	ips        map[string][]string // of ready sandboxes
	containers map[string]Container
	grace      int64
}

// observe asks the runtime what there is of one pod.
func (a *Agent) observe(ctx context.Context, uid types.UID, m *memory) (Observed, error) {
	var seen Observed
	label := map[string]string{labelPodUID: string(uid)}
	g, gctx := errgroup.WithContext(ctx)
	var sandboxes []*cri.PodSandbox
	var containers []*cri.Container
	g.Go(func() error {
		r, err := a.runtime.ListPodSandbox(gctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: label}})
		if err != nil {
			return fmt.Errorf("list sandboxes: %w", err)
		}
		sandboxes = r.Items
		return nil
	})
	g.Go(func() error {
		r, err := a.runtime.ListContainers(gctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: label}})
		if err != nil {
			return fmt.Errorf("list containers: %w", err)
		}
		containers = r.Containers
		return nil
	})
	if err := g.Wait(); err != nil {
		return seen, err
	}
	if err := a.observeSandboxes(ctx, sandboxes, m, &seen); err != nil {
		return seen, err
	}
	if err := a.observeContainers(ctx, containers, m, &seen); err != nil {
		return seen, err
	}
	seen.Grace = m.grace
	return seen, nil
}

func (a *Agent) observeSandboxes(ctx context.Context, list []*cri.PodSandbox, m *memory, seen *Observed) error {
	ips := map[string][]string{}
	for _, s := range list {
		sandbox := Sandbox{ID: s.Id, Ready: s.State == cri.PodSandboxState_SANDBOX_READY, Created: time.Unix(0, s.CreatedAt)}
		if s.Metadata != nil {
			sandbox.Attempt = s.Metadata.Attempt
		}
		if m.grace == 0 {
			m.grace, _ = strconv.ParseInt(s.Annotations[notePodGrace], 10, 64)
		}
		if sandbox.Ready {
			known, ok := m.ips[s.Id]
			if !ok {
				r, err := a.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.Id})
				if status.Code(err) == codes.NotFound {
					continue
				}
				if err != nil {
					return fmt.Errorf("status of sandbox %s: %w", s.Id, err)
				}
				if n := r.GetStatus().GetNetwork(); n.GetIp() != "" {
					known = append(known, n.Ip)
					for _, more := range n.AdditionalIps {
						known = append(known, more.Ip)
					}
				}
			}
			sandbox.IPs, ips[s.Id] = known, known
		}
		seen.Sandboxes = append(seen.Sandboxes, sandbox)
	}
	m.ips = ips
	slices.SortFunc(seen.Sandboxes, func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.Created.Compare(a.Created))
	})
	return nil
}

func (a *Agent) observeContainers(ctx context.Context, list []*cri.Container, m *memory, seen *Observed) error {
	now := make(map[string]Container, len(list))
	for _, c := range list {
		state := stateOf(c.State)
		known, ok := m.containers[c.Id]
		if !ok || known.State != state || state == Unknown {
			r, err := a.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
			if status.Code(err) == codes.NotFound {
				continue // removed between the list and now
			}
			if err != nil {
				return fmt.Errorf("status of container %s: %w", c.Id, err)
			}
			known = a.container(c, r.GetStatus())
		}
		now[c.Id] = known
		seen.Containers = append(seen.Containers, known)
	}
	m.containers = now
	slices.SortFunc(seen.Containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

func stateOf(s cri.ContainerState) State {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return Created
	case cri.ContainerState_CONTAINER_RUNNING:
		return Running
	case cri.ContainerState_CONTAINER_EXITED:
		return Exited
	}
	return Unknown
}

// container reads the runtime's account of one container. The list says which sandbox it is of, the status all else.
func (a *Agent) container(c *cri.Container, s *cri.ContainerStatus) Container {
	notes := s.GetAnnotations()
	out := Container{
		ID: c.Id, Sandbox: c.PodSandboxId, Name: c.Labels[labelContainerName], State: stateOf(s.GetState()),
		Created: moment(s.GetCreatedAt()), Started: moment(s.GetStartedAt()), Finished: moment(s.GetFinishedAt()),
		ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(),
		Image: notes[noteImage], ImageID: s.GetImageRef(), Hash: notes[noteHash],
	}
	if s.GetMetadata() != nil {
		out.Attempt = s.Metadata.Attempt
		out.Name = cmp.Or(out.Name, s.Metadata.Name)
	}
	out.Delay, _ = time.ParseDuration(notes[noteDelay])
	if u := s.GetUser().GetLinux(); u != nil {
		out.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if out.State == Exited {
		out.Message = a.lastWords(c.Labels, s, out.Message)
	}
	return out
}

func moment(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// lastWords is the message a container left: in its file, else the end of its log if that is its policy, else the runtime's own.
func (a *Agent) lastWords(labels map[string]string, s *cri.ContainerStatus, runtimes string) string {
	notes := s.GetAnnotations()
	if notes[noteLastWords] == "" {
		return runtimes
	}
	file := a.lastWordsFile(types.UID(labels[labelPodUID]), labels[labelContainerName], s.GetMetadata().GetAttempt())
	if words, err := readUpTo(file, maxLastWords); err == nil && words != "" {
		return words
	}
	if notes[notePolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) && s.GetExitCode() != 0 && s.GetLogPath() != "" {
		if words := logs.Last(s.LogPath, maxLastLines, maxLastLog); words != "" {
			return words
		}
	}
	return runtimes
}

// lastWordsFile is the node's side of a container's termination message path.
func (a *Agent) lastWordsFile(uid types.UID, container string, attempt uint32) string {
	return filepath.Join(a.volumes.Dir(uid), "containers", container, strconv.FormatUint(uint64(attempt), 10))
}

// logDir is where a pod's logs are: DIR/logs/pods/NAMESPACE_NAME_UID.
func (a *Agent) logDir(namespace, name string, uid types.UID) string {
	return filepath.Join(a.cfg.DataDir, "logs", "pods", fmt.Sprintf("%s_%s_%s", namespace, name, uid))
}

// logFile is the log of one attempt at a container, below its pod's directory.
func logFile(container string, attempt uint32) string {
	return filepath.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}
