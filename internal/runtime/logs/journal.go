package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// journal says how far each spool is in the log, and what is about to be written. It is one small file; a write of it is one system
// call, which a kill does not divide.
type journal struct {
	file   *os.File
	done   [streams]int64 // bytes of each spool that the log has
	intent intent
}

// intent is a write to the log under way. If the log is found longer than before, it happened.
type intent struct {
	Stream int64 // noIntent: none
	UpTo   int64 // what done becomes
	Inode  uint64
	Before int64 // the log's size
	Length int64 // of what is appended
}

const noIntent = -1

type journalForm struct {
	Done   [streams]int64
	Intent intent
}

func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, intent: intent{Stream: noIntent}}
	var form journalForm
	switch err := binary.Read(f, binary.NativeEndian, &form); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // new
	case err != nil:
		_ = f.Close()
		return nil, err
	default:
		j.done, j.intent = form.Done, form.Intent
	}
	return j, nil
}

func (j *journal) write() error {
	var buf [int(8 * (streams + 5))]byte
	if _, err := binary.Encode(buf[:], binary.NativeEndian, journalForm{j.done, j.intent}); err != nil {
		return err
	}
	_, err := j.file.WriteAt(buf[:], 0)
	return err
}

// settle finds out whether the write that was under way when the runtime died had happened, and takes half of one back.
func (j *journal) settle(logPath string) error {
	in := j.intent
	if in.Stream < 0 || in.Stream >= streams {
		return nil
	}
	path, size := findInode(logPath, in.Inode)
	switch {
	case path == "":
		// The file is deleted, or packed: it was whole when that was done.
		j.done[in.Stream] = in.UpTo
	case size >= in.Before+in.Length:
		j.done[in.Stream] = in.UpTo
	case size > in.Before:
		if err := os.Truncate(path, in.Before); err != nil {
			return fmt.Errorf("take back half a line: %w", err)
		}
	}
	j.intent.Stream = noIntent
	return j.write()
}

// findInode finds the log that a write went to: at its path, or beside it if it has been rotated away.
func findInode(path string, inode uint64) (found string, size int64) {
	if path == "" {
		return "", 0
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)) {
			continue
		}
		var st unix.Stat_t
		name := filepath.Join(filepath.Dir(path), e.Name())
		if unix.Lstat(name, &st) == nil && st.Ino == inode && st.Mode&unix.S_IFMT == unix.S_IFREG {
			return name, st.Size
		}
	}
	return "", 0
}
