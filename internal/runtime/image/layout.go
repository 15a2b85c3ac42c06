package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Where layouts keep a name: containerd and docker write it whole under the first, others under the second, where it
// may be no more than a tag.
const (
	fullNameAnnotation = "io.containerd.image.name"
	refNameAnnotation  = "org.opencontainers.image.ref.name"
)

// readLayout reads an OCI layout.
func (s *Store) readLayout(b blobs) ([]found, error) {
	data, err := readBlob(b, "index.json", "")
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var all []found
	at := map[string]int{} // place in all, by configuration: one image may be listed once for each name
	for _, d := range index.Manifests {
		f, err := s.readDescriptor(b, d, 0)
		var other *NotFoundError
		if errors.As(err, &other) {
			continue // for another platform, or no image: signatures and the like
		}
		if err != nil {
			return nil, err
		}
		f.digest = d.Digest.String()
		if name, ok := annotatedName(d.Annotations); ok {
			f.names = []string{name}
		}
		if i, ok := at[digestOf(f.config)]; ok {
			all[i].names = append(all[i].names, f.names...)
			continue
		}
		at[digestOf(f.config)] = len(all)
		all = append(all, *f)
	}
	if len(all) == 0 && len(index.Manifests) > 0 {
		return nil, fmt.Errorf("holds no image for %s", s.opts.Platform)
	}
	return all, nil
}

// readDescriptor reads a manifest, or the one of an index that is for this machine.
func (s *Store) readDescriptor(b blobs, d v1.Descriptor, depth int) (*found, error) {
	if depth > 3 {
		return nil, errors.New("indexes are nested too deep")
	}
	raw, err := readDigest(b, d.Digest)
	if err != nil {
		return nil, err
	}
	if d.MediaType.IsIndex() {
		var index v1.IndexManifest
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, fmt.Errorf("index %s: %w", d.Digest, err)
		}
		for _, child := range index.Manifests {
			p := child.Platform
			if p != nil && (p.OS != s.opts.Platform.OS || p.Architecture != s.opts.Platform.Architecture) {
				continue
			}
			f, err := s.readDescriptor(b, child, depth+1)
			var other *NotFoundError
			if !errors.As(err, &other) {
				return f, err
			}
		}
		return nil, &NotFoundError{Ref: d.Digest.String()}
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if !manifest.Config.MediaType.IsConfig() {
		return nil, &NotFoundError{Ref: d.Digest.String()}
	}
	f := &found{}
	if f.config, err = readDigest(b, manifest.Config.Digest); err != nil {
		return nil, err
	}
	cfg, err := parseConfig(f.config)
	if err != nil {
		return nil, err
	}
	if depth == 0 && (cfg.OS != s.opts.Platform.OS || cfg.Architecture != s.opts.Platform.Architecture) {
		return nil, &NotFoundError{Ref: d.Digest.String()}
	}
	if len(manifest.Layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest %s names %d layers, the configuration %d", d.Digest, len(manifest.Layers), len(cfg.RootFS.DiffIDs))
	}
	for i, l := range manifest.Layers {
		file, err := blobPath(l.Digest)
		if err != nil {
			return nil, err
		}
		f.sources = append(f.sources, blobSource(b, file, cfg.RootFS.DiffIDs[i].String(), l.Digest.String()))
	}
	return f, nil
}

func readDigest(b blobs, digest v1.Hash) ([]byte, error) {
	file, err := blobPath(digest)
	if err != nil {
		return nil, err
	}
	data, err := readBlob(b, file, digest.String())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", digest, missing(err))
	}
	return data, err
}

func blobPath(digest v1.Hash) (string, error) {
	if reason := checkDigest(digest.String()); reason != "" {
		return "", fmt.Errorf("blob %q: %s", digest, reason)
	}
	return path.Join("blobs", digest.Algorithm, digest.Hex), nil
}

// annotatedName finds an image's name. A bare tag such as "latest" names no image.
func annotatedName(annotations map[string]string) (string, bool) {
	name := annotations[fullNameAnnotation]
	if name == "" {
		name = annotations[refNameAnnotation]
		if !strings.ContainsAny(name, "/:") {
			return "", false
		}
	}
	r, err := ParseReference(name)
	if err != nil || r.Digest != "" {
		return "", false
	}
	return r.key(), true
}
