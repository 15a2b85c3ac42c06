package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
	xattrRecord    = "SCHILY.xattr."
	maxPath        = 4096 // bytes, as for the kernel
	maxDepth       = 256
)

// unpacker writes one layer's archive into one directory, in the form that the kernel's overlay file
// system stacks: "a/.wh.b" becomes the device 0/0 at a/b, "a/.wh..wh..opq" a mark on a.
//
// The walk is our own, since moby/go-archive applies a layer onto the ones below it, or follows them by path; here a layer
// stands alone, so that layers are unpacked at once and shared, and each step of each path is taken with O_NOFOLLOW from the open
// directory before it, so that nothing the archive makes on the way can lead outside.
type unpacker struct {
	root int // the layer's directory
	stat layerStat
	buf  []byte
	dirs []dirTime // set last: what is made in a directory changes its time

	parent     int // the directory used last, or -1: entries come directory by directory
	parentName string
}

type dirTime struct {
	path  string
	times [2]unix.Timespec
}

// unpackDir makes dir and unpacks a plain tar stream into it.
func unpackDir(ctx context.Context, dir string, r io.Reader) (layerStat, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return layerStat{}, err
	}
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return layerStat{}, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(root)
	if err := unix.Fchmod(root, 0o755); err != nil {
		return layerStat{}, fmt.Errorf("chmod %s: %w", dir, err)
	}
	u := &unpacker{root: root, parent: -1, buf: make([]byte, 64<<10)}
	defer u.forget()
	archive := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return u.stat, context.Cause(ctx)
		}
		hdr, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.stat, fmt.Errorf("read archive: %w", err)
		}
		if err := u.entry(hdr, archive); err != nil {
			var hostile *HostileError
			if errors.As(err, &hostile) {
				return u.stat, err
			}
			return u.stat, fmt.Errorf("archive entry %q: %w", hdr.Name, err)
		}
	}
	named := make(map[string]bool, len(u.dirs))
	for _, d := range u.dirs {
		named[d.path] = true
	}
	u.stat.Implied = slices.DeleteFunc(u.stat.Implied, func(p string) bool { return named[p] })
	return u.stat, u.finish()
}

// entry makes one entry.
func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if min(hdr.Uid, hdr.Gid) < 0 || max(hdr.Uid, hdr.Gid) >= math.MaxUint32 {
		return &HostileError{hdr.Name, fmt.Sprintf("belongs to the impossible owner %d:%d", hdr.Uid, hdr.Gid)}
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return &HostileError{hdr.Name, "is the root and no directory"}
		}
		u.stat.Root = true
		return u.dirMeta(u.root, ".", hdr)
	}
	if strings.HasPrefix(name, whiteout+whiteout) && name != opaqueWhiteout {
		return nil // aufs kept its own notes under such names; they say nothing
	}
	dirName, base := path.Split(name)
	dirName = path.Clean(dirName)
	if strings.HasPrefix(base, whiteout) {
		return u.whiteout(dirName, base)
	}
	dir, err := u.open(dirName)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.makeDir(dir, name, base, hdr)
	case tar.TypeReg:
		return u.makeFile(dir, base, hdr, content)
	case tar.TypeLink:
		return u.makeLink(dir, dirName, base, hdr)
	case tar.TypeSymlink:
		if err := u.clear(dir, base); err != nil {
			return err
		}
		if err := unix.Symlinkat(hdr.Linkname, dir, base); err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
		return u.nodeMeta(dir, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.makeNode(dir, base, hdr)
	}
	return &HostileError{hdr.Name, fmt.Sprintf("is of unknown type %q", hdr.Typeflag)}
}

// cleanName gives an entry's path from the layer's root. A leading slash means that root, as many
// builders write it; a path that climbs above it is refused.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", &HostileError{name, "leads out of the layer"}
	case len(clean) >= maxPath || strings.Count(clean, "/") >= maxDepth:
		return "", &HostileError{name[:100] + "…", "has too long a path"}
	case strings.ContainsRune(clean, 0):
		return "", &HostileError{name, "has a zero byte in its path"}
	}
	return clean, nil
}

