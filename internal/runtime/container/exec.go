package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// lingering bounds how long the end of an executed process's output is awaited after its own end and the last that came: what it started may hold its
// output open.
const lingering = 500 * time.Millisecond

// Exec runs a further process in a container and returns its exit code. The end of ctx, or the timeout, kills it.
func (m *Manager) Exec(ctx context.Context, id string, e ExecSpec) (int32, error) {
	c, err := m.get(id)
	if err != nil {
		return 0, err
	}
	if s := c.now(); s.Status != Running {
		return 0, fmt.Errorf("exec in container %s: %w: it does not run", id, ErrState)
	}
	spec, ok := m.Spec(id)
	if !ok {
		return 0, fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	lib, err := libcontainer.Load(m.libRoot(), id)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	if e.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.Timeout)
		defer cancel()
	}
	process := newProcess(&spec, e.Args, append(append([]string(nil), spec.Env...), e.Env...))
	pipes, err := e.connect(process)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	defer pipes.close()
	if err := lib.Run(process); err != nil {
		return 0, plain(err)
	}
	if err := pipes.started(); err != nil {
		_ = process.Signal(unix.SIGKILL)
		_, _ = process.Wait()
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = process.Signal(unix.SIGKILL) })
	ws, ok := waitStatus(process.Wait())
	stop()
	pipes.finish(ctx)
	if ctx.Err() != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, ctx.Err())
	}
	if !ok {
		return 0, fmt.Errorf("exec in container %s: how it ended is not known", id)
	}
	return exitCode(ws), nil
}

func waitStatus(state *os.ProcessState, err error) (syscall.WaitStatus, bool) {
	var exit interface{ Sys() any }
	if errors.As(err, &exit) {
		ws, ok := exit.Sys().(syscall.WaitStatus)
		return ws, ok
	}
	if state == nil {
		return 0, false
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	return ws, ok
}

// pipes connect an executed process with whoever asked for it.
type pipes struct {
	spec    *ExecSpec
	socket  *consoleSocket
	theirs  []*os.File // the process's ends
	ours    []*os.File
	stdin   *os.File
	outputs map[*os.File]io.Writer
	ended   chan struct{} // closed once the process has
	copied  chan struct{} // closed once all its output is passed on
}

func (e *ExecSpec) connect(p *libcontainer.Process) (_ *pipes, err error) {
	x := &pipes{spec: e, outputs: map[*os.File]io.Writer{}, ended: make(chan struct{}), copied: make(chan struct{})}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	if e.TTY {
		if x.socket, err = newConsoleSocket(); err != nil {
			return nil, err
		}
		p.ConsoleSocket = x.socket.child
		x.theirs = append(x.theirs, x.socket.child)
		return x, nil
	}
	for _, out := range []struct {
		w    io.Writer
		give func(*os.File)
	}{{e.Stdout, func(f *os.File) { p.Stdout = f }}, {e.Stderr, func(f *os.File) { p.Stderr = f }}} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		x.theirs, x.ours = append(x.theirs, w), append(x.ours, r)
		if out.w == nil {
			out.w = io.Discard
		}
		x.outputs[r] = out.w
		out.give(w)
	}
	if e.Stdin == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		x.theirs = append(x.theirs, null)
		p.Stdin = null
		return x, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	x.theirs, x.ours, x.stdin = append(x.theirs, r), append(x.ours, w), w
	p.Stdin = r
	return x, nil
}

// started begins copying, once the process runs.
func (x *pipes) started() error {
	for _, f := range x.theirs {
		f.Close()
	}
	x.theirs = nil
	if x.socket != nil {
		console, err := x.socket.receive()
		if err != nil {
			return err
		}
		x.ours = append(x.ours, console)
		x.outputs[console], x.stdin = x.spec.Stdout, console
		if x.spec.Stdout == nil {
			x.outputs[console] = io.Discard
		}
		go resize(console, x.spec.Resize)
	}
	var copying sync.WaitGroup
	for r, w := range x.outputs {
		copying.Go(func() { x.copy(w, r) })
	}
	go func() {
		copying.Wait()
		close(x.copied)
	}()
	if x.stdin != nil && x.spec.Stdin != nil {
		go func() {
			_, _ = io.Copy(x.stdin, x.spec.Stdin) // it may wait for its caller for ever; closing ends it when it next has something
			if x.socket == nil {
				x.stdin.Close()
			}
		}()
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copy passes output on until it ends, or nothing has come for a while after the process's own end. A writer that takes its time is waited for; one that
// has failed misses the rest, which is read all the same, so that the process does not wait.
func (x *pipes) copy(w io.Writer, r *os.File) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for late := 0; late < 2; { // the deadline may have passed before there was time to read: only the second one counts
		select {
		case <-x.ended:
			_ = r.SetReadDeadline(time.Now().Add(lingering / 2))
		default:
		}
		n, err := r.Read(buf[:])
		if n > 0 {
			late = 0
			if _, err := w.Write(buf[:n]); err != nil {
				w = io.Discard
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			late++
		case err != nil:
			return
		}
	}
}

// finish waits until what was written before the process's end has been passed on. Once ctx has ended nobody is waiting for it.
func (x *pipes) finish(ctx context.Context) {
	close(x.ended)
	for r := range x.outputs {
		_ = r.SetReadDeadline(time.Now().Add(lingering / 2))
	}
	select {
	case <-x.copied:
	case <-ctx.Done():
	}
}

func (x *pipes) close() {
	for _, f := range append(x.theirs, x.ours...) {
		f.Close()
	}
	if x.socket != nil {
		x.socket.parent.Close()
	}
}

// resize sets a terminal's size whenever it is told to, until the channel is closed.
func resize(console *os.File, sizes <-chan Size) {
	for size := range sizes {
		raw, err := console.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Width, Row: size.Height})
		})
	}
}
