package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// timeFormat is that of CRI logs: RFC 3339 with all nine digits.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// maxPart is the most bytes of a line that stand in one entry (as containerd's default).
const maxPart = 16 << 10

// logFile is a container's log in the CRI's format: time, stream, P or F, text. An entry with P goes on in the next of its stream.
//
// What is read from a container is written at once, so that nothing waits in memory for the end of its line.
type logFile struct {
	mu   sync.Mutex
	path string
	file *os.File
	buf  []byte
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	if path == "" {
		return l, nil
	}
	return l, l.reopen()
}

// reopen goes on in a new file after the old one was renamed.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file = f
	return nil
}

// write adds what a stream has said, in one write.
func (l *logFile) write(stream string, now time.Time, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	l.buf = l.buf[:0]
	for len(data) > 0 {
		part, tag, rest := data, byte('P'), []byte(nil)
		if i := bytes.IndexByte(data, '\n'); i >= 0 && i <= maxPart {
			part, tag, rest = data[:i], 'F', data[i+1:]
		} else if len(data) > maxPart {
			part, rest = data[:maxPart], data[maxPart:]
		}
		l.buf = now.UTC().AppendFormat(l.buf, timeFormat)
		l.buf = append(l.buf, ' ')
		l.buf = append(l.buf, stream...)
		l.buf = append(l.buf, ' ', tag, ' ')
		l.buf = append(l.buf, part...)
		l.buf = append(l.buf, '\n')
		data = rest
	}
	_, err := l.file.Write(l.buf)
	if cap(l.buf) > 64<<10 {
		l.buf = nil
	}
	return err
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// ReopenLog goes on in a new file at the same path, after somebody has renamed the old one.
func (m *Manager) ReopenLog(id string) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	io := c.io
	c.mu.Unlock()
	if io == nil {
		return fmt.Errorf("reopen log of container %s: %w: it does not run", id, ErrState)
	}
	return io.log.reopen()
}

var errClosed = errors.New("output has ended")
