package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// layerStat is a layer's layer.json: what was found while unpacking.
type layerStat struct {
	Bytes  int64 `json:"bytes"`  // of file contents
	Inodes int64 `json:"inodes"` // made for the layer
	Root   bool  `json:"root"`   // the archive has an entry for the root directory itself
	Opaque bool  `json:"opaque"` // nothing of lower layers is seen
	// Implied are directories that the archive uses but has no entry for, so that a lower layer's
	// mode and owner hold for them.
	Implied []string `json:"implied,omitempty"`
}

// flight is one layer being made. Whoever finds one waits for it, and if it failed tries in its own way.
type flight struct{ done chan struct{} }

// layerSource says where a layer's archive can be had.
type layerSource struct {
	diffID string // "sha256:…" of the archive, uncompressed
	digest string // "sha256:…" of the archive as it comes; empty if not known
	size   int64  // as it comes; 0 if not known
	tries  int    // how often a connection may break
	open   func(context.Context) (io.ReadCloser, error)
}

func (s *Store) layerDir(layer string) string {
	algorithm, hex, _ := strings.Cut(layer, ":")
	return filepath.Join(s.dir, "layers", algorithm, hex)
}

func (s *Store) hasLayer(layer string) bool {
	_, err := os.Lstat(s.layerDir(layer))
	return err == nil
}

// hold keeps layers from being collected until the returned function is called.
func (s *Store) hold(layers []string) (release func()) {
	s.mu.Lock()
	for _, l := range layers {
		s.held[l]++
	}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range layers {
			if s.held[l]--; s.held[l] == 0 {
				delete(s.held, l)
			}
		}
	}
}

// ensureLayer makes a layer present; many callers may want the same one at once and one does the work. The
// caller holds the layer.
func (s *Store) ensureLayer(ctx context.Context, src layerSource, progress func(Progress)) error {
	for {
		s.mu.Lock()
		if s.hasLayer(src.diffID) {
			s.mu.Unlock()
			progress(Progress{Status: "present", Layer: src.diffID})
			return nil
		}
		other, busy := s.flights[src.diffID]
		if !busy {
			break
		}
		s.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	mine := &flight{done: make(chan struct{})}
	s.flights[src.diffID] = mine
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.flights, src.diffID)
		s.mu.Unlock()
		close(mine.done)
	}()
	if err := s.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer s.slots.Release(1)
	for try := 1; ; try++ {
		err := s.makeLayer(ctx, src, progress)
		if err == nil || try >= src.tries || !broken(err) {
			return err
		}
		s.log.Info("connection broke, fetching layer again", "layer", src.diffID, "err", err)
		select {
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// broken tells a connection that was cut from everything that would be the same again.
func broken(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// makeLayer fetches, checks and unpacks one layer.
func (s *Store) makeLayer(ctx context.Context, src layerSource, progress func(Progress)) (err error) {
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "layer-")
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", src.diffID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(tmp))
		}
	}()
	body, err := src.open(ctx)
	if err != nil {
		return err
	}
	defer body.Close()

	packed := &meter{r: body, ctx: ctx, hash: sha256.New(), report: func(n int64) {
		progress(Progress{Status: "unpacking", Layer: src.diffID, Current: n, Total: src.size})
	}}
	plain, err := decompress(packed)
	if err != nil {
		return s.layerError(src, packed, err)
	}
	defer plain.Close()
	unpacked := &meter{r: plain, ctx: ctx, hash: sha256.New()}
	stat, err := unpackDir(ctx, filepath.Join(tmp, "fs"), unpacked)
	if err == nil { // what is after the archive's end belongs to both digests too
		_, err = io.Copy(io.Discard, unpacked)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, packed)
	}
	if err != nil {
		return s.layerError(src, packed, err)
	}
	if src.digest != "" && packed.digest() != src.digest {
		return &DigestError{What: "layer", Want: src.digest, Got: packed.digest()}
	}
	if got := unpacked.digest(); got != src.diffID {
		return &DigestError{What: "uncompressed layer", Want: src.diffID, Got: got}
	}
	if err := s.commitLayer(tmp, src.diffID, stat); err != nil {
		return fmt.Errorf("keep layer %s: %w", src.diffID, err)
	}
	progress(Progress{Status: "unpacking", Layer: src.diffID, Current: packed.n, Total: packed.n})
	return nil
}

