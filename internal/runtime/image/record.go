package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// record is what an image's image.json says.
type record struct {
	Layers []string `json:"layers"` // layer names, lowest first
	Root   string   `json:"root"`   // the layer whose root directory counts
	Size   int64    `json:"size"`
	config *v1.ConfigFile
}

const (
	maxConfig = 8 << 20 // bytes of a configuration or manifest
	maxLayers = 500     // what the kernel's overlay file system can stack
)

func thisPlatform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func (s *Store) imageDir(id string) string {
	return filepath.Join(s.dir, "images", strings.TrimPrefix(id, "sha256:"))
}

// readRecords fills the store's memory from disk. What does not add up is left out, with a line in the log: the agent
// pulls it again.
func (s *Store) readRecords() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "images"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := "sha256:" + e.Name()
		rec, err := s.readRecord(id)
		if err != nil {
			s.log.Warn("image is damaged, forgetting it", "image", id, "err", err)
			if err := removeAll(s.imageDir(id)); err != nil {
				return err
			}
			continue
		}
		s.images[id] = rec
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "names.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = json.Unmarshal(data, &s.names); err != nil {
		// Containers run on without names, and what is needed is pulled again: better than a node that does not start.
		s.log.Error("names of images are damaged, forgetting them", "file", filepath.Join(s.dir, "names.json"), "err", err)
	}
	if err != nil || s.names == nil {
		s.names = map[string]string{}
	}
	maps.DeleteFunc(s.names, func(_, id string) bool { return s.images[id] == nil })
	return nil
}

func (s *Store) readRecord(id string) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(s.imageDir(id), "config.json"))
	if err != nil {
		return nil, err
	}
	if got := digestOf(raw); got != id {
		return nil, &DigestError{What: "configuration", Want: id, Got: got}
	}
	data, err := os.ReadFile(filepath.Join(s.imageDir(id), "image.json"))
	if err != nil {
		return nil, err
	}
	rec := &record{}
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("image.json: %w", err)
	}
	if rec.config, err = parseConfig(raw); err != nil {
		return nil, err
	}
	for _, l := range rec.Layers {
		if !s.hasLayer(l) {
			return nil, fmt.Errorf("layer %s is not there", l)
		}
	}
	return rec, nil
}

// parseConfig reads an image's configuration and drops what nobody asks for again.
func parseConfig(raw []byte) (*v1.ConfigFile, error) {
	cfg, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	if len(cfg.RootFS.DiffIDs) > maxLayers {
		return nil, fmt.Errorf("image configuration: %d layers, the kernel can stack %d", len(cfg.RootFS.DiffIDs), maxLayers)
	}
	for _, d := range cfg.RootFS.DiffIDs {
		if reason := checkDigest(d.String()); reason != "" {
			return nil, fmt.Errorf("image configuration: layer %q: %s", d, reason)
		}
	}
	cfg.History = nil
	return cfg, nil
}

// addImage keeps an image whose layers are all present, under the names given (in the form of Reference.key). The caller holds
// the layers.
func (s *Store) addImage(rawConfig []byte, names ...string) (*Image, error) {
	cfg, err := parseConfig(rawConfig)
	if err != nil {
		return nil, err
	}
	id := digestOf(rawConfig)
	rec := &record{config: cfg}
	for _, d := range cfg.RootFS.DiffIDs {
		rec.Layers = append(rec.Layers, d.String())
	}
	release, err := s.settle(rec)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", id, err)
	}
	defer release()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[id] == nil {
		if err := s.writeRecord(id, rawConfig, rec); err != nil {
			return nil, fmt.Errorf("keep image %s: %w", id, err)
		}
		s.images[id] = rec
	}
	if err := s.setNames(id, names...); err != nil {
		return nil, err
	}
	return s.image(id), nil
}

// writeRecord makes an image's directory; s.mu is held.
func (s *Store) writeRecord(id string, rawConfig []byte, rec *record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := writeSynced(filepath.Join(tmp, "config.json"), rawConfig); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(tmp, "image.json"), data); err != nil {
		return err
	}
	if err := syncDir(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.imageDir(id)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, "images"))
}

// setNames makes names mean an image, on disk first; s.mu is held.
func (s *Store) setNames(id string, names ...string) error {
	next := maps.Clone(s.names)
	for _, n := range names {
		next[n] = id
	}
	if maps.Equal(next, s.names) {
		return nil
	}
	return s.writeNames(next)
}

func (s *Store) writeNames(next map[string]string) error {
	data, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, "tmp", "names.json")
	if err := writeSynced(tmp, data); err != nil {
		return fmt.Errorf("write image names: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, "names.json")); err != nil {
		return fmt.Errorf("write image names: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("write image names: %w", err)
	}
	s.names = next
	return nil
}

// drop forgets an image and its names; s.mu is held. Names go first: a name never means an image that is not there.
func (s *Store) drop(id string) error {
	next := maps.Clone(s.names)
	maps.DeleteFunc(next, func(_, to string) bool { return to == id })
	if err := s.writeNames(next); err != nil {
		return err
	}
	maps.DeleteFunc(s.builtins, func(_, to string) bool { return to == id })
	delete(s.images, id)
	gone, err := s.discard(s.imageDir(id))
	if err != nil {
		return err
	}
	return removeAll(gone)
}

// nameless says whether an image has no name left; s.mu is held.
func (s *Store) nameless(id string) bool {
	for _, to := range s.names {
		if to == id {
			return false
		}
	}
	return true
}

// discard takes a directory's name away, which is what deletes it; the caller removes what is left under tmp, or else the
// next Open does.
func (s *Store) discard(dir string) (left string, err error) {
	left, err = os.MkdirTemp(filepath.Join(s.dir, "tmp"), "gone-")
	if err != nil {
		return "", err
	}
	return left, os.Rename(dir, filepath.Join(left, filepath.Base(dir)))
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// writeSynced writes a file and brings it to the disk.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
