package cri

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// command gives the process's arguments: what was asked for stands in for the image's part by part, and a command of one's own drops the
// image's arguments.
func command(config *runtimeapi.ContainerConfig, img v1.Config) ([]string, error) {
	entry, args := config.GetCommand(), config.GetArgs()
	if len(entry) == 0 {
		if len(args) == 0 {
			args = img.Cmd
		}
		entry = img.Entrypoint
	}
	all := append(append([]string{}, entry...), args...)
	if len(all) == 0 || all[0] == "" {
		return nil, invalid("no command specified")
	}
	return all, nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func environment(config *runtimeapi.ContainerConfig, img v1.Config, hostname string) []string {
	var env []string
	at := map[string]int{}
	set := func(pair string) {
		name, _, _ := strings.Cut(pair, "=")
		if i, ok := at[name]; ok {
			env[i] = pair
			return
		}
		at[name] = len(env)
		env = append(env, pair)
	}
	set(defaultPath)
	set("HOSTNAME=" + hostname)
	if config.GetTty() {
		set("TERM=xterm")
	}
	for _, pair := range img.Env {
		set(pair)
	}
	for _, e := range config.GetEnvs() {
		set(e.GetKey() + "=" + string(e.GetValue()))
	}
	return env
}

func workingDir(config *runtimeapi.ContainerConfig, img v1.Config) string {
	for _, dir := range []string{config.GetWorkingDir(), img.WorkingDir} {
		if dir != "" {
			return filepath.Join("/", dir)
		}
	}
	return "/"
}

// stopSignal is the name of the signal that asks the process to end.
func stopSignal(asked runtimeapi.Signal, image string) string {
	if asked != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name := strings.TrimPrefix(asked.String(), "SIGNAL_")
		// The API spells the real-time signals out: SIGRTMINPLUS1 is SIGRTMIN+1.
		return strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	}
	if image != "" {
		return image
	}
	return "SIGTERM"
}

// signalOf is the API's form of a signal's name.
func signalOf(name string) runtimeapi.Signal {
	name = strings.ToUpper(name)
	if n, err := strconv.Atoi(name); err == nil {
		name = unix.SignalName(unix.Signal(n))
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)])
}

// identity is who the process is.
type identity struct {
	uid, gid uint32
	groups   []uint32
}

// resolveUser reads the container's own /etc/passwd and /etc/group.
func resolveUser(rootfs string, sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (identity, error) {
	spec := imageUser
	switch {
	case sc.GetRunAsUser() != nil:
		spec = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
	case sc.GetRunAsUsername() != "":
		spec = sc.GetRunAsUsername()
	}
	if g := sc.GetRunAsGroup(); g != nil {
		if sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
			name, _, _ := strings.Cut(spec, ":")
			if name == "" {
				return identity{}, invalid("user group is specified without user")
			}
			spec = name
		}
		spec += ":" + strconv.FormatInt(g.GetValue(), 10)
	}
	passwd, err := openIn(rootfs, "etc/passwd")
	if err != nil {
		return identity{}, err
	}
	defer passwd.Close()
	group, err := openIn(rootfs, "etc/group")
	if err != nil {
		return identity{}, err
	}
	defer group.Close()
	found, err := user.GetExecUser(spec, nil, limited(passwd), limited(group))
	if err != nil {
		return identity{}, fmt.Errorf("find user %q in the container's /etc/passwd: %w", spec, err)
	}
	id := identity{uid: uint32(found.Uid), gid: uint32(found.Gid)}
	seen := map[uint32]bool{}
	add := func(g uint32) {
		if !seen[g] {
			seen[g] = true
			id.groups = append(id.groups, g)
		}
	}
	add(id.gid)
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		// With a group of one's own choice GetExecUser looks up no further ones; the image's members count all the same.
		for _, g := range found.Sgids {
			add(uint32(g))
		}
		if len(found.Sgids) == 0 {
			more, err := memberships(rootfs, spec)
			if err != nil {
				return identity{}, err
			}
			for _, g := range more {
				add(uint32(g))
			}
		}
	}
	for _, g := range sc.GetSupplementalGroups() {
		if g < 0 || g > 1<<32-2 {
			return identity{}, invalid("supplemental group %d: not a group", g)
		}
		add(uint32(g))
	}
	return id, nil
}

// memberships gives the groups that the image says a user is in.
func memberships(rootfs, spec string) ([]int, error) {
	name, _, _ := strings.Cut(spec, ":")
	passwd, err := openIn(rootfs, "etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := openIn(rootfs, "etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	found, err := user.GetExecUser(name, nil, limited(passwd), limited(group))
	if err != nil {
		return nil, nil
	}
	return found.Sgids, nil
}

// openIn opens a file of a container's root file system; links in it lead nowhere else. One that is not there is empty.
func openIn(rootfs, path string) (io.ReadCloser, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", rootfs, err)
	}
	defer unix.Close(root)
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, path, how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, fmt.Errorf("open /%s of the container: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return io.NopCloser(strings.NewReader("")), nil // a pipe or device there is read by nobody
	}
	return f, nil
}

// limited bounds what an image may have us read.
func limited(r io.Reader) io.Reader { return io.LimitReader(r, 4<<20) }
