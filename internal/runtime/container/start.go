package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before the Go runtime starts, when re-executed
	"golang.org/x/sys/unix"
)

// Init is what main does when this program is re-executed to become a container, with "init" as its first argument.
func Init() {
	libcontainer.Init()
}

// Start runs a created container. When it cannot be started it has exited, with the reason StartError.
func (m *Manager) Start(ctx context.Context, id string) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if s := c.now(); s.Status != Created {
		return fmt.Errorf("start container %s: %w", id, ErrState)
	}
	var spec Spec
	if err := read(filepath.Join(m.dir(id), "spec.json"), &spec); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	if err := m.start(ctx, c, &spec); err != nil {
		m.failed(c, err)
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

func (m *Manager) start(_ context.Context, c *container, spec *Spec) (err error) {
	config, err := m.config(spec)
	if err != nil {
		return err
	}
	lib, err := libcontainer.Create(m.libRoot(), spec.ID, config)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if err := lib.Destroy(); err != nil {
				m.cfg.Log.Warn("remains of a container that did not start", "container", c.id, "error", err)
			}
		}
	}()
	child := newProcess(spec, spec.Args, spec.Env)
	child.Init = true
	child.NoNewPrivileges = &spec.NoNewPrivileges
	closeAfter, console, err := m.connect(child, spec)
	defer func() {
		for _, f := range closeAfter {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	var io *stdio
	if console == nil {
		if io, err = m.openStdio(spec, nil); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil && io != nil {
			io.copier.Abandon()
		}
	}()
	err = lib.Run(child)
	defer func() {
		if pid, e := child.Pid(); err != nil && e == nil && pid > 0 { // it may hang before its program
			_ = child.Signal(unix.SIGKILL)
			_, _ = child.Wait()
		}
	}()
	if err != nil {
		return plain(err)
	}
	if console != nil {
		master, err := console.receive()
		if err != nil {
			return err
		}
		if io, err = m.openStdio(spec, master); err != nil {
			return errors.Join(err, master.Close())
		}
	}
	st, err := lib.State()
	if err != nil {
		return err
	}
	process, err := openProcess(st.InitProcessPid, st.InitProcessStartTime)
	if err != nil {
		return err
	}
	m.hold(spec, process.pid, io)
	c.mu.Lock()
	c.state.Status, c.state.PID, c.state.Started = Running, process.pid, time.Now()
	c.io, c.process, c.child, c.paths = io, process, child, st.CgroupPaths
	state := c.state
	c.mu.Unlock()
	if err := m.saveState(state); err != nil {
		m.cfg.Log.Error("a container runs and its state is not on disk", "container", c.id, "error", err)
	}
	m.cfg.OnEvent(state)
	m.copyOutput(c.id, io)
	m.watch(c)
	return nil
}

// newProcess is a process of a container, as its user.
func newProcess(s *Spec, args, env []string) *libcontainer.Process {
	p := &libcontainer.Process{Args: args, Env: env, UID: int(s.UID), GID: int(s.GID), Cwd: s.Cwd, LogLevel: "2"}
	for _, g := range s.Groups {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	return p
}

// connect gives a container's first process its side of the FIFOs, or a terminal.
func (m *Manager) connect(p *libcontainer.Process, s *Spec) (closeAfter []*os.File, c *consoleSocket, err error) {
	if s.TTY {
		if c, err = newConsoleSocket(); err != nil {
			return nil, nil, err
		}
		p.ConsoleSocket = c.child
		return []*os.File{c.child}, c, nil
	}
	open := func(name string, flags int) *os.File {
		if err != nil {
			return nil
		}
		var fd int
		// Not by os.OpenFile, whose descriptors do not block: the container's must. Only opening may not wait for the other side.
		if fd, err = unix.Open(name, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err == nil {
			err = unix.SetNonblock(fd, false)
		}
		if err != nil {
			err = fmt.Errorf("open %s: %w", name, err)
			return nil
		}
		f := os.NewFile(uintptr(fd), name)
		closeAfter = append(closeAfter, f)
		return f
	}
	p.Stdout = open(m.fifo(s.ID, "stdout"), unix.O_RDWR)
	p.Stderr = open(m.fifo(s.ID, "stderr"), unix.O_RDWR)
	switch {
	case !s.Stdin:
		p.Stdin = open("/dev/null", unix.O_RDONLY)
	case s.StdinOnce:
		p.Stdin = open(m.fifo(s.ID, "stdin"), unix.O_RDONLY) // it ends when the first who attaches does
	default:
		p.Stdin = open(m.fifo(s.ID, "stdin"), unix.O_RDWR) // it never ends
	}
	return closeAfter, nil, err
}

// plain takes libcontainer's own words off an error that is about the program to run.
func plain(err error) error {
	msg := err.Error()
	for _, prefix := range []string{"unable to start container process: ", "error during container init: "} {
		if i := strings.LastIndex(msg, prefix); i >= 0 {
			msg = msg[i+len(prefix):]
		}
	}
	return errors.New(msg)
}

// failed records that a container did not start.
func (m *Manager) failed(c *container, err error) {
	c.mu.Lock()
	now := time.Now()
	c.state.Status, c.state.Finished, c.state.Started = Exited, now, time.Time{}
	c.state.ExitCode, c.state.Reason, c.state.Message = 128, StartError, err.Error()
	state := c.state
	c.mu.Unlock()
	if err := m.saveState(state); err != nil {
		m.cfg.Log.Error("state of a container is not on disk", "container", c.id, "error", err)
	}
	close(c.ended)
	m.cfg.OnEvent(state)
}
