package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/runtime/hold"
	"sampan.dev/internal/runtime/logs"
)

// stdio is a running container's input and output.
//
// The container's ends of its FIFOs are open for reading and writing: it never finds itself without a reader, whoever has died, and what it writes
// meanwhile waits in the kernel.
type stdio struct {
	copier  *logs.Copier
	copied  chan struct{} // closed once all output is in the log
	stdin   *os.File      // the end that is written to; nil if the container has none
	console *os.File      // the terminal's master; nil without one
}

func (m *Manager) fifo(id, name string) string { return filepath.Join(m.runDir(id), name) }

// makeFIFOs makes a container's FIFOs, which stay until it is removed.
func (m *Manager) makeFIFOs(s *Spec) error {
	if err := os.MkdirAll(m.runDir(s.ID), 0o700); err != nil {
		return err
	}
	if err := logs.Make(m.runDir(s.ID)); err != nil {
		return err
	}
	if err := unix.Mkfifo(m.fifo(s.ID, "stdin"), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make FIFO for stdin: %w", err)
	}
	return nil
}

// openStdio opens our ends of a container's FIFOs, or takes its terminal; copying begins with run.
func (m *Manager) openStdio(s *Spec, console *os.File) (*stdio, error) {
	copier, err := logs.Open(m.runDir(s.ID), s.LogPath, console, m.cfg.Log)
	if err != nil {
		return nil, err
	}
	out := &stdio{copier: copier, copied: make(chan struct{}), console: console}
	if s.Stdin && !s.TTY {
		// Open for both, so that opening needs no reader on the other side.
		if out.stdin, err = os.OpenFile(m.fifo(s.ID, "stdin"), os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
			copier.Abandon()
			return nil, err
		}
	}
	return out, nil
}

func (m *Manager) holder(id string) string { return filepath.Join(m.runDir(id), "hold") }

// hold has what the container would miss kept open while there is no manager: its terminal, or the only writer of an input that ends.
func (m *Manager) hold(s *Spec, pid int, io *stdio) {
	var kept []*os.File
	switch {
	case io.console != nil:
		kept = append(kept, io.console)
		// What a terminal has said may be in the FIFO that it passes through.
		if fifo, err := os.OpenFile(m.fifo(s.ID, "stdout"), os.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
			defer fifo.Close()
			kept = append(kept, fifo)
		}
	case s.Stdin && s.StdinOnce:
		kept = append(kept, io.stdin)
	default:
		return
	}
	if err := hold.Start(m.holder(s.ID), pid, kept...); err != nil {
		m.cfg.Log.Warn("container will not outlive this runtime", "container", s.ID, "error", err)
	}
}

// console gets a container's terminal back from its holder.
func (m *Manager) console(id string) (*os.File, error) {
	files, err := hold.Take(m.holder(id))
	if err != nil {
		return nil, err
	}
	for _, f := range files[1:] {
		f.Close()
	}
	return files[0], nil
}

// copyOutput copies until the container's end, or this manager's.
func (m *Manager) copyOutput(id string, s *stdio) {
	m.watching.Go(func() {
		defer close(s.copied)
		if err := s.copier.Run(m.closing); err != nil && m.closing.Err() == nil {
			m.cfg.Log.Warn("output of a container is lost", "container", id, "error", err)
		}
	})
}

// finish takes what has been written by now, and closes all.
func (s *stdio) finish() {
	s.copier.Finish()
	<-s.copied
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
}

// ReopenLog goes on in a new file at the same path, after somebody has renamed the old one.
func (m *Manager) ReopenLog(id string) error {
	s, err := m.io(id)
	if err != nil {
		return fmt.Errorf("reopen log of %w", err)
	}
	return s.copier.Reopen()
}

func (m *Manager) io(id string) (*stdio, error) {
	c, err := m.get(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.io == nil {
		return nil, fmt.Errorf("container %s: %w: it does not run", id, ErrState)
	}
	return c.io, nil
}

// Attach connects somebody with a running container's input and output until it ends, ctx ends, or they do not read any more.
func (m *Manager) Attach(ctx context.Context, id string, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan Size) error {
	s, err := m.io(id)
	if err != nil {
		return fmt.Errorf("attach to %w", err)
	}
	spec, ok := m.Spec(id)
	if !ok {
		return fmt.Errorf("attach to container %s: %w", id, ErrNotFound)
	}
	in := s.stdin
	if s.console != nil {
		in = s.console
		if sizes != nil {
			go resize(s.console, sizes)
		}
	}
	if stdin != nil && in != nil {
		go func() { // ends with the client's input, or the container's
			_, err := io.Copy(in, stdin)
			if err == nil && spec.StdinOnce && s.console == nil {
				in.Close() // the container sees the end of its input
				hold.End(m.holder(id))
			}
		}()
	}
	if err := s.copier.Attach(ctx, stdout, stderr); err != nil && ctx.Err() == nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	return nil
}
