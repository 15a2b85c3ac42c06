package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	dataLink = "..data"
	tempLink = "..data_tmp"
)

// writeAtomically makes dir show these files, all at once: they are written into a new directory, to which the link ..data is
// then turned by a rename; what a container sees by name are links through ..data. It does nothing if they are there already.
func writeAtomically(dir string, files map[string]file, finish func(string) error) (changed bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	for name := range files {
		if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
			return false, fmt.Errorf("invalid path %q", name)
		}
	}
	old, err := root.Readlink(dataLink)
	if err == nil {
		if same(root, old, files) {
			return false, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return false, err
	}
	name := filepath.Base(fresh)
	defer func() {
		if err != nil {
			_ = root.RemoveAll(name)
		}
	}()
	if err := root.Chmod(name, 0o755); err != nil {
		return false, err
	}
	if err := writeAll(root, name, files); err != nil {
		return false, err
	}
	if err := finish(fresh); err != nil {
		return false, err
	}
	if err := root.RemoveAll(tempLink); err != nil {
		return false, err
	}
	if err := root.Symlink(name, tempLink); err != nil {
		return false, err
	}
	if err := root.Rename(tempLink, dataLink); err != nil {
		return false, err
	}
	if err := link(root, files); err != nil {
		return true, err
	}
	return true, tidy(root, name)
}

func writeAll(root *os.Root, dir string, files map[string]file) error {
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		if err := root.Chmod(path, f.mode); err != nil { // whatever the umask
			return err
		}
		if f.uid != nil {
			if err := root.Lchown(path, int(*f.uid), -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// same says whether the directory holds exactly these files.
func same(root *os.Root, dir string, files map[string]file) bool {
	count := 0
	err := fs.WalkDir(root.FS(), filepath.ToSlash(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := files[name]
		if !ok {
			return fs.ErrInvalid
		}
		data, err := root.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.data) {
			return fs.ErrInvalid
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

// link makes the names that containers see, and removes those of files that are no more.
func link(root *os.Root, files map[string]file) error {
	wanted := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(filepath.ToSlash(name), "/")
		wanted[top] = true
	}
	for top := range wanted {
		if _, err := root.Lstat(top); err == nil {
			continue
		}
		if err := root.Symlink(filepath.Join(dataLink, top), top); err != nil {
			return err
		}
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !wanted[e.Name()] {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidy removes directories that ..data no longer leads to, also those that a crash left.
func tidy(root *os.Root, keep string) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") && e.IsDir() && e.Name() != keep {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
