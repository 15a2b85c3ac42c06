package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// settle decides which directories an image is stacked from. A layer unpacked alone does not know what lies below it, so
// three things are settled here, once for each image: what a layer hides altogether, whose root directory counts, and the owner and mode
// of directories that a layer uses without having an entry for them: those are the lower layer's, and where that is another than was
// assumed, a second form of the layer is made, of hard links. The caller releases what is returned once the image is kept.
func (s *Store) settle(rec *record) (release func(), err error) {
	var stats []layerStat
	for _, l := range rec.Layers {
		st, err := readLayerStat(s.layerDir(l))
		if err != nil {
			return nil, err
		}
		rec.Size += st.Bytes
		stats = append(stats, st)
	}
	release = func() {}
	for i, st := range stats {
		if i == 0 || st.Root || rec.Root == "" {
			rec.Root = rec.Layers[i]
		}
		fixes := s.impliedFixes(rec.Layers[:i], rec.Layers[i], st)
		if len(fixes) == 0 {
			continue
		}
		layer, free, err := s.deriveLayer(rec.Layers[i], st, fixes)
		if err != nil {
			release()
			return nil, fmt.Errorf("fit layer %s to the ones below: %w", rec.Layers[i], err)
		}
		before := release
		release = func() { before(); free() }
		if rec.Root == rec.Layers[i] {
			rec.Root = layer
		}
		rec.Layers[i] = layer
	}
	for i := len(stats) - 1; i > 0; i-- {
		if stats[i].Opaque {
			rec.Layers = rec.Layers[i:]
			break
		}
	}
	if rec.Size == 0 {
		rec.Size = 1 // CRI wants more than nothing
	}
	return release, nil
}

// dirFix is one directory whose owner and mode a layer takes from below.
type dirFix struct {
	path     string
	uid, gid uint32
	mode     uint32
}

// impliedFixes finds the implied directories of a layer that lower layers have in another form.
func (s *Store) impliedFixes(lower []string, layer string, st layerStat) []dirFix {
	var fixes []dirFix
	for _, name := range st.Implied {
		own, ok := s.lstat(layer, name)
		if !ok || !own.Mode().IsDir() {
			continue
		}
		for i := len(lower) - 1; i >= 0; i-- {
			below, ok := s.lstat(lower[i], name)
			if !ok {
				continue
			}
			if a, b := own.Sys().(*unixStat), below.Sys().(*unixStat); below.Mode().IsDir() && (a.Uid != b.Uid || a.Gid != b.Gid || a.Mode != b.Mode) {
				fixes = append(fixes, dirFix{name, b.Uid, b.Gid, b.Mode & 0o7777})
			}
			break
		}
	}
	return fixes
}

// lstat looks at a path in a layer without leaving it.
func (s *Store) lstat(layer, name string) (fs.FileInfo, bool) {
	root, err := os.OpenRoot(filepath.Join(s.layerDir(layer), "fs"))
	if err != nil {
		return nil, false
	}
	defer root.Close()
	info, err := root.Lstat(name)
	return info, err == nil
}

// deriveLayer makes a layer that is another one but for the directories given, and holds it.
func (s *Store) deriveLayer(from string, st layerStat, fixes []dirFix) (string, func(), error) {
	h := sha256.New()
	fmt.Fprintf(h, "derived from %s\n", from)
	for _, f := range fixes {
		fmt.Fprintf(h, "%q %d %d %o\n", f.path, f.uid, f.gid, f.mode)
	}
	layer := "sha256:" + hex.EncodeToString(h.Sum(nil))
	release := s.hold([]string{layer})
	if s.hasLayer(layer) {
		return layer, release, nil
	}
	err := func() error {
		tmp, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "derive-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		to := filepath.Join(tmp, "fs")
		if err := linkTree(filepath.Join(s.layerDir(from), "fs"), to, ""); err != nil {
			return err
		}
		root, err := os.OpenRoot(to)
		if err != nil {
			return err
		}
		defer root.Close()
		for _, f := range fixes {
			if err := root.Lchown(f.path, int(f.uid), int(f.gid)); err != nil {
				return err
			}
			d, err := root.Open(f.path)
			if err != nil {
				return err
			}
			err = unix.Fchmod(int(d.Fd()), f.mode)
			_ = d.Close()
			if err != nil {
				return fmt.Errorf("chmod %s: %w", f.path, err)
			}
		}
		st.Bytes = 0 // counted for the layer that it shares them with
		if err := s.commitLayer(tmp, layer, st); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}()
	if err != nil {
		release()
		return "", nil, err
	}
	return layer, release, nil
}
