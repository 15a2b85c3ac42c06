// Package hold keeps a container's descriptors open while no runtime runs: the master of its terminal, or the only writer of its input.
//
// Such a container would end with the runtime that holds them. A small process of this same program, started beside it, holds them too and gives
// them to the next runtime that asks, over a unix socket. It writes that socket and nothing else.
// Always: it ends when it is told to, and soon after the container's end if nobody comes for what it holds.
package hold

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Requests, a byte each.
const (
	give = 'g'
	quit = 'q'
)

// The descriptors that a holder is started with: its socket, the container's first process, and then what it holds.
const (
	socketFD = 3
	pidFD    = 4
	firstFD  = 5
)

const (
	patience = time.Minute            // for a runtime to come after the container's end
	pause    = 200 * time.Millisecond // between looks whether the container's directory is still there, after its end
	timeout  = 5 * time.Second        // of one request
	mostHeld = 8
)

// Start has a process of its own hold the files as long as the process of that number runs, reachable at path. This program's main must call Main
// for the argument "hold".
func Start(path string, pid int, files ...*os.File) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("hold descriptors: %w", err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("hold descriptors: %w", err)
	}
	defer unix.Close(socket)
	err = short(path, func(address string) error {
		return errors.Join(unix.Bind(socket, &unix.SockaddrUnix{Name: address}), unix.Listen(socket, 4))
	})
	if err != nil {
		return fmt.Errorf("hold descriptors at %s: %w", path, err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("hold descriptors of process %d: %w", pid, err)
	}
	defer unix.Close(process)
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("hold descriptors: %w", err)
	}
	defer unix.Close(null)
	fds := []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(socket), uintptr(process)}
	// Not by os/exec, which makes descriptors block: whoever else has them reads by the poller.
	return with(files, fds, func(fds []uintptr) error {
		child, err := syscall.ForkExec("/proc/self/exe", []string{os.Args[0], "hold", strconv.Itoa(len(files)), path}, &syscall.ProcAttr{
			Env: []string{"GOMAXPROCS=1"}, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return fmt.Errorf("start holder: %w", err)
		}
		go func() { // reaps it; if we end before, init does
			if p, err := os.FindProcess(child); err == nil {
				_, _ = p.Wait()
			}
		}()
		return nil
	})
}

// with calls f with the descriptors of all files, which cannot be closed meanwhile.
func with(files []*os.File, fds []uintptr, f func(fds []uintptr) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = with(files[1:], append(fds, fd), f) })
	return errors.Join(err, inner)
}

// Take asks the holder at path for what it holds.
func Take(path string) (files []*os.File, err error) {
	conn, err := ask(path, give)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4*mostHeld))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, fmt.Errorf("take descriptors at %s: %w", path, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("take descriptors at %s: %d messages, %w", path, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, fmt.Errorf("take descriptors at %s: %w", path, err)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "held"))
	}
	return files, nil
}

// End has the holder at path let go. It is no error if there is none.
func End(path string) {
	if conn, err := ask(path, quit); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // until it has gone
		_ = conn.Close()
	}
	_ = os.Remove(path)
}

// short calls f with a name of the socket that fits into an address, which has room for 108 bytes (unix(7)): a container's ID alone takes 64.
func short(path string, f func(address string) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}

func ask(path string, request byte) (conn *net.UnixConn, err error) {
	err = short(path, func(address string) error {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask holder at %s: %w", path, err)
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte{request}); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("ask holder at %s: %w", path, err)
	}
	return conn, nil
}

// Main is what a holder does; args are those after "hold". It returns the exit code.
func Main(args []string) int {
	debug.SetGCPercent(20)
	if len(args) != 2 {
		return 2
	}
	count, err := strconv.Atoi(args[0])
	if err != nil || count < 1 || count > mostHeld {
		return 2
	}
	listener, err := net.FileListener(os.NewFile(socketFD, "socket"))
	if err != nil {
		return 1
	}
	fds := make([]int, count)
	for i := range fds {
		fds[i] = firstFD + i
	}
	go serve(listener.(*net.UnixListener), fds)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: pidFD, Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pause) {
		if _, err := os.Stat(args[1]); err != nil {
			break
		}
	}
	return 0
}

func serve(listener *net.UnixListener, fds []int) {
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(timeout))
		request := make([]byte, 1)
		if _, err := conn.Read(request); err == nil {
			switch request[0] {
			case give:
				_, _, _ = conn.WriteMsgUnix([]byte{give}, unix.UnixRights(fds...), nil)
			case quit:
				os.Exit(0)
			}
		}
		_ = conn.Close()
	}
}
