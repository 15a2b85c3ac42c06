package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is the sole right to run sampan on a data directory. The kernel gives it back when the holder dies, however it dies.
type Lock struct{ file *os.File }

// RunningError says that a data directory is in use.
type RunningError struct {
	Dir string
	PID int // 0 if the holder has not written it yet
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("sampan already runs on %s (pid %d): stop it with `sampan down --data-dir %s`", e.Dir, e.PID, e.Dir)
}

// Lock takes the data directory, or returns a *RunningError.
func (i Instance) Lock() (*Lock, error) {
	if err := os.MkdirAll(i.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	f, err := os.OpenFile(i.lockPath(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		pid := readPID(f)
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, &RunningError{Dir: i.Dir, PID: pid}
		}
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	if err := os.MkdirAll(i.RunDir(), 0o700); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	if err := os.WriteFile(filepath.Join(i.RunDir(), "data-dir"), []byte(i.Dir+"\n"), 0o644); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", i.Dir, err)
	}
	return &Lock{f}, nil
}

// Release gives the data directory back.
func (l *Lock) Release() error { return l.file.Close() }

// Running returns the process that holds the data directory, or 0.
func (i Instance) Running() int {
	f, err := os.OpenFile(i.lockPath(), os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held); err != nil || held.Type == unix.F_UNLCK {
		return 0
	}
	return readPID(f)
}

func readPID(f *os.File) int {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	return pid
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
