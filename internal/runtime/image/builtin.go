package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// builtinRepo names the images that need no registry: they hold the running program itself.
const builtinRepo = "sampan.dev/hello"

var builtinVersions = []string{"1", "2"}

// builtinNote is builtin.json: which executable the layer was made of, so that it is read and hashed once only.
type builtinNote struct {
	Executable fileMark `json:"executable"`
	Copy       fileMark `json:"copy"`
	Layer      string   `json:"layer"`
}

// fileMark tells one state of a file from another without reading it.
type fileMark struct {
	Dev, Inode uint64
	Size       int64
	Modified   int64 // nanoseconds
}

func markOf(path string) (fileMark, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileMark{}, err
	}
	st := info.Sys().(*unixStat)
	return fileMark{st.Dev, st.Ino, info.Size(), info.ModTime().UnixNano()}, nil
}

// refuseBuiltin keeps other images from taking the built-in ones' names.
func refuseBuiltin(r Reference) error {
	if r.Repo() == builtinRepo {
		return fmt.Errorf("%s: images of this name are built in", r)
	}
	return nil
}

// ensureBuiltins makes the built-in images present and of this executable. After an upgrade the layer is another one, by its
// digest; containers made from the old one keep the old one.
func (s *Store) ensureBuiltins() error {
	layer, err := s.builtinLayer()
	if err != nil {
		return err
	}
	release := s.hold([]string{layer})
	defer release()
	upgraded := false
	for _, version := range builtinVersions {
		raw, err := json.Marshal(builtinConfig(layer, version))
		if err != nil {
			return err
		}
		name := builtinRepo + ":" + version
		s.mu.Lock()
		old, had := s.names[name]
		s.mu.Unlock()
		m, err := s.addImage(raw, name)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.builtins[name] = m.ID
		if had && old != m.ID {
			upgraded = true
			if s.nameless(old) {
				err = s.drop(old)
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if upgraded {
		return s.Collect()
	}
	return nil
}

// pullBuiltin is Pull for the built-in images: nothing is fetched.
func (s *Store) pullBuiltin(r Reference) (*Image, error) {
	if m, ok := s.Resolve(r.String()); ok {
		return m, nil
	}
	if err := s.ensureBuiltins(); err != nil { // after someone removed them
		return nil, fmt.Errorf("failed to pull image %q: %w", r, err)
	}
	if m, ok := s.Resolve(r.String()); ok {
		return m, nil
	}
	return nil, &NotFoundError{Ref: r.String(), Reason: fmt.Sprintf("failed to pull image %q: not found: the built-in images are %s:1 and %s:2", r, builtinRepo, builtinRepo)}
}

// builtinConfig is an image's configuration; the same layer and version give the same bytes, so the same ID.
func builtinConfig(layer, version string) *v1.ConfigFile {
	cfg := &v1.ConfigFile{OS: "linux", Architecture: thisPlatform().Architecture, RootFS: v1.RootFS{Type: "layers"}}
	hash, err := v1.NewHash(layer)
	if err != nil {
		panic(err) // made by builtinLayer
	}
	cfg.RootFS.DiffIDs = []v1.Hash{hash}
	cfg.Config = v1.Config{
		Entrypoint:   []string{"/hello", "hello"},
		Env:          []string{"PATH=/", "HELLO_VERSION=" + version},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		WorkingDir:   "/",
	}
	return cfg
}

// builtinLayer gives the layer with this executable as /hello, and makes it if need be.
func (s *Store) builtinLayer() (string, error) {
	notePath := filepath.Join(s.dir, "builtin.json")
	exe, err := markOf(s.opts.Executable)
	if err != nil {
		return "", err
	}
	var note builtinNote
	if data, err := os.ReadFile(notePath); err == nil && json.Unmarshal(data, &note) == nil && checkDigest(note.Layer) == "" {
		mark, err := markOf(filepath.Join(s.layerDir(note.Layer), "fs", "hello"))
		if err == nil && note.Executable == exe && note.Copy == mark {
			return note.Layer, nil
		}
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "builtin-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "fs", "hello")
	if err := makeBuiltinRoot(filepath.Dir(file)); err != nil {
		return "", err
	}
	if err := s.takeExecutable(file); err != nil {
		return "", err
	}
	layer, size, err := builtinDigest(file)
	if err != nil {
		return "", err
	}
	if err := s.keepBuiltin(tmp, layer, layerStat{Bytes: size, Inodes: 4, Root: true}); err != nil {
		return "", err
	}
	note = builtinNote{Executable: exe, Layer: layer}
	if note.Copy, err = markOf(filepath.Join(s.layerDir(layer), "fs", "hello")); err != nil {
		return "", err
	}
	data, err := json.Marshal(note)
	if err != nil {
		return "", err
	}
	next := filepath.Join(s.dir, "tmp", "builtin.json")
	if err := writeSynced(next, data); err != nil {
		return "", err
	}
	return layer, os.Rename(next, notePath)
}

// keepBuiltin gives the layer its name, unless it is there already: then containers may run from it, and it stays as it is. Only if
// it is a link to a file that was changed since does the new one take its place.
func (s *Store) keepBuiltin(tmp, layer string, stat layerStat) error {
	if s.hasLayer(layer) {
		if is, _, err := builtinDigest(filepath.Join(s.layerDir(layer), "fs", "hello")); err == nil && is == layer {
			return nil
		}
		left, err := s.discard(s.layerDir(layer))
		if err != nil {
			return err
		}
		defer os.RemoveAll(left)
	}
	return s.commitLayer(tmp, layer, stat)
}

func makeBuiltinRoot(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o777); err != nil {
		return err
	}
	return os.Chmod(tmp, 0o777|os.ModeSticky)
}

// takeExecutable puts the program at path: a hard link where all may run it and it is on the same file system, so that the
// machine's memory holds it once; else a copy.
func (s *Store) takeExecutable(path string) error {
	info, err := os.Stat(s.opts.Executable)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o555 == 0o555 {
		err := unix.Linkat(unix.AT_FDCWD, s.opts.Executable, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EMLINK) {
			return fmt.Errorf("link %s: %w", s.opts.Executable, err)
		}
	}
	from, err := os.Open(s.opts.Executable)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		return fmt.Errorf("copy %s: %w", s.opts.Executable, err)
	}
	if err := to.Chmod(0o755); err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

// builtinDigest is the diffID: of the archive that would unpack to this layer.
func builtinDigest(file string) (layer string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	w := tar.NewWriter(h)
	epoch := time.Unix(0, 0)
	for _, hdr := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: epoch},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, ModTime: epoch},
		{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755, Size: info.Size(), ModTime: epoch},
	} {
		if err := w.WriteHeader(hdr); err != nil {
			return "", 0, err
		}
	}
	if _, err := io.Copy(w, f); err != nil {
		return "", 0, fmt.Errorf("read %s: %w", file, err)
	}
	if err := w.Close(); err != nil {
		return "", 0, err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), info.Size(), nil
}
