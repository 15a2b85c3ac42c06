package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// pauseGroup is the control group that holds the sandbox's pause, and nothing else.
func (m *Manager) pauseGroup(s Sandbox) (cgroups.Manager, error) {
	parent := s.Config.GetLinux().GetCgroupParent()
	if parent == "" {
		parent = m.cfg.CgroupParent
	}
	group, err := manager.New(&cgroups.Cgroup{Path: filepath.Join("/", parent, s.ID), Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, fmt.Errorf("control group of pod sandbox: %w", err)
	}
	return group, nil
}

// startPause starts the process that is the first in the pod's process ID namespace, and pins that. The caller's thread is in
// the pod's other namespaces.
func (m *Manager) startPause(s Sandbox) error {
	group, err := m.pauseGroup(s)
	if err != nil {
		return err
	}
	if err := group.Apply(-1); err != nil {
		return fmt.Errorf("make control group for pause: %w", err)
	}
	cmd := exec.Command(m.cfg.Executable, "pause")
	cmd.Args = []string{"sampan-runtime", "pause"}
	cmd.Env = []string{}
	cmd.Dir = "/"
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start pause: %w", err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start pause: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped, whenever it ends; another process's child after a restart of this one
	fail := func(err error) error {
		_ = cmd.Process.Kill()
		return err
	}
	if err := group.Apply(cmd.Process.Pid); err != nil {
		return fail(fmt.Errorf("put pause into its control group: %w", err))
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil { // one byte says that it has left the node's files
		return fail(fmt.Errorf("start pause: %w", err))
	}
	return pinNamespace(fmt.Sprintf("/proc/%d/ns/pid", cmd.Process.Pid), m.pin(s.ID, "pid"))
}

func (m *Manager) pauseLives(s Sandbox) bool {
	group, err := m.pauseGroup(s)
	if err != nil || !group.Exists() {
		return false
	}
	pids, err := group.GetPids()
	return err == nil && len(pids) > 0
}

// endPause kills pause, with which all of its process ID namespace ends, and removes its control group.
func (m *Manager) endPause(s Sandbox) error {
	group, err := m.pauseGroup(s)
	if err != nil {
		return err
	}
	if !group.Exists() {
		return nil
	}
	for wait := time.Millisecond; ; wait *= 2 {
		pids, err := group.GetPids()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("find pause: %w", err)
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // one that has gone meanwhile is what is wanted
		}
		if wait > 4*time.Second {
			return fmt.Errorf("pause (pid %v) does not end even with SIGKILL", pids)
		}
		time.Sleep(wait)
	}
	if err := group.Destroy(); err != nil {
		return fmt.Errorf("remove control group of pause: %w", err)
	}
	return nil
}

// nobody is the user and group that pause runs as.
const nobody = 65535

// Pause is the whole program "sampan-runtime pause": the first process of a pod whose containers share process IDs. It reaps whatever
// is left to it, for ever, and can reach no file.
func Pause() int {
	if err := hide(); err != nil {
		fmt.Fprintln(os.Stderr, "pause:", err)
		return 1
	}
	children := make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	_, _ = os.Stdout.Write([]byte{'.'})
	_ = os.Stdout.Close()
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if pid <= 0 {
				break
			}
		}
		select {
		case <-children:
		case <-stop:
			return 0
		}
	}
}

// hide leaves the node's files for an empty directory: other processes of the pod can see this one's root by /proc/1/root.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close off memory: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("part from the node's mounts: %w", err)
	}
	if err := unix.Mount("pause", "/proc", "tmpfs", unix.MS_RDONLY|unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "size=4k"); err != nil {
		return fmt.Errorf("mount an empty directory: %w", err)
	}
	if err := unix.Chdir("/proc"); err != nil {
		return fmt.Errorf("enter the empty directory: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root is then above the new one
		return fmt.Errorf("take the empty directory as root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the node's files: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	// Another user on all threads, and so without any capability: what traces it gains nothing.
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("drop groups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("change group: %w", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	return nil
}
