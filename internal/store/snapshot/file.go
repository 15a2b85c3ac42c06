package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sampan.dev/internal/store"
)

const (
	ending     = ".snapshot"
	unfinished = ".tmp"
)

// internalKey is how Kubernetes' servers on one etcd agree who compacts. It says nothing of the cluster, and would mislead those on another etcd.
const internalKey = "compact_rev_key"

// Info is what is known of a file without reading all of it.
type Info struct {
	Head
	Name string
	Size int64
	Err  error // why the head cannot be read; the file is not a snapshot or is damaged
}

// Save writes a snapshot of the store into dir, named for its time and revision, and returns what it is. The store goes on meanwhile.
func Save(ctx context.Context, s store.Store, dir string, now time.Time) (Info, error) {
	records, revision, err := contents(ctx, s)
	if err != nil {
		return Info{}, fmt.Errorf("save snapshot: %w", err)
	}
	head := Head{Revision: revision, Count: int64(len(records)), Time: now.UTC()}
	name := head.file()
	size, err := writeFile(dir, name, func(w io.Writer) error { return Encode(w, head, records) })
	if err != nil {
		return Info{}, fmt.Errorf("save snapshot: %w", err)
	}
	return Info{Head: head, Name: name, Size: size}, nil
}

// file is what a snapshot's file is called.
func (h Head) file() string {
	return fmt.Sprintf("%s-%d%s", h.Time.Format("20060102T150405Z"), h.Revision, ending)
}

// Receive writes a snapshot that comes as Stream sends it into dir, and returns what it is. What is not whole gets no name.
func Receive(r io.Reader, dir string) (Info, error) {
	var first bytes.Buffer
	head, err := readHead(io.TeeReader(r, &first))
	if err != nil {
		return Info{}, fmt.Errorf("save snapshot: %w", err)
	}
	size, err := writeFile(dir, head.file(), func(w io.Writer) error {
		_, records, err := Decode(io.TeeReader(io.MultiReader(&first, r), w))
		if err != nil {
			return err
		}
		for _, err := range records {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Info{}, fmt.Errorf("save snapshot: %w", err)
	}
	return Info{Head: head, Name: head.file(), Size: size}, nil
}

// contents are all records that matter, at one revision.
func contents(ctx context.Context, s store.Store) ([]store.Record, int64, error) {
	records, revision, err := s.List(ctx, "")
	if err != nil {
		return nil, 0, err
	}
	return slices.DeleteFunc(records, func(r store.Record) bool { return r.Key == internalKey }), revision, nil
}

// writeFile makes a file that has its name only when it is whole and on disk.
func writeFile(dir, name string, write func(io.Writer) error) (size int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(dir, name+".*"+unfinished) // readable by its owner alone: there are secrets in it
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return 0, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return size, nil // the file is there; only that its name is durable is not known
	}
	defer d.Close()
	_ = d.Sync()
	return size, nil
}

// List tells of the snapshots in a directory, the oldest first. A directory that is not there has none.
func List(dir string) ([]Info, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var all []Info
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), ending) || n.IsDir() {
			continue
		}
		all = append(all, inspect(filepath.Join(dir, n.Name())))
	}
	slices.SortFunc(all, func(a, b Info) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name)) })
	return all, nil
}

func inspect(path string) Info {
	i := Info{Name: filepath.Base(path)}
	f, err := os.Open(path)
	if err != nil {
		i.Err = err
		return i
	}
	defer f.Close()
	if stat, err := f.Stat(); err == nil {
		i.Size = stat.Size()
	}
	i.Head, i.Err = readHead(f)
	return i
}

// Verify reads a file to its end and fails if it is not as it was written.
func Verify(path string) (Info, error) {
	i := Info{Name: filepath.Base(path)}
	err := each(path, func(h Head, r store.Record) error { return nil }, &i.Head)
	if err != nil {
		return i, fmt.Errorf("verify snapshot: %w", err)
	}
	if stat, err := os.Stat(path); err == nil {
		i.Size = stat.Size()
	}
	return i, nil
}

// each calls f with every record of a file.
func each(path string, f func(Head, store.Record) error, head *Head) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	h, records, err := Decode(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	*head = h
	for r, err := range records {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := f(h, r); err != nil {
			return err
		}
	}
	return nil
}
