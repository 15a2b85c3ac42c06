package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shmSize is what containers of a pod share as /dev/shm, as everywhere: 64 MiB.
const shmSize = 64 << 20

func (m *Manager) pin(id, ns string) string { return filepath.Join(m.cfg.RunDir, id, "ns", ns) }

// own says whether the pod has a namespace of that kind for itself.
func (m *Manager) own(s Sandbox, ns string) bool {
	o := s.Options()
	switch ns {
	case "net", "uts":
		return o.GetNetwork() != runtimeapi.NamespaceMode_NODE
	case "ipc":
		return o.GetIpc() != runtimeapi.NamespaceMode_NODE
	default:
		return o.GetPid() == runtimeapi.NamespaceMode_POD
	}
}

// Namespace is the path of one of the pod's own namespaces (net, ipc, uts or pid); empty if it is the node's, or each container's own.
func (m *Manager) Namespace(s Sandbox, ns string) string {
	if !m.own(s, ns) {
		return ""
	}
	return m.pin(s.ID, ns)
}

// Shm is the directory that the pod's containers share as /dev/shm.
func (m *Manager) Shm(s Sandbox) string {
	if !m.own(s, "ipc") {
		return "/dev/shm"
	}
	return filepath.Join(m.cfg.RunDir, s.ID, "shm")
}

func (m *Manager) pinned(s Sandbox) bool {
	for _, ns := range []string{"net", "uts", "ipc", "pid"} {
		if !m.own(s, ns) {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.pin(s.ID, ns), &st); err != nil || st.Type != unix.NSFS_MAGIC {
			return false
		}
	}
	if m.own(s, "pid") {
		return m.pauseLives(s)
	}
	return true
}

// makeNamespaces makes, sets up and pins what the pod has of its own.
func (m *Manager) makeNamespaces(s Sandbox) error {
	var flags int
	var pins []string
	for _, ns := range []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC}} {
		if m.own(s, ns.name) {
			flags |= ns.flag
			pins = append(pins, ns.name)
		}
	}
	if err := os.MkdirAll(filepath.Join(m.cfg.RunDir, s.ID, "ns"), 0o700); err != nil {
		return fmt.Errorf("make directory for namespaces: %w", err)
	}
	if m.own(s, "ipc") {
		shm := m.Shm(s)
		if err := os.Mkdir(shm, 0o1777); err != nil {
			return fmt.Errorf("make shared memory: %w", err)
		}
		err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=1777,size=%d", shmSize))
		if err != nil {
			return fmt.Errorf("mount shared memory: %w", err)
		}
	}
	return OnThread(func() error {
		if flags != 0 {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("make namespaces: %w", err)
			}
		}
		if m.own(s, "uts") && s.Config.GetHostname() != "" {
			if err := unix.Sethostname([]byte(s.Config.GetHostname())); err != nil {
				return fmt.Errorf("set host name %q: %w", s.Config.GetHostname(), err)
			}
		}
		if err := m.setSysctls(s); err != nil {
			return err
		}
		for _, name := range pins {
			if err := pinNamespace("/proc/thread-self/ns/"+name, m.pin(s.ID, name)); err != nil {
				return err
			}
		}
		if m.own(s, "pid") {
			return m.startPause(s) // from this thread, so it is in the pod's other namespaces as well
		}
		return nil
	})
}

func pinNamespace(from, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pin namespace: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace %s at %s: %w", from, to, err)
	}
	return nil
}

// unpin takes away what is mounted for a sandbox, and its run directory.
func (m *Manager) unpin(id string) error {
	if id == "" || strings.Contains(id, "/") {
		return fmt.Errorf("no ID of a pod sandbox: %q", id)
	}
	dir := filepath.Join(m.cfg.RunDir, id)
	var errs []error
	for _, point := range []string{m.pin(id, "net"), m.pin(id, "uts"), m.pin(id, "ipc"), m.pin(id, "pid"), filepath.Join(dir, "shm")} {
		for { // more than one if a process was killed between mounting and recording
			err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break // nothing is mounted there
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
				break
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	// One by one, not by RemoveAll: nothing that might be mounted here is to be deleted.
	for _, path := range []string{m.pin(id, "net"), m.pin(id, "uts"), m.pin(id, "ipc"), m.pin(id, "pid"), filepath.Join(dir, "ns"), filepath.Join(dir, "shm"), dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// OnThread runs f on a thread of its own, which is thrown away afterwards: f may change what belongs to a thread, such as its
// namespaces.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread stands for the whole process in /proc and can't be thrown away. It is kept busy here
			// while another is used.
			defer runtime.UnlockOSThread()
			done <- OnThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// InNetwork runs f on a thread that is in the network namespace at the given path; f opens sockets there by calls of its own thread.
func InNetwork(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	return OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

// privateMount makes dir a mount of its own that passes nothing on to other mount namespaces: pins are to live here only.
func privateMount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s a private mount: %w", dir, err)
	}
	return nil
}

func leaveMount(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return nil
	}
	if mounted, err := isMountPoint(dir); err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// isMountPoint asks the kernel by STATX_ATTR_MOUNT_ROOT (Linux 5.8).
func isMountPoint(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