// whiteout hides what lower layers have: one name, or all of a directory. What this layer itself has stays.
func (u *unpacker) whiteout(dirName, base string) error {
	full := path.Join(dirName, base)
	dir, err := u.open(dirName)
	if err != nil {
		return err
	}
	if base == opaqueWhiteout {
		if dirName == "." {
			u.stat.Opaque = true
			return nil
		}
		return setOpaque(dir)
	}
	hidden := base[len(whiteout):]
	if strings.HasPrefix(hidden, whiteout) {
		return nil // the same further down
	}
	if hidden == "" || hidden == "." || hidden == ".." {
		return &HostileError{full, "hides no name"}
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, hidden, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		fd, err := openDir(dir, hidden)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return setOpaque(fd)
	case err == nil:
		return nil // hides the lower one already
	case err != unix.ENOENT:
		return fmt.Errorf("look at %s: %w", hidden, err)
	}
	if err := unix.Mknodat(dir, hidden, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	u.stat.Inodes++
	return nil
}

func setOpaque(dir int) error {
	if err := unix.Fsetxattr(dir, opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark directory opaque: %w", err)
	}
	return nil
}

func (u *unpacker) makeDir(dir int, name, base string, hdr *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		hid := err == nil && isWhiteout(&st)
		if err := u.clear(dir, base); err != nil {
			return err
		}
		if err := u.mkdir(dir, base, hid); err != nil {
			return err
		}
	}
	fd, err := openDir(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.dirMeta(fd, name, hdr)
}

// mkdir makes a directory; opaque if it takes the place of a whiteout, so that it hides the lower one still.
func (u *unpacker) mkdir(dir int, base string, opaque bool) error {
	if err := unix.Mkdirat(dir, base, 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", base, err)
	}
	u.stat.Inodes++
	fd, err := openDir(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return fmt.Errorf("chmod directory %s: %w", base, err)
	}
	if opaque {
		return setOpaque(fd)
	}
	return nil
}

func (u *unpacker) makeFile(dir int, base string, hdr *tar.Header, content io.Reader) error {
	if err := u.clear(dir, base); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	defer unix.Close(fd)
	u.stat.Inodes++
	n, err := io.CopyBuffer(fdWriter(fd), content, u.buf)
	u.stat.Bytes += n
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	// The owner first: changing it takes setuid and capabilities away.
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode(hdr)); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	if err := setXattrs(fd, hdr); err != nil {
		return err
	}
	return setTimes(dir, base, times(hdr))
}

// makeLink links to something that this layer has, and nothing else.
func (u *unpacker) makeLink(dir int, dirName, base string, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil || target == "." {
		return &HostileError{hdr.Name, fmt.Sprintf("links to %q, which leads out of the layer", hdr.Linkname)}
	}
	if target == path.Join(dirName, base) {
		return nil
	}
	from, err := u.walk(path.Dir(target), false)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return &HostileError{hdr.Name, fmt.Sprintf("links to %q, which the layer does not have", hdr.Linkname)}
		}
		return err
	}
	defer unix.Close(from)
	var st unix.Stat_t
	err = unix.Fstatat(from, path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT || err == nil && (isWhiteout(&st) || st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		return &HostileError{hdr.Name, fmt.Sprintf("links to %q, which the layer does not have as a file", hdr.Linkname)}
	}
	if err != nil {
		return fmt.Errorf("look at link target: %w", err)
	}
	// Made under another name first: clearing base might take the target with it.
	const between = ".wh..sampan.link"
	if err := unix.Linkat(from, path.Base(target), dir, between, 0); err != nil {
		return fmt.Errorf("make hard link: %w", err)
	}
	if err := u.clear(dir, base); err != nil {
		return err
	}
	if err := unix.Renameat(dir, between, dir, base); err != nil {
		return fmt.Errorf("make hard link: %w", err)
	}
	// A rename between two names of one file does nothing and leaves both.
	if err := unix.Unlinkat(dir, between, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("make hard link: %w", err)
	}
	return nil
}

// makeNode makes a device or FIFO. A device in an image gives no right that a container lacks: the
// device cgroup decides what may be opened, and below the store's directory only root gets.
func (u *unpacker) makeNode(dir int, base string, hdr *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[hdr.Typeflag]
	dev := uint64(0)
	if hdr.Typeflag != tar.TypeFifo {
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return &HostileError{hdr.Name, fmt.Sprintf("is the impossible device %d/%d", hdr.Devmajor, hdr.Devminor)}
		}
		dev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		if dev == 0 {
			return &HostileError{hdr.Name, "is the device 0/0, which stands for a deleted file"}
		}
	}
	if err := u.clear(dir, base); err != nil {
		return err
	}
	if err := unix.Mknodat(dir, base, kind|0o600, int(dev)); err != nil {
		return fmt.Errorf("make node: %w", err)
	}
	return u.nodeMeta(dir, base, hdr)
}

// clear removes what an entry takes the place of.
func (u *unpacker) clear(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	switch err {
	case unix.ENOENT:
		return nil
	case nil:
		u.stat.Inodes--
		return nil
	case unix.EISDIR:
		return u.removeTree(dir, base)
	}
	return fmt.Errorf("remove what was there: %w", err)
}
