package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unixStat is what os.FileInfo.Sys gives.
type unixStat = syscall.Stat_t

// linkTree makes a second tree of directories like the first whose other entries are hard links into it. Both are below
// the store's directory, where only this process writes.
func linkTree(from, to, name string) error {
	src, dst := filepath.Join(from, name), filepath.Join(to, name)
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return os.Link(src, dst)
	}
	if err := os.Mkdir(dst, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := linkTree(from, to, filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	st := info.Sys().(*unixStat)
	if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(dst, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", dst, err)
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	return os.Chtimes(dst, info.ModTime(), info.ModTime())
}

func copyXattrs(src, dst string) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(src, buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", src, err)
	}
	value := make([]byte, 64<<10)
	for key := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if key == "" || strings.HasPrefix(key, "security.selinux") {
			continue
		}
		n, err := unix.Lgetxattr(src, key, value)
		if err != nil {
			return fmt.Errorf("read attribute %s of %s: %w", key, src, err)
		}
		if err := unix.Lsetxattr(dst, key, value[:n], 0); err != nil {
			return fmt.Errorf("set attribute %s of %s: %w", key, dst, err)
		}
	}
	return nil
}
