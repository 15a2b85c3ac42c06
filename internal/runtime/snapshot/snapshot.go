// Package snapshot gives each container its root file system: an overlay mount of its image's layers, which are shared and
// never change, under a directory of its own that takes what the container writes.
//
// It writes below one directory, DIR/ID for container ID: snapshot.json (the layers it stands on), upper and work (the overlay's),
// rootfs (the mount). It reads the image store's layers and deletes none of them; Layers tells that store which are in use.
//
// Always: snapshot.json is there before the mount is, so a layer under a mount is known to be in use whenever
// the process is killed. Removing a snapshot never goes into rootfs, so nothing that is mounted there can be deleted with it.
//
// The mounts are volatile: the kernel does not bring a container's own layer to the disk, not when a process in it
// calls fsync, nor (which would sync the whole disk for each container that ends) at unmount. Nothing is lost by it that could be used: what
// a container writes outside its volumes lives as long as the container, and no container outlives the machine's stop. A
// killed sampan-runtime changes nothing, since the mounts stay.
package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/runtime/image"
)

// ErrExists says that the container has a snapshot already.
var ErrExists = errors.New("snapshot exists")

// ErrNotFound says that the container has none.
var ErrNotFound = errors.New("no such snapshot")

// Usage is what a container has written to its own layer.
type Usage struct{ Bytes, Inodes uint64 }

// Store keeps the snapshots below one directory. The image store's lock keeps other processes out.
type Store struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex // guards all
	known map[string]note
}

// note is snapshot.json.
type note struct {
	Image  string   `json:"image"`
	Layers []string `json:"layers"` // lower directories, lowest first
}

// Open finds the snapshots below dir, and makes it if it is not there. It mounts and deletes nothing: see Reconcile.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	s := &Store{dir: dir, log: log, known: map[string]note{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), "snapshot.json"))
		var n note
		if err == nil {
			err = json.Unmarshal(data, &n)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("snapshot's note is damaged", "container", e.Name(), "err", err)
		}
		s.known[e.Name()] = n
	}
	return s, nil
}

// Prepare makes and mounts a container's root file system from an image, and gives its path.
func (s *Store) Prepare(containerID string, img *image.Image) (rootfs string, err error) {
	if !validID(containerID) {
		return "", fmt.Errorf("prepare snapshot: %q is no container ID", containerID)
	}
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("prepare snapshot %s: %w", containerID, err)
	}
	dir := filepath.Join(s.dir, containerID)
	err = img.Use(func() error {
		n := note{Image: img.ID, Layers: img.Layers}
		s.mu.Lock()
		_, exists := s.known[containerID]
		if !exists {
			s.known[containerID] = n
		}
		s.mu.Unlock()
		if exists {
			return ErrExists
		}
		return s.create(dir, n, img.Root())
	})
	if errors.Is(err, ErrExists) {
		return fail(err)
	}
	if err != nil {
		return fail(errors.Join(err, s.Remove(containerID)))
	}
	return filepath.Join(dir, "rootfs"), nil
}

// create makes a snapshot's directory and mounts it.
func (s *Store) create(dir string, n note, root string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "snapshot.json"), data, 0o600); err != nil {
		return err
	}
	for _, sub := range []string{"upper", "work", "rootfs"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	// The mount's own root directory is the upper one: it gets the mode and owner that the image gives its root.
	upper := filepath.Join(dir, "upper")
	like := unix.Stat_t{Mode: 0o755}
	if root != "" {
		if err := unix.Lstat(root, &like); err != nil {
			return fmt.Errorf("look at %s: %w", root, err)
		}
	}
	if err := os.Lchown(upper, int(like.Uid), int(like.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, like.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", upper, err)
	}
	lower := slices.Clone(n.Layers)
	slices.Reverse(lower) // the kernel wants the top first
	if len(lower) == 0 {
		empty := filepath.Join(dir, "empty")
		if err := os.Mkdir(empty, 0o755); err != nil {
			return err
		}
		lower = []string{empty}
	}
	return mount(overlay{lower: lower, upper: upper, work: filepath.Join(dir, "work"), target: filepath.Join(dir, "rootfs")})
}

// Remove unmounts and deletes a container's snapshot. One that is not there is no error.
func (s *Store) Remove(containerID string) error {
	if !validID(containerID) {
		return fmt.Errorf("remove snapshot: %q is no container ID", containerID)
	}
	dir := filepath.Join(s.dir, containerID)
	if err := unmount(filepath.Join(dir, "rootfs")); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", containerID, err)
	}
	// rootfs by rmdir, which fails on anything that is mounted or in there.
	if err := os.Remove(filepath.Join(dir, "rootfs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot %s: %w", containerID, err)
	}
	for _, sub := range []string{"upper", "work", "empty", ""} { // the note goes with the directory, last
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", containerID, err)
		}
	}
	s.mu.Lock()
	delete(s.known, containerID)
	s.mu.Unlock()
	return nil
}

// Reconcile removes all snapshots but those of the containers given: what a killed process or a restart of the machine has left.
// It tries them all and returns what failed.
func (s *Store) Reconcile(keep []string) error {
	var err error
	for _, id := range s.List() {
		if !slices.Contains(keep, id) {
			s.log.Info("removing a snapshot that no container has", "container", id)
			err = errors.Join(err, s.Remove(id))
		}
	}
	return err
}

// List gives the IDs of the containers that have a snapshot, sorted.
func (s *Store) List() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.known))
	for id := range s.known {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Layers gives every lower directory that some snapshot stands on: what image.Options.InUse asks.
func (s *Store) Layers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, n := range s.known {
		all = append(all, n.Layers...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Rootfs gives the path of a container's root file system, and whether it is mounted (it is not after the machine
// was restarted, and is not mounted again: see the package comment).
func (s *Store) Rootfs(containerID string) (path string, mounted bool, err error) {
	s.mu.Lock()
	_, ok := s.known[containerID]
	s.mu.Unlock()
	if !ok {
		return "", false, fmt.Errorf("root file system of %s: %w", containerID, ErrNotFound)
	}
	path = filepath.Join(s.dir, containerID, "rootfs")
	mounted, err = isMount(path)
	if err != nil {
		return "", false, fmt.Errorf("root file system of %s: %w", containerID, err)
	}
	return path, mounted, nil
}

// Usage counts what a container has written. It walks the upper directory: ask with care for the disk.
func (s *Store) Usage(containerID string) (Usage, error) {
	s.mu.Lock()
	_, ok := s.known[containerID]
	s.mu.Unlock()
	if !ok {
		return Usage{}, fmt.Errorf("usage of %s: %w", containerID, ErrNotFound)
	}
	u, err := usage(filepath.Join(s.dir, containerID, "upper"))
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", containerID, err)
	}
	return u, nil
}

// validID keeps an ID to one name in one directory.
func validID(id string) bool {
	return id != "" && len(id) <= 255 && !strings.HasPrefix(id, ".") && !strings.ContainsAny(id, "/\x00")
}
