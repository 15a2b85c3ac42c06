// Package stream serves exec, attach and port-forward to whoever holds a token that CRI gave out, by SPDY and by WebSocket.
//
// It listens on loopback and writes nothing to disk. Always: a token is good for one connection, within a minute; without one, nothing
// is reached.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// Size of a terminal.
type Size = remotecommand.TerminalSize

// Runtime is what the streams lead to. Exec's and Attach's readers and writers may be nil.
type Runtime interface {
	Exec(ctx context.Context, container string, cmd []string, stdin io.Reader, stdout, stderr io.Writer, tty bool, resize <-chan Size) (int32, error)
	Attach(ctx context.Context, container string, stdin io.Reader, stdout, stderr io.Writer, tty bool, resize <-chan Size) error
	Dial(ctx context.Context, sandbox string, port int32) (net.Conn, error)
}

// Server gives out URLs and serves them.
type Server struct {
	tokens   streaming.Server
	http     *http.Server
	listener net.Listener
}

// New listens on the address, and serves nothing yet.
func New(addr string, runtime Runtime, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = l.Addr().String()
	tokens, err := streaming.NewServer(config, &adapter{runtime, log})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make stream server: %w", err), l.Close())
	}
	return &Server{tokens: tokens, listener: l, http: &http.Server{
		Handler: tokens, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// Run serves until ctx ends; streams under way are then cut.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve streams: %w", err)
	}
	return nil
}

// Exec gives the URL for a command.
func (s *Server) Exec(req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return s.tokens.GetExec(req)
}

// Attach gives the URL for a container's own streams.
func (s *Server) Attach(req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return s.tokens.GetAttach(req)
}

// PortForward gives the URL for connections to a pod's ports.
func (s *Server) PortForward(req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return s.tokens.GetPortForward(req)
}

// adapter turns the library's calls into the runtime's.
type adapter struct {
	runtime Runtime
	log     *slog.Logger
}

func (a *adapter) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	code, failed := a.runtime.Exec(ctx, id, cmd, in, out, err, tty, resize)
	if failed != nil {
		return failed
	}
	if code != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

func (a *adapter) Attach(ctx context.Context, id string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return a.runtime.Attach(ctx, id, in, out, err, tty, resize)
}

func (a *adapter) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, err := a.runtime.Dial(ctx, sandbox, port)
	if err != nil {
		return fmt.Errorf("forward port %d of pod sandbox %s: %w", port, sandbox, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(conn, stream)
		if half, ok := conn.(*net.TCPConn); ok && err == nil {
			_ = half.CloseWrite() // the client has said all; the answer may still come
			return
		}
		_ = conn.Close()
	}()
	_, err = io.Copy(stream, conn)
	_ = conn.Close()
	_ = stream.Close() // ends the other direction
	<-sent
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		a.log.Debug("forward port", "sandbox", sandbox, "port", port, "error", err)
	}
	return nil
}
