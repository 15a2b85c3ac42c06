package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errGone says that a process is no more.
var errGone = errors.New("process is gone")

// process is a hold on a container's first process, a child of ours or not. A signal sent through it never reaches a stranger.
type process struct {
	pid   int
	start uint64 // clock ticks since boot: tells it from a later one of the same number
	file  *os.File
}

// openProcess takes hold of a process that is there or has not been reaped yet; errGone if it has.
func openProcess(pid int, start uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// The descriptor is held: if its process is the one meant now, it is for ever.
	s, err := readStat(pid)
	if err == nil && s.start != start {
		err = errGone
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &process{pid, start, os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (p *process) close() { _ = p.file.Close() }

func (p *process) control(f func(fd int)) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// signal does nothing to a process that has ended.
func (p *process) signal(sig unix.Signal) {
	_ = p.control(func(fd int) { _ = unix.PidfdSendSignal(fd, sig, nil, 0) })
}

// wait returns nil when the process has ended, asleep in the kernel and without a thread; or ctx's error.
func (p *process) wait(ctx context.Context) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool { return poll(int(fd), 0) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// poll says whether a pidfd's process has ended.
func poll(fd, milliseconds int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, milliseconds)
	return err == nil && n > 0
}

// reapTimeout is how long whoever inherited a process may take to reap it; some do so once a second.
const reapTimeout = 10 * time.Second

// autopsy finds out how a process ended that is not our child. As long as nobody has reaped it, /proc tells; from then on its pidfd does
// (Linux 6.15).
func (p *process) autopsy() (code int32, known bool) {
	for end := time.Now().Add(reapTimeout); ; time.Sleep(5 * time.Millisecond) {
		if s, err := readStat(p.pid); err == nil && s.start == p.start && (s.state == 'Z' || s.state == 'X') {
			return exitCode(syscall.WaitStatus(s.status)), true
		}
		silent := false
		err := p.control(func(fd int) {
			if code, known = exitInfo(fd); !known && errors.Is(unix.PidfdSendSignal(fd, 0, nil, 0), unix.ESRCH) {
				// It may have been reaped between the two questions.
				code, known = exitInfo(fd)
				silent = !known // an older kernel
			}
		})
		if known || silent || err != nil || time.Now().After(end) {
			return code, known
		}
	}
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h in its first published size.
type pidfdInfo struct {
	mask, cgroup             uint64
	pid, tgid, ppid          uint32
	ruid, rgid, euid, egid   uint32
	suid, sgid, fsuid, fsgid uint32
	exitCode                 int32
}

const (
	pidfdInfoExit = 1 << 3
	pidfdGetInfo  = 0xc000ff0b | unsafe.Sizeof(pidfdInfo{})<<16 // _IOWR(0xFF, 11, struct pidfd_info)
)

// exitInfo asks the kernel how a process ended. It tells once the process is reaped.
func exitInfo(fd int) (int32, bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 255, false
	}
	return exitCode(syscall.WaitStatus(info.exitCode)), true
}

func exitCode(ws syscall.WaitStatus) int32 {
	if ws.Signaled() {
		return 128 + int32(ws.Signal())
	}
	return int32(ws.ExitStatus())
}

type stat struct {
	state  byte
	start  uint64
	status uint32 // wait status of a zombie; readable for root only
}

// readStat reads /proc/PID/stat (proc_pid_stat(5)). The command may hold spaces and parentheses; what follows its last one does not.
func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, errGone
	}
	if err != nil {
		return stat{}, err
	}
	end := bytes.LastIndexByte(data, ')')
	f := bytes.Fields(data[end+1:])
	const state, start, exitCode = 0, 19, 49 // fields 3, 22 and 52, counted after the command
	if end < 0 || len(f) <= exitCode {
		return stat{}, fmt.Errorf("process %d: /proc/PID/stat has %d fields", pid, len(f))
	}
	s := stat{state: f[state][0]}
	if s.start, err = strconv.ParseUint(string(f[start]), 10, 64); err != nil {
		return stat{}, fmt.Errorf("process %d: start time: %w", pid, err)
	}
	status, err := strconv.ParseUint(string(f[exitCode]), 10, 32)
	if err != nil {
		return stat{}, fmt.Errorf("process %d: exit code: %w", pid, err)
	}
	s.status = uint32(status)
	return s, nil
}
