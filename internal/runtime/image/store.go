package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// Image is one image that is present, as a plain value: it does not change once returned.
type Image struct {
	ID          string         // "sha256:…", the digest of the configuration
	RepoTags    []string       // "docker.io/library/nginx:latest", sorted
	RepoDigests []string       // "docker.io/library/nginx@sha256:…", sorted
	Size        int64          // bytes of the unpacked layers
	Config      *v1.ConfigFile // shared by everyone: never change it
	Layers      []string       // overlay lower directories, lowest first
	Pinned      bool           // built in: garbage collection should leave it

	root  string // the lower directory whose root gives mode and owner of "/"
	store *Store
}

// Root is the lower directory whose own mode and owner are those of the image's root directory; empty for an
// image without layers.
func (m *Image) Root() string { return m.root }

// Use calls f while the image's layers are sure not to be deleted. Whatever f makes must hold them by
// the time it returns, by being listed in Options.InUse.
func (m *Image) Use(f func() error) error {
	m.store.gc.RLock()
	defer m.store.gc.RUnlock()
	for _, dir := range m.Layers {
		if _, err := os.Lstat(dir); err != nil {
			return fmt.Errorf("image %s: layer is gone: %w", m.ID, err)
		}
	}
	return f()
}

// Auth is what a registry is told about the caller. The zero value is anonymous.
type Auth struct {
	Username, Password string
	Auth               string // base64 of "username:password", as in docker's configuration
	IdentityToken      string // exchanged for an access token
	RegistryToken      string // sent as bearer token
	ServerAddress      string // if set, the only registry that gets to see the rest
}

// Progress is one step of a pull or load.
type Progress struct {
	Status         string   `json:"status"` // "unpacking" or "present" of a layer, "loaded" of an image
	Layer          string   `json:"layer,omitempty"`
	Current, Total int64    `json:"-"`
	Image          string   `json:"image,omitempty"`
	Names          []string `json:"names,omitempty"`
}

// FsInfo is what the store uses of its file system.
type FsInfo struct {
	Dir           string
	Bytes, Inodes uint64
}

// Options of a store. Zero values are filled in by Open.
type Options struct {
	Log *slog.Logger

	// InUse lists the layer directories that containers' snapshots are mounted from; they are kept
	// though no image needs them any more. May be nil; else it is called from Open on, so open the
	// snapshots first.
	InUse func() []string

	// Executable is the program that the built-in images hold; "/proc/self/exe" if empty.
	Executable string

	// Parallel bounds how many layers are fetched and unpacked at once; 3 if zero.
	Parallel int

	// Stall is how long a registry may send nothing before a pull fails; a minute if zero.
	Stall time.Duration

	// Platform to choose from an image of many; this machine's if empty.
	Platform v1.Platform
}

// Store keeps images below one directory.
type Store struct {
	dir   string
	opts  Options
	log   *slog.Logger
	lock  *os.File
	slots *semaphore.Weighted // one for each layer being fetched

	gc sync.RWMutex // read: layers are being relied upon; write: layers are being deleted

	mu       sync.Mutex // guards the fields below and the files names.json and images/
	images   map[string]*record
	names    map[string]string    // canonical name, with tag or digest, to image ID
	flights  map[string]*flight   // layers being made, by diffID
	held     map[string]int       // layers that pulls and loads under way rely upon, by diffID
	builtins map[string]string    // name to image ID
	stats    map[string]layerStat // what FsInfo has read of each layer: it is asked every few seconds
}

// Open opens the store below dir, makes it if it is not there, removes what a killed process left
// unfinished, and makes sure that the built-in images fit this executable.
func Open(dir string, opts Options) (_ *Store, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Executable == "" {
		opts.Executable = "/proc/self/exe"
	}
	if opts.Parallel <= 0 {
		opts.Parallel = 3
	}
	if opts.Stall <= 0 {
		opts.Stall = time.Minute
	}
	if opts.Platform.OS == "" {
		opts.Platform = thisPlatform()
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	s := &Store{
		dir: dir, opts: opts, log: opts.Log,
		slots:  semaphore.NewWeighted(int64(opts.Parallel)),
		images: map[string]*record{}, names: map[string]string{},
		flights: map[string]*flight{}, held: map[string]int{}, builtins: map[string]string{},
	}
	for _, sub := range []string{"", "layers/sha256", "images", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open images: %w", err)
		}
	}
	if s.lock, err = lockFile(filepath.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("open images in %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			_ = s.lock.Close()
		}
	}()
	if err := emptyDir(filepath.Join(dir, "tmp")); err != nil {
		return nil, fmt.Errorf("open images: clean up: %w", err)
	}
	if err := s.readRecords(); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	if err := s.ensureBuiltins(); err != nil {
		return nil, fmt.Errorf("open images: built-in images: %w", err)
	}
	return s, nil
}

