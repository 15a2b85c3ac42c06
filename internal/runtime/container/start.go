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
	io, err := m.openStdio(spec)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, io.close())
		}
	}()
	process := newProcess(spec, spec.Args, spec.Env)
	process.Init = true
	process.NoNewPrivileges = &spec.NoNewPrivileges
	closeAfter, console, err := m.connect(process, spec)
	defer func() {
		for _, f := range closeAfter {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := lib.Run(process); err != nil {
		if pid, e := process.Pid(); e == nil && pid > 0 { // it may hang before its program
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = process.Wait()
		}
		return plain(err)
	}
	if console != nil {
		if io.console, err = console.receive(); err != nil {
			return err
		}
		io.streams = append(io.streams, &stream{"stdout", io.console})
	}
	pid, err := process.Pid()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.state.Status, c.state.PID, c.state.Started = Running, pid, time.Now()
	c.io, c.process = io, process
	if st, err := lib.State(); err == nil {
		c.paths = st.CgroupPaths
	}
	state := c.state
	c.mu.Unlock()
	if err := m.saveState(state); err != nil {
		m.cfg.Log.Error("a container runs and its state is not on disk", "container", c.id, "error", err)
	}
	io.run(func(err error) { m.cfg.Log.Warn("output of a container is lost", "container", c.id, "error", err) })
	m.watch(c, pid)
	m.cfg.OnEvent(state)
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
		// Not by os.OpenFile, whose descriptors do not block: the container's must.
		if fd, err = unix.Open(name, flags|unix.O_CLOEXEC, 0); err != nil {
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

// adopt takes up a container of an earlier run of this program.
func (m *Manager) adopt(id string) error {
	c := &container{id: id, ended: make(chan struct{})}
	var spec Spec
	if err := errors.Join(read(filepath.Join(m.dir(id), "spec.json"), &spec), read(filepath.Join(m.dir(id), "state.json"), &c.state)); err != nil {
		return err
	}
	m.mu.Lock()
	m.all[id] = c
	m.mu.Unlock()
	if c.state.Status == Exited {
		close(c.ended)
		return nil
	}
	lib, err := libcontainer.Load(m.libRoot(), id)
	if err != nil {
		// libcontainer wrote nothing down: it never ran, or the machine has restarted since.
		if c.state.Status == Created && c.state.Started.IsZero() {
			return m.makeFIFOs(&spec)
		}
		m.finish(c, 255, Unknown, "")
		return nil
	}
	status, err := lib.Status()
	if err == nil && status == libcontainer.Created {
		err = lib.Exec() // it was about to start when we were killed
		status = libcontainer.Running
	}
	st, stErr := lib.State()
	if err := errors.Join(err, stErr); err != nil || status == libcontainer.Stopped {
		if st != nil {
			c.paths = st.CgroupPaths
		}
		m.finish(c, 255, Unknown, "")
		return nil
	}
	c.paths = st.CgroupPaths
	if c.state.Status != Running {
		c.state.Status, c.state.PID, c.state.Started = Running, st.InitProcessPid, time.Now()
		if err := m.saveState(c.state); err != nil {
			return err
		}
	}
	if c.io, err = m.openStdio(&spec); err != nil {
		return err
	}
	c.io.run(func(err error) { m.cfg.Log.Warn("output of a container is lost", "container", id, "error", err) })
	m.watch(c, st.InitProcessPid)
	return nil
}
