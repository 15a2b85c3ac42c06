package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// archive collects one layer in memory.
type archive struct {
	buf  bytes.Buffer
	w    *tar.Writer
	dirs map[string]bool
	err  error // the first one; later calls do nothing
}

func newArchive() *archive {
	a := &archive{dirs: map[string]bool{}}
	a.w = tar.NewWriter(&a.buf)
	return a
}

// add copies an entry; a directory only once, however many packages have it.
func (a *archive) add(hdr *tar.Header, content io.Reader) error {
	if a.err != nil {
		return a.err
	}
	hdr.Name = path.Clean(hdr.Name)
	if hdr.Typeflag == tar.TypeDir {
		if a.dirs[hdr.Name] {
			return nil
		}
		a.dirs[hdr.Name] = true
		hdr.Name += "/"
	}
	hdr.Uname, hdr.Gname, hdr.Format = "", "", tar.FormatPAX
	hdr.AccessTime, hdr.ChangeTime = time.Time{}, time.Time{}
	if a.err = a.w.WriteHeader(hdr); a.err == nil && hdr.Typeflag == tar.TypeReg {
		_, a.err = io.Copy(a.w, content)
	}
	return a.err
}

func (a *archive) dir(name string, mode int64) {
	_ = a.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: time.Unix(0, 0)}, nil)
}

func (a *archive) file(name string, mode int64, data []byte) {
	_ = a.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0)}, bytes.NewReader(data))
}

func (a *archive) link(name, target string) {
	_ = a.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)}, nil)
}

// layer ends the archive and makes it a layer.
func (a *archive) layer() (v1.Layer, error) {
	if a.err == nil {
		a.err = a.w.Close()
	}
	if a.err != nil {
		return nil, a.err
	}
	data := a.buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}

// assemble makes an image of layers.
func assemble(config v1.Config, archives ...*archive) (v1.Image, error) {
	var layers []v1.Layer
	for _, a := range archives {
		l, err := a.layer()
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config, file.History = "linux", arch, config, nil
	return mutate.ConfigFile(img, file)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}
