package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/sandbox"
)

// everything is all capabilities that this process can hand on.
var everything = sync.OnceValues(func() ([]string, error) {
	mine, err := capability.NewPid2(0)
	if err == nil {
		err = mine.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	var all []string
	for _, c := range capability.ListKnown() {
		if mine.Get(capability.PERMITTED, c) && mine.Get(capability.BOUNDING, c) {
			all = append(all, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return all, nil
})

// capabilities starts from the default set, takes away and adds; a name beats ALL.
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext) ([]string, error) {
	all, err := everything()
	if err != nil {
		return nil, err
	}
	if sc.GetPrivileged() {
		return all, nil
	}
	set := slices.Clone(container.DefaultCapabilities())
	names := func(list []string) (plain []string, isAll bool) {
		for _, c := range list {
			c = strings.ToUpper(c)
			if c == "ALL" || c == "CAP_ALL" {
				isAll = true
				continue
			}
			if !strings.HasPrefix(c, "CAP_") {
				c = "CAP_" + c
			}
			plain = append(plain, c)
		}
		return plain, isAll
	}
	add, addAll := names(sc.GetCapabilities().GetAddCapabilities())
	drop, dropAll := names(sc.GetCapabilities().GetDropCapabilities())
	if dropAll {
		set = nil
	}
	if addAll {
		set = slices.Clone(all)
	}
	for _, c := range add {
		if !known(c) {
			return nil, invalid("unknown capability %q to add", c)
		}
		if !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	return slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) }), nil
}

func known(name string) bool {
	return slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return "CAP_"+strings.ToUpper(c.String()) == name })
}

// confine sets seccomp and the paths that are hidden. Privileged containers have neither.
func confine(spec *container.Spec, sc *runtimeapi.LinuxContainerSecurityContext) error {
	if p := sc.GetApparmor(); p.GetProfileType() == runtimeapi.SecurityProfile_Localhost && p.GetLocalhostRef() != "" && !sc.GetPrivileged() {
		return fmt.Errorf("apparmor is not supported: profile %q can't be applied", p.GetLocalhostRef())
	}
	if sc.GetPrivileged() {
		return nil
	}
	spec.MaskedPaths, spec.ReadonlyPaths = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
	profile := sc.GetSeccomp()
	if profile == nil {
		return nil
	}
	switch profile.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		spec.Seccomp = container.DefaultSeccomp(spec.Capabilities)
	case runtimeapi.SecurityProfile_Localhost:
		path := strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/")
		seccomp, err := container.LocalSeccomp(path)
		if err != nil {
			return fmt.Errorf("seccomp profile %s: %w", path, err)
		}
		spec.Seccomp = seccomp
	}
	return nil
}

// mounts gives what is mounted beside the root file system, outer ones first.
func (s *Service) mounts(pod sandbox.Sandbox, config *runtimeapi.ContainerConfig, readonly bool) ([]container.Mount, error) {
	var all []container.Mount
	taken := map[string]bool{}
	for _, m := range config.GetMounts() {
		if m.GetImage() != nil {
			return nil, fmt.Errorf("mount %s: volumes of images are not supported", m.GetContainerPath())
		}
		if len(m.GetUidMappings()) > 0 || len(m.GetGidMappings()) > 0 {
			return nil, fmt.Errorf("mount %s: mapped users are not supported", m.GetContainerPath())
		}
		source, err := filepath.EvalSymlinks(m.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("failed to stat host path %q: %w", m.GetHostPath(), err)
		}
		mount := container.Mount{
			Source: source, Destination: filepath.Join("/", m.GetContainerPath()),
			Readonly: m.GetReadonly(), RecursiveReadonly: m.GetRecursiveReadOnly(), Propagation: propagation(m.GetPropagation()),
		}
		if mount.RecursiveReadonly && (!mount.Readonly || mount.Propagation != "private") {
			return nil, invalid("mount %s: recursive_read_only needs readonly and private propagation", m.GetContainerPath())
		}
		taken[mount.Destination] = true
		all = append(all, mount)
	}
	own := []container.Mount{
		{Source: s.sandboxes.ResolvConf(pod), Destination: "/etc/resolv.conf"},
		{Source: s.sandboxes.HostnameFile(pod), Destination: "/etc/hostname"},
	}
	for _, m := range own {
		if m.Source == "" || taken[m.Destination] {
			continue
		}
		if _, err := os.Stat(m.Source); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		m.Readonly, m.Propagation = readonly, "private"
		all = append(all, m)
	}
	slices.SortStableFunc(all, func(a, b container.Mount) int {
		return strings.Count(strings.TrimRight(a.Destination, "/"), "/") - strings.Count(strings.TrimRight(b.Destination, "/"), "/")
	})
	return all, nil
}

func propagation(p runtimeapi.MountPropagation) string {
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	}
	return "private"
}
