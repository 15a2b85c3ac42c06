package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// blobs gives the files of an archive or layout by the paths they have in it.
type blobs interface {
	open(name string) (io.ReadCloser, int64, error) // fs.ErrNotExist if there is none
}

func (s *Store) load(ctx context.Context, r io.Reader, name string, progress func(Progress)) ([]*Image, error) {
	fail := func(err error) ([]*Image, error) { return nil, fmt.Errorf("load archive: %w", err) }
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "load-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	// What the parts of an archive mean is told by its last entry at times, so all of it is laid down first: on
	// disk, not in memory.
	staged, err := stage(ctx, r, dir)
	if err != nil {
		return fail(err)
	}
	images, err := s.loadBlobs(ctx, staged, name, serial(progress))
	if err != nil {
		return fail(err)
	}
	return images, nil
}

// LoadLayout adds every image of an OCI layout's directory.
func (s *Store) LoadLayout(ctx context.Context, dir, name string, progress func(Progress)) ([]*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("load OCI layout: %w", err)
	}
	defer root.Close()
	images, err := s.loadBlobs(ctx, layoutDir{root}, name, serial(progress))
	if err != nil {
		return nil, fmt.Errorf("load OCI layout %s: %w", dir, err)
	}
	return images, nil
}

// found is one image of an archive, not yet unpacked.
type found struct {
	config  []byte
	sources []layerSource
	names   []string // tags in the form of Reference.key
	digest  string   // of its manifest or index, if it has one
}

func (s *Store) loadBlobs(ctx context.Context, b blobs, name string, progress func(Progress)) ([]*Image, error) {
	all, err := s.readDockerArchive(b)
	if errors.Is(err, os.ErrNotExist) {
		all, err = s.readLayout(b)
		if errors.Is(err, os.ErrNotExist) {
			return nil, errors.New("neither a docker archive (manifest.json) nor an OCI layout (index.json)")
		}
	}
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("holds no image")
	}
	if name != "" {
		r, err := ParseReference(name)
		if err != nil {
			return nil, err
		}
		if len(all) == 1 && len(all[0].names) == 0 {
			all[0].names = []string{r.key()}
		}
	}
	for _, f := range all {
		for _, n := range f.names {
			if r, err := ParseReference(n); err != nil {
				return nil, err
			} else if err := refuseBuiltin(r); err != nil {
				return nil, err
			}
		}
	}
	var images []*Image
	for _, f := range all {
		names := f.names
		for _, n := range f.names {
			if f.digest != "" {
				repo := n[:strings.LastIndexByte(n, ':')]
				names = append(names, repo+"@"+f.digest)
			}
		}
		m, err := s.assemble(ctx, f.sources, f.config, names, progress)
		if err != nil {
			return nil, err
		}
		images = append(images, m)
	}
	return images, nil
}

// readDockerArchive reads what docker save writes.
func (s *Store) readDockerArchive(b blobs) ([]found, error) {
	data, err := readBlob(b, "manifest.json", "")
	if err != nil {
		return nil, err
	}
	var items []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &items); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var all []found
	for _, item := range items {
		f := found{}
		if f.config, err = readBlob(b, item.Config, ""); err != nil {
			return nil, fmt.Errorf("image configuration %q: %w", item.Config, missing(err))
		}
		cfg, err := parseConfig(f.config)
		if err != nil {
			return nil, err
		}
		if len(item.Layers) != len(cfg.RootFS.DiffIDs) {
			return nil, fmt.Errorf("manifest.json names %d layers, the configuration %d", len(item.Layers), len(cfg.RootFS.DiffIDs))
		}
		for i, file := range item.Layers {
			f.sources = append(f.sources, blobSource(b, file, cfg.RootFS.DiffIDs[i].String(), ""))
		}
		for _, tag := range item.RepoTags {
			r, err := ParseReference(tag)
			if err != nil {
				return nil, err
			}
			if r.Digest == "" {
				f.names = append(f.names, r.key())
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// blobSource is a layer that is a file of the archive.
func blobSource(b blobs, file, diffID, digest string) layerSource {
	src := layerSource{diffID: diffID, digest: digest, tries: 1}
	if body, size, err := b.open(file); err == nil {
		src.size = size
		_ = body.Close()
	}
	src.open = func(context.Context) (io.ReadCloser, error) {
		body, _, err := b.open(file)
		if err != nil {
			return nil, fmt.Errorf("layer %q: %w", file, missing(err))
		}
		return body, nil
	}
	return src
}

// missing makes a file that the archive should have another error than an archive of another kind.
func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the archive does not have it")
	}
	return err
}

// readBlob reads a small file of the archive, and checks it if its digest is known.
func readBlob(b blobs, name, digest string) ([]byte, error) {
	body, _, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxConfig)
	}
	if digest != "" && digestOf(data) != digest {
		return nil, &DigestError{What: name, Want: digest, Got: digestOf(data)}
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}

// staging holds an archive's files under numbers, so that no name in it ever becomes a path here.
type staging struct {
	dir   string
	files map[string]string // path in the archive to file
	links map[string]string // path to path
}

const maxFiles = 10_000 // of an archive of images: each layer is one or three

func stage(ctx context.Context, r io.Reader, dir string) (*staging, error) {
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	st := &staging{dir: dir, files: map[string]string{}, links: map[string]string{}}
	archive := tar.NewReader(plain)
	buf := make([]byte, 64<<10)
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		hdr, err := archive.Next()
		if err == io.EOF {
			return st, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		name, err := cleanName(hdr.Name)
		if err != nil {
			return nil, err
		}
		if n > maxFiles {
			return nil, fmt.Errorf("more than %d files", maxFiles)
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			file := filepath.Join(dir, strconv.Itoa(n))
			if err := writeFrom(file, archive, buf); err != nil {
				return nil, err
			}
			st.files[name] = file
		case tar.TypeSymlink: // older docker shares layers so
			st.links[name] = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			st.links[name] = path.Clean(hdr.Linkname)
		}
	}
}

func writeFrom(file string, r io.Reader, buf []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, r, buf); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (st *staging) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	for range 10 {
		if file, ok := st.files[name]; ok {
			return openSized(os.Open(file))
		}
		to, ok := st.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, 0, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
}

// layoutDir is an OCI layout on disk.
type layoutDir struct{ root *os.Root }

func (l layoutDir) open(name string) (io.ReadCloser, int64, error) {
	return openSized(l.root.Open(name))
}

func openSized(f *os.File, err error) (io.ReadCloser, int64, error) {
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", f.Name())
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}
