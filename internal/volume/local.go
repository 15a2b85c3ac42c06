package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// emptyDir is a directory of the node's disk, or of its memory.
func emptyDir(path string, pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) (Volume, error) {
	made := Volume{Path: path}
	_, err := os.Lstat(path)
	there := err == nil
	if err := os.MkdirAll(path, 0o777); err != nil {
		return made, err
	}
	switch source.Medium {
	case corev1.StorageMediumDefault:
		if there {
			return made, nil // its owner and mode are the containers' by now
		}
	case corev1.StorageMediumMemory:
		mounted, err := isMount(path)
		if err != nil || mounted {
			return made, err
		}
		var options string
		if size := memorySize(pod, source); size > 0 {
			options = fmt.Sprintf("size=%d", size)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return made, fmt.Errorf("mount a tmpfs: %w", err)
		}
	default:
		return made, fmt.Errorf("unknown storage medium %q", source.Medium)
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		return made, err
	}
	return made, own(path, pod, false)
}

// memorySize is the volume's own limit or the pod's memory limit, whichever is smaller; 0 leaves it to the kernel (half of the memory).
func memorySize(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) int64 {
	var limit int64
	for i := range pod.Spec.Containers {
		l := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if l == 0 {
			limit = 0
			break
		}
		limit += l
	}
	if source.SizeLimit != nil && source.SizeLimit.Value() > 0 && (limit == 0 || source.SizeLimit.Value() < limit) {
		return source.SizeLimit.Value()
	}
	return limit
}

// hostPath is a file of the node itself, checked to be what the pod says it is.
func hostPath(source *corev1.HostPathVolumeSource) (Volume, error) {
	path := source.Path
	made := Volume{Path: path}
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return made, err
	}
	there := err == nil
	is := func(mode fs.FileMode, what string) (Volume, error) {
		if !there || info.Mode().Type() != mode {
			return made, fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
		}
		return made, nil
	}
	switch kind {
	case corev1.HostPathUnset:
		return made, nil
	case corev1.HostPathDirectoryOrCreate:
		if !there {
			return made, os.MkdirAll(path, 0o755)
		}
		return is(fs.ModeDir, "directory")
	case corev1.HostPathDirectory:
		return is(fs.ModeDir, "directory")
	case corev1.HostPathFileOrCreate:
		if !there {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
			if err != nil {
				return made, err
			}
			return made, f.Close()
		}
		return is(0, "file")
	case corev1.HostPathFile:
		return is(0, "file")
	case corev1.HostPathSocket:
		return is(fs.ModeSocket, "socket file")
	case corev1.HostPathCharDev:
		return is(fs.ModeDevice|fs.ModeCharDevice, "character device")
	case corev1.HostPathBlockDev:
		return is(fs.ModeDevice, "block device")
	}
	return made, fmt.Errorf("%s is an invalid volume type", kind)
}

// own gives what is below path to the pod's fsGroup: the group may read (and write), and new files get the group too.
func own(path string, pod *corev1.Pod, readOnly bool) error {
	if pod.Spec.SecurityContext == nil || pod.Spec.SecurityContext.FSGroup == nil {
		return nil
	}
	gid := int(*pod.Spec.SecurityContext.FSGroup)
	if policy := pod.Spec.SecurityContext.FSGroupChangePolicy; policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		if info, err := os.Stat(path); err == nil && int(info.Sys().(*statT).Gid) == gid && info.Mode()&fs.ModeSetgid != 0 {
			return nil
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := root.Lchown(name, -1, gid); err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o660
		if readOnly {
			mode = info.Mode().Perm() | 0o440
		}
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return root.Chmod(name, mode)
	})
}
