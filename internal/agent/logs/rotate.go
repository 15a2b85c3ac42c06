package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Rotate moves a log that has grown beyond max out of the way and has the runtime begin a new one. At most files of them stay,
// the one being written among them; all rotated ones but the youngest are compressed. It says whether it rotated.
func Rotate(path string, maxSize int64, files int, now time.Time, reopen func() error) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, reopen() // an interrupted rotation took the name away: the runtime begins a new file
		}
		return false, fmt.Errorf("rotate log: %w", err)
	}
	if info.Size() < maxSize {
		return false, nil
	}
	old, err := rotated(path)
	if err != nil {
		return false, fmt.Errorf("rotate log: %w", err)
	}
	keep := max(files-2, 0) // beside the one being written and the one being moved
	for len(old) > keep {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("rotate log: %w", err)
		}
		old = old[1:]
	}
	for _, name := range old {
		if !strings.HasSuffix(name, ".gz") {
			if err := compress(name); err != nil {
				return false, fmt.Errorf("rotate log: %w", err)
			}
		}
	}
	to := path + "." + now.UTC().Format("20060102-150405.000000")
	if err := os.Rename(path, to); err != nil {
		return false, fmt.Errorf("rotate log: %w", err)
	}
	if err := reopen(); err != nil {
		// The runtime still writes to the file it has: give it back its name.
		return false, errors.Join(fmt.Errorf("rotate log %s: reopen: %w", path, err), os.Rename(to, path))
	}
	return true, nil
}

// rotated lists the rotated files of a log, the oldest first, and removes what an interrupted compression left.
func rotated(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)+".") {
			continue
		}
		name := filepath.Join(filepath.Dir(path), e.Name())
		if strings.HasSuffix(name, ".tmp") {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
			continue
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all, nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path+".gz.tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	if _, err := io.Copy(zip, in); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := errors.Join(zip.Close(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".gz.tmp", path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
