// Package logs copies what containers write to their log files, in the CRI's format, and to whoever is attached.
//
// A container writes into FIFOs that it has open for reading and writing itself, so that it neither ends nor waits for long while no
// runtime runs. From a FIFO the kernel moves the bytes into a spool file (splice); from the spool, whole lines are appended to the log;
// a journal says how far the spool is in the log. Where the
// container has a terminal, its output passes through the first FIFO.
//
// It writes below one directory of the container's (stdout, stderr: the FIFOs; stdout.spool, stderr.spool; journal) and the log.
// Always: each byte is in the FIFO, in the spool or in the log, and nowhere twice, so the process can be killed at any
// moment and the next one goes on with no line lost or doubled. Where the log cannot be written, lines are dropped and that is told;
// the container is not held up by a full disk.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Copier copies one container's output.
type Copier struct {
	path string // of the log; empty: nothing is logged
	log  *slog.Logger
	in   []*stream

	mu        sync.Mutex // guards the fields below, and orders what is written to the log and the journal
	journal   *journal
	file      *os.File // the log, or nil
	inode     uint64
	closed    bool
	dropped   int64
	complain  time.Time // when a failure may be told again
	attached  map[*attachment]struct{}
	attaching chan struct{} // closed once nothing more will come

	finish    sync.Once
	finishing chan struct{} // closed when only what has been written already is still wanted
}

// Make makes the FIFOs of a container in dir, called stdout and stderr. The container's own ends are opened for reading and writing, so
// that it never finds itself without a reader.
func Make(dir string) error {
	for _, name := range streamNames {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make FIFO for %s: %w", name, err)
		}
	}
	return nil
}

// Open makes ready to copy what comes out of the FIFOs in dir, or out of a terminal if that is not nil, to the log at path. It goes on
// where another process stopped.
func Open(dir, path string, terminal *os.File, log *slog.Logger) (_ *Copier, err error) {
	c := &Copier{path: path, log: log, attached: map[*attachment]struct{}{}, attaching: make(chan struct{}), finishing: make(chan struct{})}
	defer func() {
		if err != nil {
			c.close()
			err = fmt.Errorf("copy output: %w", err)
		}
	}()
	if c.journal, err = openJournal(filepath.Join(dir, "journal")); err != nil {
		return nil, err
	}
	if err := c.journal.settle(path); err != nil {
		return nil, err
	}
	if err := c.reopen(); err != nil {
		return nil, err
	}
	if terminal != nil {
		s, err := openStream(c, Stdout, dir, terminal, true)
		if err != nil {
			return nil, err
		}
		c.in = append(c.in, s)
		return c, nil
	}
	for i, name := range streamNames {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		s, err := openStream(c, i, dir, f, false)
		if err != nil {
			return nil, err
		}
		c.in = append(c.in, s)
	}
	return c, nil
}

// Run copies until all writers have closed their ends, and all is in the log; until Finish; or until ctx ends.
func (c *Copier) Run(ctx context.Context) error {
	defer c.close()
	var g errgroup.Group
	for _, s := range c.in {
		g.Go(func() error { return s.run(ctx) })
	}
	err := g.Wait()
	close(c.attaching)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Finish has Run end once what has been written by now is in the log, whoever else has the FIFOs open, and wait for no client.
func (c *Copier) Finish() {
	c.finish.Do(func() {
		close(c.finishing)
		for _, s := range c.in {
			_ = s.from.SetReadDeadline(time.Unix(1, 0))
		}
	})
}

// Abandon closes a copier that Run is not called for.
func (c *Copier) Abandon() { c.close() }

func (c *Copier) close() {
	for _, s := range c.in {
		s.close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.journal != nil {
		_ = c.journal.file.Close()
	}
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}

// Reopen goes on in a new file at the log's path, after the old one was renamed. If it fails, the old one is kept.
func (c *Copier) Reopen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.reopen()
}

func (c *Copier) reopen() error {
	if c.path == "" {
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(c.path), 0o755); err == nil {
			f, err = os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		}
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return fmt.Errorf("open log %s: %w", c.path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = f.Close()
		return fmt.Errorf("open log %s: it is not a file", c.path)
	}
	if c.file != nil {
		_ = c.file.Close()
	}
	c.file, c.inode = f, st.Ino
	return nil
}

// commit appends lines to the log; with them, a stream's spool is in the log up to upTo.
func (c *Copier) commit(stream int, upTo int64, lines []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil || len(lines) == 0 {
		c.journal.done[stream] = upTo
		return c.journal.write()
	}
	// Asked for each time: somebody may have emptied the file under our hands.
	before, err := c.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find end of log: %w", err)
	}
	c.journal.intent = intent{int64(stream), upTo, c.inode, before, int64(len(lines))}
	if err := c.journal.write(); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if _, err := c.file.Write(lines); err != nil {
		c.drop(before, lines, err)
	}
	c.journal.intent.Stream = noIntent
	c.journal.done[stream] = upTo
	if err := c.journal.write(); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// drop tells that lines could not be written, once a minute; c.mu is held.
func (c *Copier) drop(before int64, lines []byte, err error) {
	_ = c.file.Truncate(before)
	c.dropped += int64(len(lines))
	if now := time.Now(); now.After(c.complain) {
		c.complain = now.Add(time.Minute)
		c.log.Error("container's log cannot be written: its lines are dropped", "log", c.path, "dropped bytes", c.dropped, "error", err)
	}
}
