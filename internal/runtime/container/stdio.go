package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stdio is a running container's input and output.
//
// Standard output and error are FIFOs. The container's end is open for reading and writing, and so is ours: a container never finds itself without a
// reader, whoever has died, and what it writes meanwhile waits in the kernel.
type stdio struct {
	log     *logFile
	streams []*stream
	stdin   *os.File // the end that is written to; nil if the container has none
	console *os.File // the terminal's master; nil without one
	copying sync.WaitGroup

	mu       sync.Mutex
	watchers map[*attached]struct{}
}

// stream is one FIFO or terminal being copied to the log.
type stream struct {
	name string
	file *os.File
}

// attached is somebody who gets output besides the log.
type attached struct {
	stdout, stderr io.Writer
	failed         chan error // the first write that failed
}

func (m *Manager) fifo(id, name string) string { return filepath.Join(m.runDir(id), name) }

// makeFIFOs makes a container's FIFOs, which stay until it is removed.
func (m *Manager) makeFIFOs(s *Spec) error {
	if err := os.MkdirAll(m.runDir(s.ID), 0o700); err != nil {
		return err
	}
	for _, name := range []string{"stdout", "stderr", "stdin"} {
		if err := unix.Mkfifo(m.fifo(s.ID, name), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make FIFO %s: %w", name, err)
		}
	}
	return nil
}

// openStdio opens our ends of a container's FIFOs; copying begins with run.
func (m *Manager) openStdio(s *Spec) (*stdio, error) {
	log, err := openLog(s.LogPath)
	if err != nil {
		return nil, err
	}
	out := &stdio{log: log, watchers: map[*attached]struct{}{}}
	if !s.TTY {
		for _, name := range []string{"stdout", "stderr"} {
			f, err := os.OpenFile(m.fifo(s.ID, name), os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil, errors.Join(err, out.close())
			}
			out.streams = append(out.streams, &stream{name, f})
		}
	}
	if s.Stdin && !s.TTY {
		// Open for both, so that opening needs no reader on the other side.
		if out.stdin, err = os.OpenFile(m.fifo(s.ID, "stdin"), os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
			return nil, errors.Join(err, out.close())
		}
	}
	return out, nil
}

// run copies until the streams are drained.
func (s *stdio) run(onError func(error)) {
	for _, st := range s.streams {
		s.copying.Go(func() {
			if err := s.copy(st); err != nil {
				onError(fmt.Errorf("copy %s: %w", st.name, err))
			}
		})
	}
}

// buffers are shared by all streams: an idle one holds none.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copy moves a stream into the log until its deadline has passed and it is empty, or a terminal has hung up.
func (s *stdio) copy(st *stream) error {
	raw, err := st.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	for {
		ended := false
		err := raw.Read(func(fd uintptr) bool {
			for {
				buf := buffers.Get().(*[32 << 10]byte)
				n, err := unix.Read(int(fd), buf[:])
				if n > 0 {
					if err := s.say(st.name, buf[:n]); err != nil && failed == nil {
						failed = err // the container is not stopped by a full disk: what it says is taken and lost
					}
				}
				buffers.Put(buf)
				switch {
				case n > 0 || errors.Is(err, unix.EINTR):
					continue
				case errors.Is(err, unix.EAGAIN):
					return false
				default: // a terminal without a slave gives EIO
					ended = true
					return true
				}
			}
		})
		if ended || err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
				err = nil
			}
			return errors.Join(err, failed)
		}
	}
}

func (s *stdio) say(stream string, data []byte) error {
	err := s.log.write(stream, time.Now(), data)
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.watchers {
		w := a.stdout
		if stream == "stderr" {
			w = a.stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(data); err != nil {
			delete(s.watchers, a)
			a.failed <- err
		}
	}
	return err
}

// drain ends copying once everything that was written has been read. The container's processes have ended by then.
func (s *stdio) drain() {
	for _, st := range s.streams {
		// What is in the FIFO is read before the deadline is looked at: a read that finds nothing then ends.
		_ = st.file.SetReadDeadline(time.Now())
	}
	s.copying.Wait()
	for _, st := range s.streams {
		s.rest(st)
	}
}

// rest reads what came between the last read and the deadline.
func (s *stdio) rest(st *stream) {
	raw, err := st.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		buf := buffers.Get().(*[32 << 10]byte)
		defer buffers.Put(buf)
		for {
			n, err := unix.Read(int(fd), buf[:])
			if n > 0 {
				_ = s.say(st.name, buf[:n])
			} else if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
}

func (s *stdio) close() error {
	err := s.log.close()
	for _, st := range s.streams {
		err = errors.Join(err, st.file.Close())
	}
	if s.stdin != nil {
		err = errors.Join(err, s.stdin.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.watchers {
		a.failed <- errClosed
	}
	s.watchers = map[*attached]struct{}{}
	return err
}
