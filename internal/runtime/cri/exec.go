package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/sandbox"
	"sampan.dev/internal/runtime/stream"
)

// mostOutput is how much of each of its streams an ExecSync answers with; the rest is read and dropped.
const mostOutput = 16 << 20

// capped keeps the first bytes of what is written.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := mostOutput - c.Len(); room < len(p) {
		_, _ = c.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

// running finds a container that runs.
func (s *Service) running(id string) (*record, error) {
	r, err := s.records.find(id)
	if err != nil {
		return nil, coded(err)
	}
	st, err := s.state(r.ID)
	if err != nil {
		return nil, coded(fmt.Errorf("container %q: %w", r.ID, err))
	}
	if st.Status != container.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running: it is in %s state", r.ID, containerState(st.Status))
	}
	return r, nil
}

// ExecSync runs a command in a container and answers with what it wrote.
func (s *Service) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if len(req.GetCmd()) == 0 {
		return nil, invalid("no command to run")
	}
	r, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	var stdout, stderr capped
	timeout := time.Duration(max(req.GetTimeout(), 0)) * time.Second
	began := time.Now()
	code, err := s.containers.Exec(ctx, r.ID, container.ExecSpec{Args: req.GetCmd(), Stdout: &stdout, Stderr: &stderr, Timeout: timeout})
	if err != nil {
		if timeout > 0 && errors.Is(err, context.DeadlineExceeded) && time.Since(began) >= timeout {
			return nil, status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %v exceeded: %v", timeout, context.DeadlineExceeded)
		}
		return nil, coded(fmt.Errorf("failed to exec in container %q: %w", r.ID, err))
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: code}, nil
}

// Exec gives the URL that runs a command in a container.
func (s *Service) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	r, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	req.ContainerId = r.ID
	return s.streams.Exec(req)
}

// Attach gives the URL of a container's own streams.
func (s *Service) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	r, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	req.ContainerId = r.ID
	return s.streams.Attach(req)
}

// PortForward gives the URL of connections to a pod's ports.
func (s *Service) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	pod, err := s.sandboxes.Get(s.sandboxes.Resolve(req.GetPodSandboxId()))
	if err != nil {
		return nil, coded(err)
	}
	if !pod.Ready {
		return nil, status.Errorf(codes.FailedPrecondition, "pod sandbox %q is not running", pod.ID)
	}
	req.PodSandboxId = pod.ID
	return s.streams.PortForward(req)
}

// execution is the streams' way to containers.
type execution struct{ *Service }

func (e execution) Exec(ctx context.Context, id string, cmd []string, stdin io.Reader, stdout, stderr io.Writer, tty bool, resize <-chan stream.Size) (int32, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return e.containers.Exec(ctx, id, container.ExecSpec{
		Args: cmd, TTY: tty, Stdin: stdin, Stdout: stdout, Stderr: stderr, Resize: sizes(ctx, resize),
	})
}

func (e execution) Attach(ctx context.Context, id string, stdin io.Reader, stdout, stderr io.Writer, _ bool, resize <-chan stream.Size) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return e.containers.Attach(ctx, id, stdin, stdout, stderr, sizes(ctx, resize))
}

// sizes turns one type into the other until ctx ends.
func sizes(ctx context.Context, in <-chan stream.Size) <-chan container.Size {
	if in == nil {
		return nil
	}
	out := make(chan container.Size)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- container.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// Dial connects to a port of the pod's own loopback, as one of its processes would.
func (e execution) Dial(ctx context.Context, id string, port int32) (conn net.Conn, err error) {
	pod, err := e.sandboxes.Get(id)
	if err != nil {
		return nil, err
	}
	if !pod.Ready {
		return nil, fmt.Errorf("pod sandbox %q is not running", id)
	}
	err = sandbox.InNetwork(e.sandboxes.Namespace(pod, "net"), func() error {
		var errs []error
		for _, host := range []string{"127.0.0.1", "::1"} {
			// An address that is no name is dialed by the calling goroutine, so on this thread.
			c, err := (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err == nil {
				conn = c
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return conn, err
}
