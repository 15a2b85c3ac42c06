// Package probe asks a container once whether it is well: by HTTP, TCP, gRPC or a command.
//
// It watches and writes nothing. Always: a probe ends within its timeout; what it says of a failure is in Kubernetes' words. Certificates are
// not verified, and no proxy is used: a probe asks an address, not a name (Kubernetes, "Configure Liveness, Readiness and Startup Probes").
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Result is what a probe found.
type Result int

// What a probe may find. Unknown: it could not be carried out.
const (
	Unknown Result = iota
	Success
	Warning // a success with something to tell
	Failure
)

// String is Kubernetes' word.
func (r Result) String() string {
	return [...]string{"unknown", "success", "warning", "failure"}[r]
}

// ErrTimeout says that a command took longer than it may.
var ErrTimeout = errors.New("timed out")

// Target is a container to be asked.
type Target struct {
	IP        string // the pod's
	Container *corev1.Container
	// Exec runs a command in the container and returns what it has written. It returns ErrTimeout if that takes longer than allowed.
	Exec func(ctx context.Context, command []string, timeout time.Duration) (code int32, output string, err error)
}

// mostOutput bounds what a probe tells, in bytes.
const mostOutput = 10 << 10

// Run asks once. The error says why a probe could not be carried out; the result is Unknown then.
func Run(ctx context.Context, p *corev1.Probe, t Target) (Result, string, error) {
	timeout := time.Duration(p.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = time.Second
	}
	switch {
	case p.Exec != nil:
		return command(ctx, p.Exec.Command, t, timeout)
	case p.HTTPGet != nil:
		return httpGet(ctx, p.HTTPGet, t, timeout)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, t.Container)
		if err != nil {
			return Unknown, "", err
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = t.IP
		}
		return dial(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return health(ctx, net.JoinHostPort(t.IP, strconv.Itoa(int(p.GRPC.Port))), service, timeout)
	}
	return Unknown, "", fmt.Errorf("missing probe handler for container %s", t.Container.Name)
}

func command(ctx context.Context, args []string, t Target, timeout time.Duration) (Result, string, error) {
	code, output, err := t.Exec(ctx, args, timeout)
	if len(output) > mostOutput {
		output = output[:mostOutput]
	}
	switch {
	case errors.Is(err, ErrTimeout):
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(args, " "), timeout), nil
	case err != nil:
		return Unknown, "", err
	case code != 0:
		return Failure, output, nil
	}
	return Success, output, nil
}

func dial(ctx context.Context, address string, timeout time.Duration) (Result, string, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return Failure, err.Error(), nil
	}
	_ = conn.Close()
	return Success, "", nil
}

// Port is a port given by its number, or by the name that it has in the container.
func Port(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		found := false
		for i := range c.Ports {
			if c.Ports[i].Name == port.StrVal {
				n, found = int(c.Ports[i].ContainerPort), true
			}
		}
		if !found {
			var err error
			if n, err = strconv.Atoi(port.StrVal); err != nil {
				return 0, fmt.Errorf("couldn't find port: %q in container %s", port.StrVal, c.Name)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}
