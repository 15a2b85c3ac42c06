package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath returns a path on the node that shows one file or directory of a volume, for the mount of that index of a container.
//
// The name is resolved by the kernel with the promise not to leave the volume, whatever links a container has planted there,
// and what was found is bound to a place that containers cannot reach: nobody can exchange it between check and use.
func (m *Manager) SubPath(uid types.UID, volume string, v Volume, subPath, container string, index int) (string, error) {
	if err := checkUID(uid); err != nil {
		return "", err
	}
	if !filepath.IsLocal(subPath) {
		return "", fmt.Errorf("subPath %q leads out of the volume", subPath)
	}
	found, err := openBeneath(v, subPath)
	if err != nil {
		return "", fmt.Errorf("subPath %q: %w", subPath, err)
	}
	defer unix.Close(found)
	target := filepath.Join(m.Dir(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", fmt.Errorf("subPath %q: %w", subPath, err)
	}
	if err := place(found, target); err != nil {
		return "", fmt.Errorf("subPath %q: %w", subPath, err)
	}
	source := fmt.Sprintf("/proc/self/fd/%d", found)
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("subPath %q: bind: %w", subPath, err)
	}
	return target, nil
}

// openBeneath opens what subPath names within the volume; a directory that is missing is made.
func openBeneath(v Volume, subPath string) (int, error) {
	base, err := unix.Open(v.Path, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(base, subPath, how)
	if !errors.Is(err, unix.ENOENT) || v.ReadOnly {
		return fd, err
	}
	root, err := os.OpenRoot(v.Path)
	if err != nil {
		return -1, err
	}
	defer root.Close()
	mode := os.FileMode(0o755)
	if info, err := root.Stat("."); err == nil {
		mode = info.Mode().Perm() // as the volume's own
	}
	if err := root.MkdirAll(subPath, 0o755); err != nil {
		return -1, err
	}
	if err := root.Chmod(subPath, mode); err != nil {
		return -1, err
	}
	return unix.Openat2(base, subPath, how)
}

// place makes target an empty directory or file, as what shall be bound there is. A bind of before is taken away: it may show
// what is no longer of that name.
func place(fd int, target string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if _, err := os.Lstat(target); err == nil {
		if err := unmountBelow(target); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
