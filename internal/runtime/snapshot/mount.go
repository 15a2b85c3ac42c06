package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is one mount, as a plain value.
type overlay struct {
	lower               []string // top first
	upper, work, target string
}

// mount mounts an overlay with the newest way the kernel knows.
func mount(o overlay) error {
	err := mountNew(o, true)
	if errors.Is(err, errOldKernel) {
		err = mountOld(o, true)
	}
	if errors.Is(err, errNoVolatile) { // before Linux 5.10
		err = mountOld(o, false)
	}
	if err != nil {
		if kind := unsuited(o.upper); kind != "" {
			return fmt.Errorf("mount overlay: the kernel can't put one on %s; keep the data directory on ext4, xfs, btrfs or tmpfs: %w", kind, err)
		}
		return fmt.Errorf("mount overlay of %d layers on %s: %w", len(o.lower), o.target, err)
	}
	return nil
}

var (
	errOldKernel  = errors.New("kernel takes no layers one by one")
	errNoVolatile = errors.New("kernel has no volatile mounts")
)

// paths turns paths into ones that are short and free of characters that the option syntax gives a meaning, by way of open
// directories. Call done after mounting.
type paths struct{ open []int }

func (p *paths) safe(path string, longest int) (string, error) {
	if len(path) < longest && !strings.ContainsAny(path, `:,\`) {
		return path, nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	p.open = append(p.open, fd)
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

func (p *paths) done() {
	for _, fd := range p.open {
		_ = unix.Close(fd)
	}
}

// mountNew gives the kernel one layer at a time (Linux 6.8), so that their paths need not fit a page together.
func mountNew(o overlay, volatile bool) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == unix.ENOSYS {
		return errOldKernel
	}
	if err != nil {
		return fmt.Errorf("open overlay file system: %w", err)
	}
	defer unix.Close(fd)
	var p paths
	defer p.done()
	set := func(key, path string) error {
		safe, err := p.safe(path, 256) // the longest text that fsconfig takes
		if err != nil {
			return err
		}
		if err := unix.FsconfigSetString(fd, key, safe); err != nil {
			return kernelSays(fd, fmt.Errorf("set %s=%s: %w", key, path, err))
		}
		return nil
	}
	for i, dir := range o.lower {
		if err := set("lowerdir+", dir); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) {
				return errOldKernel
			}
			return err
		}
	}
	if err := set("upperdir", o.upper); err != nil {
		return err
	}
	if err := set("workdir", o.work); err != nil {
		return err
	}
	if volatile {
		if err := unix.FsconfigSetFlag(fd, "volatile"); err != nil {
			return kernelSays(fd, fmt.Errorf("set volatile: %w", err))
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return kernelSays(fd, err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return kernelSays(fd, err)
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, o.target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// kernelSays adds the kernel's own explanation, which waits to be read from the file system's descriptor.
func kernelSays(fd int, err error) error {
	buf := make([]byte, 1024)
	var words []string
	for range 8 {
		n, e := unix.Read(fd, buf)
		if e != nil || n < 2 {
			break
		}
		words = append(words, strings.TrimSpace(string(buf[2:n])))
	}
	if len(words) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(words, "; "))
}

// mountOld gives the kernel all options as one text of at most a page: long lists go by open directories, which makes room for some
// two hundred layers.
func mountOld(o overlay, volatile bool) error {
	var p paths
	defer p.done()
	longest := 0
	if len(o.lower) > 0 {
		longest = 3000 / len(o.lower)
	}
	var lower []string
	for _, dir := range o.lower {
		safe, err := p.safe(dir, longest)
		if err != nil {
			return err
		}
		lower = append(lower, safe)
	}
	upper, err := p.safe(o.upper, 256)
	if err != nil {
		return err
	}
	work, err := p.safe(o.work, 256)
	if err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if volatile {
		options += ",volatile"
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%d layers are more than this kernel can take", len(o.lower))
	}
	err = unix.Mount("overlay", o.target, "overlay", 0, options)
	if volatile && err == unix.EINVAL {
		return fmt.Errorf("%w: %w", errNoVolatile, err)
	}
	return err
}

// unmount takes every mount off path; processes that still look at it keep what they see.
func unmount(path string) error {
	for range 100 {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT: // nothing is mounted there
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: mounted too many times over", path)
}

// isMount says whether something is mounted at path.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	var here, above unix.Stat_t // before Linux 5.8
	if err := errors.Join(unix.Lstat(path, &here), unix.Lstat(filepath.Dir(path), &above)); err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return here.Dev != above.Dev, nil
}

// unsuited names the kind of file system that dir is on if an overlay's upper directory can't be there.
func unsuited(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return ""
	}
	switch st.Type {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "another overlay"
	case unix.NFS_SUPER_MAGIC:
		return "NFS"
	case unix.V9FS_MAGIC:
		return "9p"
	case unix.FUSE_SUPER_MAGIC:
		return "FUSE"
	}
	return ""
}

// usage counts blocks and inodes below dir, files with several names once.
func usage(dir string) (Usage, error) {
	var u Usage
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the container goes on meanwhile
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
		return nil
	})
	return u, err
}
