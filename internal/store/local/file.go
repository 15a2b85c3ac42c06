package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"sampan.dev/internal/store"
)

// file is what the engine asks of an open file; tests put a disk that fails and forgets in its place.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error // all bytes, and the length, are on disk
}

type osFile struct{ *os.File }

// Sync leaves out what reading the bytes back does not need, such as the time of change.
func (f osFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync "+f.Name(), err)
		}
	}
}

func openFile(path string, flag int) (file, int64, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return osFile{f}, info.Size(), nil
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, store.ErrNoSpace)
}

// Names in the directory. Revisions are written with leading zeros, so that names sort as revisions do.
const (
	lockName   = "lock"
	logEnd     = ".log"  // REVISION.log: records from that revision on, every one of them
	baseEnd    = ".base" // REVISION.base: what was left at that revision of all before
	unfinished = ".tmp"
)

func fileName(revision int64, end string) string { return fmt.Sprintf("%019d%s", revision, end) }

func parseName(name, end string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, end)
	if !ok || len(digits) != 19 {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n >= 0
}

// lockDir takes the directory for this process until the returned file is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, fmt.Errorf("%w by %s", ErrLocked, holder(f))
		}
		return nil, os.NewSyscallError("flock "+f.Name(), err)
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if _, err := f.WriteAt([]byte(pid), 0); err != nil && !isFull(err) {
		return nil, errors.Join(err, f.Close())
	}
	return f, f.Truncate(int64(len(pid)))
}

// holder says who has the lock, as well as can be known.
func holder(f io.Reader) string {
	line, err := io.ReadAll(io.LimitReader(f, 32))
	pid, perr := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || perr != nil {
		return "another process"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
