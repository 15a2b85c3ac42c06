package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Options say what of a log is wanted.
type Options struct {
	Follow     bool
	Timestamps bool
	Since      time.Time // zero: from the beginning
	Tail       int64     // lines from the end; negative: all
	Limit      int64     // bytes; 0: no limit
	Stdout     io.Writer // nil: not wanted
	Stderr     io.Writer
	Flush      func() // after each stretch of lines; may be nil
}

// stampFormat has nine digits always, so that lines align.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Read writes the log file at path as o says. A follower gets lines as they come, over rotations, until running says that
// the container has ended (the caller wakes the watcher then), ctx ends or nobody listens.
func Read(ctx context.Context, path string, o Options, w *Watcher, running func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	r := &reader{o: o, file: f, path: path}
	defer func() { r.file.Close() }()
	if o.Tail >= 0 {
		start, err := tailStart(f, o.Tail)
		if err != nil {
			return fmt.Errorf("read log %s: %w", path, err)
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return fmt.Errorf("read log %s: %w", path, err)
		}
	}
	r.in = bufio.NewReaderSize(f, 32<<10)
	if !o.Follow {
		return r.finish(r.copy())
	}
	watch, err := w.Watch(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("follow log: %w", err)
	}
	defer watch.Close()
	return r.finish(r.follow(ctx, watch, running))
}

// errEnough ends reading without a fault.
var errEnough = errors.New("as many bytes as were asked for")

func (r *reader) finish(err error) error {
	if errors.Is(err, errEnough) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

type reader struct {
	o       Options
	file    *os.File
	path    string
	in      *bufio.Reader
	pending []byte // of a line whose end is not written yet
	written int64
	inLine  [2]bool // of stdout, stderr: the last line was a part
}

func (r *reader) follow(ctx context.Context, watch *Watch, running func() bool) error {
	for {
		alive := running() // asked before reading: what it wrote until then is read
		if err := r.copy(); !errors.Is(err, io.EOF) {
			return err
		}
		turned, err := r.turn()
		if err != nil {
			return err
		}
		if turned {
			continue
		}
		if !alive {
			return nil
		}
		select {
		case <-watch.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// turn goes on with the next file once the runtime writes to another. The old one is read to its end first: the runtime
// makes the new file only when it is done with the old.
func (r *reader) turn() (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // being rotated: the next file is about to be made
	}
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	have, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("follow log: %w", err)
	}
	if os.SameFile(now, have) {
		return false, nil
	}
	if err := r.copy(); !errors.Is(err, io.EOF) { // what came between the last read and the new file
		return false, err
	}
	next, err := os.Open(r.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("follow log: %w", err)
	}
	r.file.Close()
	r.file = next
	r.in.Reset(next)
	r.pending = nil
	return true, nil
}

// copy writes all lines that are whole, and returns io.EOF at the end of the file.
func (r *reader) copy() error {
	if r.o.Flush != nil {
		defer r.o.Flush()
	}
	for {
		raw, err := r.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			r.pending = append(r.pending, raw...)
			continue
		case errors.Is(err, io.EOF):
			r.pending = append(r.pending, raw...)
			return io.EOF
		case err != nil:
			return fmt.Errorf("read log: %w", err)
		}
		if len(r.pending) > 0 {
			raw = append(r.pending, raw...)
			r.pending = r.pending[:0]
		}
		if err := r.write(raw); err != nil {
			return err
		}
	}
}

func (r *reader) write(raw []byte) error {
	l, err := parse(raw)
	if err != nil {
		return nil // a torn line, such as a full disk leaves behind
	}
	out, stream := r.o.Stdout, 0
	if l.stderr {
		out, stream = r.o.Stderr, 1
	}
	goesOn := r.inLine[stream]
	r.inLine[stream] = l.partial
	if out == nil || l.at.Before(r.o.Since) {
		return nil
	}
	if r.o.Timestamps && !goesOn {
		if err := r.put(out, l.at.AppendFormat(nil, stampFormat), []byte(" ")); err != nil {
			return err
		}
	}
	return r.put(out, l.text)
}

func (r *reader) put(out io.Writer, parts ...[]byte) error {
	data := bytes.Join(parts, nil)
	cut := r.o.Limit > 0 && int64(len(data)) >= r.o.Limit-r.written
	if cut {
		data = data[:r.o.Limit-r.written]
	}
	n, err := out.Write(data)
	r.written += int64(n)
	if err != nil {
		return err
	}
	if cut {
		return errEnough
	}
	return nil
}

// tailStart finds where the last n lines begin. A line that was written in parts counts once.
func tailStart(f io.ReaderAt, n int64) (int64, error) {
	size, err := sizeOf(f)
	if err != nil || n < 0 {
		return 0, err
	}
	const block = 64 << 10
	var buf []byte // the file from offset `from` on, up to the line last looked at
	from, found := size, int64(0)
	whole := false // the line last counted may have parts before it
	for from > 0 || len(buf) > 0 {
		end := len(buf)
		at := bytes.LastIndexByte(bytes.TrimSuffix(buf, []byte("\n")), '\n')
		if at < 0 && from > 0 {
			step := min(block, from)
			more := make([]byte, step, int(step)+end)
			if _, err := f.ReadAt(more, from-step); err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			buf, from = append(more, buf...), from-step
			continue
		}
		raw := buf[at+1:]
		if !isPartial(raw) || !whole {
			found++
			if found > n {
				return from + int64(end), nil
			}
			whole = true
		}
		buf = buf[:at+1]
	}
	return 0, nil
}

func sizeOf(f io.ReaderAt) (int64, error) {
	if s, ok := f.(*os.File); ok {
		info, err := s.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	return f.(interface{ Size() int64 }).Size(), nil
}

// Last returns the end of a log, at most so many lines and bytes, for a container that left no word itself.
func Last(path string, lines, limit int64) string {
	var out bytes.Buffer
	if err := Read(context.Background(), path, Options{Tail: lines, Stdout: &out, Stderr: &out}, nil, nil); err != nil {
		return ""
	}
	b := out.Bytes()
	if int64(len(b)) > limit {
		b = b[int64(len(b))-limit:]
	}
	return string(b)
}
