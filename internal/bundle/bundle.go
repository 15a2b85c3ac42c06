// Package bundle holds the programs that are packed into sampan: sampan-runtime and kubectl, each compressed with zstd.
//
// It reads only the running executable and writes only below the directory it is given. Always: an unpacked program is
// complete and is the one this build was made with, since its file name carries its digest and it appears by a rename.
package bundle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// The names of the programs that a build packs.
const (
	Runtime = "sampan-runtime"
	Kubectl = "kubectl"
)

// ErrNotPacked says that this sampan was built without its companions, by `go build` rather than `make build`.
var ErrNotPacked = errors.New("not packed into this build of sampan: build with `make build`, or put it beside the sampan program")

// Unpack makes the program called name ready to run below dir and returns its path. The file is named after the program and the first
// 12 hex digits of its digest, so that an upgraded sampan never runs an older companion; other versions of it are removed, which
// harms none that still run. Where the build has packed nothing, a program of that name beside the sampan executable is used.
func Unpack(name, dir string) (string, error) {
	digest, data, err := find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return beside(name)
	}
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	path := filepath.Join(dir, name+"-"+digest)
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o100 != 0 {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	err = write(path, data)
	forget(data)
	if err != nil {
		return "", fmt.Errorf("unpack %s to %s: %w", name, dir, err)
	}
	removeOthers(dir, name, path)
	return path, nil
}

// find returns the packed form of a program and the digest of what it unpacks to.
func find(name string) (digest, data string, err error) {
	p, ok := packed[name]
	if !ok {
		return "", "", fs.ErrNotExist
	}
	digest = strings.TrimSpace(p.digest)
	if len(digest) < 12 {
		return "", "", fmt.Errorf("digest %q is too short", digest)
	}
	return digest[:12], p.data, nil
}

// program is one packed companion: the hexadecimal SHA-256 of the program, and the program compressed with zstd.
type program struct{ digest, data string }

// beside finds a companion next to the sampan executable, as in a source tree's bin directory.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is %w", name, ErrNotPacked)
	}
	return path, nil
}

func write(path, data string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".unpack-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	d, err := zstd.NewReader(strings.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return errors.Join(err, tmp.Close())
	}
	defer d.Close()
	if _, err := io.Copy(tmp, d); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// forget gives back the memory that reading data brought in: the pages are the executable's own, and are read again if ever needed.
func forget(data string) {
	page := os.Getpagesize()
	all := unsafe.Slice(unsafe.StringData(data), len(data))
	skip := -int(uintptr(unsafe.Pointer(unsafe.StringData(data)))) & (page - 1)
	if len(all) < skip+page {
		return
	}
	inner := all[skip:]
	_ = unix.Madvise(inner[:len(inner)&^(page-1)], unix.MADV_DONTNEED)
}

func removeOthers(dir, name, keep string) {
	old, _ := filepath.Glob(filepath.Join(dir, name+"-????????????"))
	for _, path := range old {
		if path != keep {
			_ = os.Remove(path)
		}
	}
}
