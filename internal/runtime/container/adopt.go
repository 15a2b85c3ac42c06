package container

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
)

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
	if err := m.makeFIFOs(&spec); err != nil {
		return err
	}
	lib, err := libcontainer.Load(m.libRoot(), id)
	if err != nil && c.state.Status == Created {
		// libcontainer wrote nothing down: it never ran. What is there of it would be in the way of a start.
		return os.RemoveAll(filepath.Join(m.libRoot(), id))
	}
	c.io = m.takeStdio(&spec)
	m.copyOutput(id, c.io)
	if err != nil { // the machine has restarted since
		m.finish(c, 255, false)
		return nil
	}
	if status, err := lib.Status(); err == nil && status == libcontainer.Created {
		if err := lib.Exec(); err != nil { // it was about to start when we were killed
			m.cfg.Log.Warn("container cannot go on starting", "container", id, "error", err)
		}
	}
	st, err := lib.State()
	if err != nil {
		m.cfg.Log.Warn("state of a container", "container", id, "error", err)
		m.finish(c, 255, false)
		return nil
	}
	c.paths = st.CgroupPaths
	if c.process, err = openProcess(st.InitProcessPid, st.InitProcessStartTime); err != nil {
		if !errors.Is(err, errGone) {
			m.cfg.Log.Warn("process of a container", "container", id, "error", err)
		}
		m.finish(c, 255, false)
		return nil
	}
	if c.state.Status != Running {
		c.state.Status, c.state.PID, c.state.Started = Running, st.InitProcessPid, time.Now()
		if err := m.saveState(c.state); err != nil {
			m.cfg.Log.Error("a container runs and its state is not on disk", "container", id, "error", err)
		}
	}
	m.watch(c)
	return nil
}

// takeStdio goes on with a container's output. It runs whatever has become of its log: what cannot be opened is done without.
func (m *Manager) takeStdio(spec *Spec) *stdio {
	var console *os.File
	if spec.TTY {
		var err error
		if console, err = m.console(spec.ID); err != nil {
			m.cfg.Log.Error("terminal of a container cannot be taken up again", "container", spec.ID, "error", err)
		}
	}
	io, err := m.openStdio(spec, console)
	if err == nil {
		return io
	}
	m.cfg.Log.Error("output of a container cannot be taken up again; it is lost from now on", "container", spec.ID, "error", err)
	without := *spec
	without.LogPath = ""
	if io, err = m.openStdio(&without, console); err == nil {
		return io
	}
	return nil
}
