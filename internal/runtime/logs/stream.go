package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	most  = 64 << 10 // bytes moved at once: what a FIFO holds
	waste = 16 << 10 // bytes of a spool that may be in the log already before their space is given back
)

// stream is one output of a container.
type stream struct {
	copier   *Copier
	number   int
	terminal bool
	fifo     *os.File // that a terminal's output passes through; nil without one
	from     *os.File
	raw      syscall.RawConn
	spool    *os.File
	size     int64 // of the spool: all that ever came
	done     int64 // of these bytes are in the log
	freed    int64 // of these bytes' space is given back
}

// buffers are shared by all containers, and used only while there is something to copy.
var buffers = sync.Pool{New: func() any { return &buffer{raw: make([]byte, most+maxLine), out: make([]byte, 0, most+maxLine)} }}

type buffer struct{ raw, out []byte }

func openStream(c *Copier, number int, dir string, from *os.File, terminal bool) (*stream, error) {
	s := &stream{copier: c, number: number, terminal: terminal, from: from, done: c.journal.done[number]}
	var err error
	if s.raw, err = from.SyscallConn(); err != nil {
		_ = from.Close()
		return nil, err
	}
	if s.spool, err = os.OpenFile(filepath.Join(dir, streamNames[number]+".spool"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		_ = from.Close()
		return nil, err
	}
	if terminal {
		if s.fifo, err = os.OpenFile(filepath.Join(dir, streamNames[number]), os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
			s.close()
			return nil, err
		}
	}
	info, err := s.spool.Stat()
	if err != nil {
		s.close()
		return nil, err
	}
	s.size = info.Size()
	s.done = min(s.done, s.size)
	return s, nil
}

func (s *stream) close() {
	_ = s.from.Close()
	_ = s.spool.Close()
	if s.fifo != nil {
		_ = s.fifo.Close()
	}
}

func (s *stream) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.from.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// What the one before us had no time for comes first; clients have seen it, or have gone.
	for known, ended := s.size, false; ; {
		err := s.empty(known, ended)
		known = s.size
		if err == nil && ended {
			return nil
		}
		if err == nil {
			if err = s.fill(); errors.Is(err, io.EOF) {
				ended, err = true, nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !s.pause(ctx, err) {
			return err
		}
	}
}

// pause says what went wrong and lets a second pass. Meanwhile the FIFO keeps what comes, and the container waits: better than to lose
// what may tell why. It returns false when there is no more time.
func (s *stream) pause(ctx context.Context, err error) bool {
	s.copier.log.Error("container's output cannot be taken", "spool", s.spool.Name(), "error", err)
	select {
	case <-ctx.Done():
		return true
	case <-s.copier.finishing:
		return false
	case <-time.After(time.Second):
		return true
	}
}

// fill waits until something comes, and moves it to the spool. io.EOF: nobody has the other end any more.
func (s *stream) fill() error {
	if s.terminal {
		return s.fillFromTerminal()
	}
	var n int64
	var err error
	waitErr := s.wait(func(fd int) error {
		offset := s.size
		// The kernel moves the bytes and nothing interrupts it in between: the spool's size always tells how many have left the FIFO.
		n, err = unix.Splice(fd, nil, int(s.spool.Fd()), &offset, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return err
	})
	switch {
	case waitErr != nil:
		return waitErr
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	s.size += n
	return nil
}

// wait tries until there is something else to say than to come again. Once all that has been written by now is wanted and no more, that
// means the end.
func (s *stream) wait(try func(fd int) error) error {
	attempt := func(fd uintptr) bool {
		for {
			if err := try(int(fd)); !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	}
	err := s.raw.Read(attempt)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	select {
	case <-s.copier.finishing:
	default:
		return err
	}
	some := false
	if err := s.raw.Control(func(fd uintptr) { some = attempt(fd) }); err != nil {
		return err
	}
	if !some {
		return io.EOF
	}
	return nil
}

// fillFromTerminal moves what comes by way of the FIFO: each step is one system call, and what is in the FIFO outlives this process if somebody
// else has it open.
func (s *stream) fillFromTerminal() error {
	if n, err := s.spill(); n > 0 || err != nil {
		return err // an earlier process has left it
	}
	n, err := int64(0), error(nil)
	waitErr := s.wait(func(fd int) error {
		n, err = unix.Splice(fd, nil, int(s.fifo.Fd()), nil, most, unix.SPLICE_F_NONBLOCK)
		return err
	})
	switch {
	case errors.Is(waitErr, unix.EIO), errors.Is(err, unix.EIO), waitErr == nil && err == nil && n == 0: // a terminal's way to say that its other side is closed
		return io.EOF
	case waitErr != nil:
		return waitErr
	case err != nil:
		return err
	}
	_, err = s.spill()
	return err
}

// spill moves what is in a terminal's FIFO to the spool.
func (s *stream) spill() (int64, error) {
	offset := s.size
	n, err := unix.Splice(int(s.fifo.Fd()), nil, int(s.spool.Fd()), &offset, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("move a terminal's output: %w", err)
	}
	s.size += n
	return n, nil
}

// empty brings what is in the spool into the log, and what came after known to those attached.
func (s *stream) empty(known int64, last bool) error {
	if s.done == s.size {
		return nil
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for s.done < s.size {
		raw := b.raw[:min(int64(len(b.raw)), s.size-s.done)]
		if _, err := s.spool.ReadAt(raw, s.done); err != nil {
			return fmt.Errorf("read spool of %s: %w", streamNames[s.number], err)
		}
		end := s.done + int64(len(raw))
		if known < end {
			s.copier.tell(s.number, raw[max(known-s.done, 0):])
			known = end
		}
		lines, used := format(b.out[:0], raw, s.number, time.Now(), last && end == s.size)
		if used == 0 {
			break // the beginning of a line
		}
		b.out = lines[:0]
		if err := s.copier.commit(s.number, s.done+int64(used), lines); err != nil {
			return err
		}
		s.done += int64(used)
	}
	if cap(b.out) > 4*most {
		b.out = make([]byte, 0, most+maxLine) // many short lines made it large
	}
	if s.done-s.freed >= waste {
		// Not every file system can; then the spool stays until the container goes.
		_ = unix.Fallocate(int(s.spool.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.freed, s.done-s.freed)
		s.freed = s.done
	}
	return nil
}
