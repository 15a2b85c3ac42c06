// Package runtimeproc keeps one sampan-runtime running beside sampan.
//
// It watches that one process, through a pidfd, and writes its log file. Always: a runtime that runs already from the same program
// file is left alone, since it is the parent of containers; one of another build is replaced, which its containers outlive.
package runtimeproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process says how the runtime is started.
type Process struct {
	Program string   // path of the executable
	Args    []string // without the program's name
	Socket  string   // where it will serve; an answer there means it is up
	Log     string   // the file that takes its standard output and error
	Logger  *slog.Logger
}

// startTimeout bounds how long a runtime may take until it serves.
const startTimeout = 20 * time.Second

// Start returns once a runtime serves on the socket: the one that already does, or a new one.
func (p *Process) Start(ctx context.Context) (pid int, err error) {
	if pid, err := PeerPID(p.Socket); err == nil {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == p.Program {
			return pid, nil
		}
		p.Logger.Info("replacing the runtime of another build; containers run on", "pid", pid)
		if err := Stop(ctx, pid); err != nil {
			return 0, fmt.Errorf("replace sampan-runtime: %w", err)
		}
	}
	return p.start(ctx)
}

func (p *Process) start(ctx context.Context) (int, error) {
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return 0, fmt.Errorf("start sampan-runtime: %w", err)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return 0, fmt.Errorf("start sampan-runtime: %w", err)
	}
	defer log.Close()
	var before int64
	if info, err := log.Stat(); err == nil {
		before = info.Size()
	}
	cmd := exec.Command(p.Program, p.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	// A session of its own: what ends sampan's terminal or process group does not reach the containers' parent.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start sampan-runtime: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // returns with the process, which may outlive us: then init reaps it
	// The runtime is asked for, not polled for long: it serves within milliseconds.
	deadline := time.After(startTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if pid, err := PeerPID(p.Socket); err == nil && pid == cmd.Process.Pid {
			return pid, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case err := <-ended:
			return 0, fmt.Errorf("sampan-runtime ended at its start (%v): %s", err, tail(p.Log, before))
		case <-deadline:
			return 0, fmt.Errorf("sampan-runtime does not serve on %s after %v: see %s", p.Socket, startTimeout, p.Log)
		case <-time.After(wait):
		}
	}
}

// Run keeps the runtime up until ctx ends: pid is the one that Start returned. It leaves the runtime running.
func (p *Process) Run(ctx context.Context, pid int) error {
	for {
		started := time.Now()
		if err := wait(ctx, pid); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch sampan-runtime (pid %d): %w", pid, err)
		}
		p.Logger.Warn("sampan-runtime has ended; starting it again, containers run on", "pid", pid, "log", p.Log)
		// A runtime that dies at once is not started more than once a second.
		if pause := time.Second - time.Since(started); pause > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
		for attempt := 1; ; attempt++ {
			var err error
			if pid, err = p.Start(ctx); err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			delay := min(time.Duration(attempt)*time.Second, 30*time.Second)
			p.Logger.Error("sampan-runtime does not start", "attempt", attempt, "again in", delay, "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(delay):
			}
		}
	}
}

// PeerPID returns the process that serves on a unix socket, as the kernel knows it (SO_PEERCRED).
func PeerPID(socket string) (int, error) {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Pid), nil
}

// Stop ends a process with SIGTERM, after 10 s with SIGKILL, and returns once it has gone. A process that is not there is no error.
func Stop(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := Wait(soon, pid)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("end process %d: it does not go even with SIGKILL", pid)
}

// tail returns the last lines that a process wrote to its log, for an error message.
func tail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "no log"
	}
	from = max(from, info.Size()-1000)
	buf := make([]byte, max(info.Size()-from, 0))
	n, _ := f.ReadAt(buf, from)
	if n == 0 {
		return "it said nothing"
	}
	return string(buf[:n])
}