// layerError finds the reason behind a failure to unpack: that the layer could not be read, that it is not what its digest
// promised (then whatever else is wrong with it follows from that), or else the failure itself.
func (s *Store) layerError(src layerSource, packed *meter, err error) error {
	var hostile *HostileError
	if packed.err == nil && src.digest != "" && !errors.As(err, &hostile) {
		_, _ = io.Copy(io.Discard, packed)
	}
	// The registry library checks as well, and gives this instead of the end.
	mismatch := packed.err != nil && strings.Contains(packed.err.Error(), "error verifying ")
	if src.digest != "" && (mismatch || packed.err == io.EOF) && packed.digest() != src.digest {
		return &DigestError{What: "layer", Want: src.digest, Got: packed.digest()}
	}
	return fmt.Errorf("unpack layer %s: %w", src.diffID, packed.cause(err))
}

// commitLayer writes layer.json, brings all of tmp to the disk and gives it its name.
func (s *Store) commitLayer(tmp, layer string, stat layerStat) error {
	data, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "layer.json"), data, 0o600); err != nil {
		return err
	}
	// One sync of the file system is far cheaper than one for each of a layer's thousands of files.
	if err := syncFS(tmp); err != nil {
		return err
	}
	dir := s.layerDir(layer)
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// Collect deletes the layers that no image, no pull under way and no container needs.
func (s *Store) Collect() error {
	s.gc.Lock()
	defer s.gc.Unlock()
	s.mu.Lock()
	keep := map[string]bool{}
	for l := range s.held {
		keep[s.layerDir(l)] = true
	}
	for _, rec := range s.images {
		for _, l := range rec.Layers {
			keep[s.layerDir(l)] = true
		}
	}
	if s.opts.InUse != nil {
		for _, fs := range s.opts.InUse() {
			keep[filepath.Dir(fs)] = true
		}
	}
	layers, err := s.layersOnDisk()
	var trash []string
	for _, l := range layers {
		if dir := s.layerDir(l); !keep[dir] {
			left, e := s.discard(dir)
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			trash = append(trash, left)
		}
	}
	s.mu.Unlock()
	for _, dir := range trash {
		err = errors.Join(err, removeAll(dir))
	}
	if err != nil {
		return fmt.Errorf("collect layers: %w", err)
	}
	return nil
}

func (s *Store) layersOnDisk() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers", "sha256"))
	if err != nil {
		return nil, err
	}
	var layers []string
	for _, e := range entries {
		layers = append(layers, "sha256:"+e.Name())
	}
	return layers, nil
}

func readLayerStat(dir string) (st layerStat, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "layer.json"))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("%s/layer.json: %w", dir, err)
	}
	return st, nil
}

// meter counts and hashes what is read through it, and stops reading when its context ends.
type meter struct {
	r        io.Reader
	ctx      context.Context
	hash     interface{ Sum([]byte) []byte }
	n        int64
	err      error // the first error of r, io.EOF at its end
	report   func(int64)
	reported int64
}

func (m *meter) Read(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		m.err = context.Cause(m.ctx)
		return 0, m.err
	}
	n, err := m.r.Read(p)
	_, _ = m.hash.(io.Writer).Write(p[:n])
	m.n += int64(n)
	if m.report != nil && m.n-m.reported >= 1<<20 {
		m.reported = m.n
		m.report(m.n)
	}
	if err != nil && m.err == nil {
		m.err = err
	}
	return n, err
}

func (m *meter) digest() string { return "sha256:" + hex.EncodeToString(m.hash.Sum(nil)) }

// cause prefers the reason why reading failed over what followed from it.
func (m *meter) cause(err error) error {
	if m.err != nil && m.err != io.EOF {
		return m.err
	}
	return err
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, removeAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// removeAll is os.RemoveAll with a name in its error.
func removeAll(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
