package image

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const maxLinks = 40 // symbolic links followed for one path, as the kernel does

// open gives the directory at a clean path, and makes what is missing. It stays open until the next
// call of open or forget.
func (u *unpacker) open(name string) (int, error) {
	if u.parent >= 0 && u.parentName == name {
		return u.parent, nil
	}
	u.forget()
	fd, err := u.walk(name, true)
	if err != nil {
		return -1, err
	}
	u.parent, u.parentName = fd, name
	return fd, nil
}

func (u *unpacker) forget() {
	if u.parent >= 0 {
		_ = unix.Close(u.parent)
	}
	u.parent = -1
}

// walk opens the directory at a path, step by step. Symbolic links that the layer has on the way are followed as a
// process would whose root is the layer, except that one that climbs above the root is refused.
func (u *unpacker) walk(name string, create bool) (int, error) {
	fd, err := unix.FcntlInt(uintptr(u.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open layer: %w", err)
	}
	step := func(to int) { _ = unix.Close(fd); fd = to }
	fail := func(err error) (int, error) { _ = unix.Close(fd); return -1, err }
	at := []string{} // the path of fd: real directories, no links
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return fail(&HostileError{name, "goes through a link that leads out of the layer"})
			}
			// Again from the top, along directories only.
			todo = append(slices.Clone(at[:len(at)-1]), todo...)
			top, err := unix.FcntlInt(uintptr(u.root), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return fail(fmt.Errorf("open layer: %w", err))
			}
			step(top)
			at = at[:0]
			continue
		}
		next, err := openDir(fd, part)
		if err == nil {
			step(next)
			at = append(at, part)
			continue
		}
		target, hid, err := u.notDir(fd, part)
		if err != nil && (err != unix.ENOENT || !create) {
			return fail(fmt.Errorf("open directory %s: %w", path.Join(append(at, part)...), err))
		}
		switch {
		case target != "":
			if links++; links > maxLinks || len(todo) > 2*maxDepth {
				return fail(&HostileError{name, "goes through too many links"})
			}
			todo = append(strings.Split(target, "/"), todo...)
			if strings.HasPrefix(target, "/") {
				top, err := unix.FcntlInt(uintptr(u.root), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					return fail(fmt.Errorf("open layer: %w", err))
				}
				step(top)
				at = at[:0]
			}
		case err == nil && !hid, err == nil && !create:
			return fail(&HostileError{name, "is below something that is no directory"})
		default: // missing, or hidden so far
			if hid {
				if err := unix.Unlinkat(fd, part, 0); err != nil {
					return fail(fmt.Errorf("remove whiteout: %w", err))
				}
				u.stat.Inodes--
			}
			if err := u.mkdir(fd, part, hid); err != nil {
				return fail(err)
			}
			if !hid {
				u.stat.Implied = append(u.stat.Implied, path.Join(append(at, part)...))
			}
			todo = append([]string{part}, todo...)
		}
	}
	return fd, nil
}

// notDir says what stands where a directory could not be opened: a link's target, or a whiteout.
func (u *unpacker) notDir(dir int, base string) (target string, hid bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", false, err
	}
	switch {
	case isWhiteout(&st):
		return "", true, nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", false, unix.EACCES // it is one, and could not be opened all the same
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", false, nil
	}
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", false, err
	}
	return string(buf[:n]), false, nil
}

// removeTree removes a directory of this layer that another entry takes the place of.
func (u *unpacker) removeTree(dir int, base string) error {
	parent, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return fmt.Errorf("remove what was there: %w", err)
	}
	defer parent.Close()
	if err := parent.RemoveAll(base); err != nil {
		return fmt.Errorf("remove what was there: %w", err)
	}
	return nil
}

// finish sets the directories' times, the deepest last made first, so that no later step changes them.
func (u *unpacker) finish() error {
	u.forget()
	for _, d := range slices.Backward(u.dirs) {
		if d.path == "." {
			if err := setTimes(u.root, ".", d.times); err != nil {
				return err
			}
			continue
		}
		dir, err := u.walk(path.Dir(d.path), false)
		if err != nil {
			continue // replaced by a later entry
		}
		err = setTimes(dir, path.Base(d.path), d.times)
		_ = unix.Close(dir)
		if err != nil && err != unix.ENOENT {
			return err
		}
	}
	return nil
}

// dirMeta sets what the archive says of a directory; its time comes last of all.
func (u *unpacker) dirMeta(fd int, name string, hdr *tar.Header) error {
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode(hdr)); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	u.dirs = append(u.dirs, dirTime{name, times(hdr)})
	return setXattrs(fd, hdr)
}

// nodeMeta does the same for links, devices and FIFOs, which cannot be opened.
func (u *unpacker) nodeMeta(dir int, base string, hdr *tar.Header) error {
	u.stat.Inodes++
	if err := unix.Fchownat(dir, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink { // just made by us, and nobody else is here: it is no link
		if err := unix.Fchmodat(dir, base, mode(hdr), 0); err != nil {
			return fmt.Errorf("change mode: %w", err)
		}
	}
	return setTimes(dir, base, times(hdr))
}

// setXattrs sets the attributes that an image may carry: capabilities, access lists and the user's own. Those of the
// overlay file system would change what is stacked, and are refused; others belong to the machine they were read on.
func setXattrs(fd int, hdr *tar.Header) error {
	for record, value := range hdr.PAXRecords {
		key, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		if strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
			return &HostileError{hdr.Name, fmt.Sprintf("has the attribute %s, which is the kernel's own", key)}
		}
		if key != "security.capability" && !strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "system.posix_acl_") {
			continue
		}
		err := unix.Fsetxattr(fd, key, []byte(value), 0)
		if err == unix.ENOTSUP && key != "security.capability" {
			continue // this file system has none such
		}
		if err != nil {
			return fmt.Errorf("set attribute %s: %w", key, err)
		}
	}
	return nil
}

func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

func times(hdr *tar.Header) [2]unix.Timespec {
	t := unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	return [2]unix.Timespec{t, t}
}

func setTimes(dir int, base string, t [2]unix.Timespec) error {
	if err := unix.UtimesNanoAt(dir, base, t[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return err
		}
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func openDir(dir int, base string) (int, error) {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", base, err)
	}
	return fd, nil
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// fdWriter writes to a file descriptor without the weight of an os.File for each of a layer's files.
type fdWriter int

func (w fdWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(int(w), p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}