// Close lets another process open the directory. No call may be under way.
func (s *Store) Close() error { return s.lock.Close() }

// Resolve finds a present image by name (in any form a person may write), by name and digest, or by
// ID, whole or by its first hex digits if they fit one image only.
func (s *Store) Resolve(ref string) (*Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.find(ref)
	if !ok {
		return nil, false
	}
	return s.image(id), true
}

// find gives the ID of the image that ref means; s.mu is held.
func (s *Store) find(ref string) (string, bool) {
	if hex, ok := strings.CutPrefix(ref, "sha256:"); ok || isHex(ref, 64) {
		if !ok {
			hex = ref
		}
		_, there := s.images["sha256:"+hex]
		return "sha256:" + hex, there
	}
	if r, err := ParseReference(ref); err == nil {
		if id, ok := s.names[r.key()]; ok {
			return id, true
		}
	}
	if len(ref) < 4 || !isHex(ref, len(ref)) {
		return "", false
	}
	found := ""
	for id := range s.images {
		if strings.HasPrefix(id[len("sha256:"):], ref) {
			if found != "" {
				return "", false
			}
			found = id
		}
	}
	return found, found != ""
}

// image makes the public value of a record; s.mu is held.
func (s *Store) image(id string) *Image {
	rec := s.images[id]
	m := &Image{ID: id, Size: rec.Size, Config: rec.config, store: s}
	for name, to := range s.names {
		switch {
		case to != id:
		case strings.Contains(name, "@"):
			m.RepoDigests = append(m.RepoDigests, name)
		default:
			m.RepoTags = append(m.RepoTags, name)
		}
	}
	slices.Sort(m.RepoTags)
	slices.Sort(m.RepoDigests)
	for _, l := range rec.Layers {
		m.Layers = append(m.Layers, filepath.Join(s.layerDir(l), "fs"))
	}
	if rec.Root != "" {
		m.root = filepath.Join(s.layerDir(rec.Root), "fs")
	}
	for _, b := range s.builtins {
		m.Pinned = m.Pinned || b == id
	}
	return m
}

// List gives all images, by ID.
func (s *Store) List() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Image, 0, len(s.images))
	for id := range s.images {
		all = append(all, s.image(id))
	}
	slices.SortFunc(all, func(a, b *Image) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Tag gives a present image one more name, taking that name from whichever image had it.
func (s *Store) Tag(ref, name string) error {
	r, err := ParseReference(name)
	if err != nil {
		return err
	}
	if r.Digest != "" {
		return fmt.Errorf("tag %s: a digest is not given, it is what an image has", name)
	}
	if err := refuseBuiltin(r); err != nil {
		return fmt.Errorf("tag %s: %w", ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.find(ref)
	if !ok {
		return &NotFoundError{Ref: ref}
	}
	return s.setNames(id, r.key())
}

// Remove removes the image that ref means, all its names and the layers that nothing else needs. An
// image that is not there is no error.
func (s *Store) Remove(ref string) error {
	s.mu.Lock()
	id, ok := s.find(ref)
	if ok {
		if err := s.drop(id); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("remove image %s: %w", ref, err)
		}
	}
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if err := s.Collect(); err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}

// FsInfo counts what the store keeps on disk, from what was counted while unpacking.
func (s *Store) FsInfo() (FsInfo, error) {
	info := FsInfo{Dir: s.dir}
	layers, err := s.layersOnDisk()
	if err != nil {
		return info, fmt.Errorf("image file system: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]layerStat, len(layers))
	for _, l := range layers {
		st, ok := s.stats[l]
		if !ok {
			if st, err = readLayerStat(s.layerDir(l)); errors.Is(err, os.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return info, fmt.Errorf("image file system: %w", err)
			}
			st.Implied = nil
		}
		known[l] = st
		info.Bytes += uint64(st.Bytes)
		info.Inodes += uint64(st.Inodes)
	}
	s.stats = known
	return info, nil
}

// Load adds every image of an archive: docker's form or an OCI layout, plain, gzip or zstd. name, if
// not empty, is given to the archive's image if it holds exactly one and that has no name.
func (s *Store) Load(ctx context.Context, r io.Reader, name string, progress func(Progress)) ([]*Image, error) {
	return s.load(ctx, r, name, progress)
}

// lockFile locks a file for as long as this process keeps it open.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another process has it open")
		}
		return nil, err
	}
	return f, nil
}
