package container

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/runtime/hold"
)

// watch waits for a container's first process to end, and then settles what it left.
func (m *Manager) watch(c *container) {
	m.watching.Go(func() {
		if err := c.process.wait(m.closing); err != nil {
			return // this manager ends; the container does not
		}
		code, known := int32(255), false
		if c.child != nil {
			if ws, ok := waitStatus(c.child.Wait()); ok {
				code, known = exitCode(ws), true
			}
		} else {
			code, known = c.process.autopsy()
		}
		m.finish(c, code, known)
	})
}

// finish ends all that is left of a container's processes, takes its last output and records its end.
func (m *Manager) finish(c *container, code int32, known bool) {
	c.mu.Lock()
	paths, io, process := c.paths, c.io, c.process
	c.mu.Unlock()
	reason := Unknown
	switch {
	case !known:
	case code == 0:
		reason = Completed
	case code == 128+int32(unix.SIGKILL) && outOfMemory(paths):
		reason = OOMKilled
	default:
		reason = Failed
	}
	if err := killGroup(paths); err != nil {
		m.cfg.Log.Warn("processes of a container that has ended", "container", c.id, "error", err)
	}
	if io != nil {
		io.finish()
	}
	if _, err := os.Stat(m.holder(c.id)); err == nil {
		hold.End(m.holder(c.id))
	}
	if lib, err := libcontainer.Load(m.libRoot(), c.id); err == nil {
		if err := lib.Destroy(); err != nil {
			m.cfg.Log.Warn("remains of a container that has ended", "container", c.id, "error", err)
		}
	}
	_ = os.RemoveAll(filepath.Join(m.libRoot(), c.id))
	c.mu.Lock()
	c.io, c.process, c.child, c.stop = nil, nil, nil, nil
	c.state.Status, c.state.PID, c.state.Finished = Exited, 0, time.Now()
	c.state.ExitCode, c.state.Reason = code, reason
	state := c.state
	c.mu.Unlock()
	if process != nil {
		process.close()
	}
	if err := m.saveState(state); err != nil {
		m.cfg.Log.Error("state of a container is not on disk", "container", c.id, "error", err)
	}
	close(c.ended)
	m.cfg.OnEvent(state)
}

// killTimeout bounds how long the killed are waited for: one that the kernel itself holds cannot die.
const killTimeout = 10 * time.Second

// killGroup ends every process of a control group: what a container that shares its PID namespace has left, and what was executed in it.
func killGroup(paths map[string]string) error {
	dir := paths[""]
	if dir != "" {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // version 2: all at once
	}
	for _, name := range []string{"pids", "memory", "cpu", "devices"} {
		if dir == "" {
			dir = paths[name]
		}
	}
	if dir == "" {
		return nil
	}
	pause := time.Millisecond
	for end := time.Now().Add(killTimeout); ; pause = min(2*pause, 50*time.Millisecond) {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil || len(pids) == 0 {
			return nil //nolint:nilerr // there is no such group
		}
		if time.Now().After(end) {
			return errors.New("some do not die")
		}
		killAll(dir, pids)
		time.Sleep(pause)
	}
}

// killAll kills those that are in the group still once they are held: a number may have gone to a stranger.
func killAll(dir string, pids []int) {
	held := map[int]int{}
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = fd
		}
	}
	again, _ := cgroups.GetAllPids(dir)
	for _, pid := range again {
		if fd, ok := held[pid]; ok {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	}
	for _, fd := range held {
		_ = unix.Close(fd)
	}
}
