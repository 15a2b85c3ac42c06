package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// watch waits for a container's first process to end, asleep in the kernel, and then settles what it left.
func (m *Manager) watch(c *container, pid int) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil { // it has ended already, and somebody else has reaped it
		m.watching.Go(func() { m.settle(c, nil) })
		return
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	m.watching.Go(func() {
		defer pidfd.Close()
		if err := waitEnd(m.closing, pidfd); err != nil {
			return // this manager ends; the container does not
		}
		m.settle(c, pidfd)
	})
}

// waitEnd returns nil when the process has ended, or ctx's error.
func waitEnd(ctx context.Context, pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// settle finds out how a container ended, and ends what it left behind.
func (m *Manager) settle(c *container, pidfd *os.File) {
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	code, known := int32(255), false
	if process != nil {
		state, err := process.Wait()
		var exit interface{ Sys() any }
		if errors.As(err, &exit) {
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok {
				code, known = exitCode(ws), true
			}
		} else if state != nil {
			if ws, ok := state.Sys().(syscall.WaitStatus); ok {
				code, known = exitCode(ws), true
			}
		}
	} else if pidfd != nil {
		code, known = exitInfo(int(pidfd.Fd()))
	}
	reason := Unknown
	if known {
		reason = Completed
		if code != 0 {
			reason = Failed
		}
	}
	m.finish(c, code, reason, "")
}

func exitCode(ws syscall.WaitStatus) int32 {
	if ws.Signaled() {
		return 128 + int32(ws.Signal())
	}
	return int32(ws.ExitStatus())
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, up to what is asked for.
type pidfdInfo struct {
	mask, cgroup                                                      uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                                          int32
	coredumpMask, coredumpSignal                                      uint32
}

const (
	pidfdInfoExit = 1 << 3
	pidfdGetInfo  = 0xc000ff0b | unsafe.Sizeof(pidfdInfo{})<<16 // _IOWR(0xFF, 11, struct pidfd_info)
)

// exitInfo asks the kernel how a process ended that is not our child (Linux 6.15). Its parent, init, must have reaped it, which takes a moment.
func exitInfo(fd int) (int32, bool) {
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		info := pidfdInfo{mask: pidfdInfoExit}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.mask&pidfdInfoExit != 0 {
			return exitCode(syscall.WaitStatus(info.exitCode)), true
		}
		if errno != 0 && errno != unix.ESRCH {
			return 255, false // an older kernel
		}
		time.Sleep(wait)
	}
	return 255, false
}

// finish ends all that is left of a container's processes, drains its output and records its end.
func (m *Manager) finish(c *container, code int32, reason, message string) {
	c.mu.Lock()
	paths, io := c.paths, c.io
	c.mu.Unlock()
	if outOfMemory(paths) {
		reason, code = OOMKilled, 137
	}
	killGroup(paths)
	if io != nil {
		io.drain()
		if err := io.close(); err != nil {
			m.cfg.Log.Warn("close output of a container", "container", c.id, "error", err)
		}
	}
	if lib, err := libcontainer.Load(m.libRoot(), c.id); err == nil {
		if err := lib.Destroy(); err != nil {
			m.cfg.Log.Warn("remains of a container that has ended", "container", c.id, "error", err)
		}
	}
	_ = os.RemoveAll(filepath.Join(m.libRoot(), c.id))
	c.mu.Lock()
	c.io, c.process, c.stop = nil, nil, nil
	c.state.Status, c.state.PID, c.state.Finished = Exited, 0, time.Now()
	c.state.ExitCode, c.state.Reason, c.state.Message = code, reason, message
	state := c.state
	c.mu.Unlock()
	if err := m.saveState(state); err != nil {
		m.cfg.Log.Error("state of a container is not on disk", "container", c.id, "error", err)
	}
	close(c.ended)
	m.cfg.OnEvent(state)
}

// killGroup ends every process of a control group: what a container that shares its PID namespace has left, and what was executed in it.
func killGroup(paths map[string]string) {
	dir := paths[""]
	if dir == "" {
		for _, name := range []string{"pids", "memory", "cpu", "devices"} {
			if dir = paths[name]; dir != "" {
				break
			}
		}
	}
	if dir == "" {
		return
	}
	for range 100 {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil || len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}
