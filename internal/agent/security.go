package agent

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// effective is a container's security context over its pod's.
type effective struct {
	user, group  *int64
	nonRoot      bool
	seccomp      *corev1.SeccompProfile
	appArmor     *corev1.AppArmorProfile
	selinux      *corev1.SELinuxOptions
	capabilities *corev1.Capabilities
	privileged   bool
	readOnly     bool
	escalation   bool
	unmasked     bool
}

func securityOf(pod *corev1.Pod, c *corev1.Container) effective {
	e := effective{escalation: true}
	if p := pod.Spec.SecurityContext; p != nil {
		e.user, e.group, e.seccomp, e.appArmor, e.selinux = p.RunAsUser, p.RunAsGroup, p.SeccompProfile, p.AppArmorProfile, p.SELinuxOptions
		e.nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
	}
	s := c.SecurityContext
	if s == nil {
		return e
	}
	if s.RunAsUser != nil {
		e.user = s.RunAsUser
	}
	if s.RunAsGroup != nil {
		e.group = s.RunAsGroup
	}
	if s.RunAsNonRoot != nil {
		e.nonRoot = *s.RunAsNonRoot
	}
	if s.SeccompProfile != nil {
		e.seccomp = s.SeccompProfile
	}
	if s.AppArmorProfile != nil {
		e.appArmor = s.AppArmorProfile
	}
	if s.SELinuxOptions != nil {
		e.selinux = s.SELinuxOptions
	}
	e.capabilities = s.Capabilities
	e.privileged = s.Privileged != nil && *s.Privileged
	e.readOnly = s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem
	if s.AllowPrivilegeEscalation != nil {
		e.escalation = *s.AllowPrivilegeEscalation
	}
	e.unmasked = s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount
	return e
}

// What of /proc and /sys a container does not see, and may not write, unless its procMount is Unmasked.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// namespaces are those that a pod's containers share with the node, or with one another.
func namespaces(pod *corev1.Pod) *cri.NamespaceOption {
	n := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		n.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		n.Ipc = cri.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		n.Pid = cri.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		n.Pid = cri.NamespaceMode_POD
	}
	return n
}

func groupsOf(pod *corev1.Pod) []int64 {
	p := pod.Spec.SecurityContext
	if p == nil {
		return nil
	}
	groups := append([]int64(nil), p.SupplementalGroups...)
	if p.FSGroup != nil {
		groups = append(groups, *p.FSGroup)
	}
	return groups
}

func groupsPolicy(pod *corev1.Pod) cri.SupplementalGroupsPolicy {
	if p := pod.Spec.SecurityContext; p != nil && p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return cri.SupplementalGroupsPolicy_Strict
	}
	return cri.SupplementalGroupsPolicy_Merge
}

// seccompOf is RuntimeDefault unless something else is asked for: safe unless told otherwise.
func seccompOf(p *corev1.SeccompProfile, privileged bool, dir string) *cri.SecurityProfile {
	switch {
	case p == nil && privileged:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	case p == nil || p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: dir + "/" + *p.LocalhostProfile}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
}

func appArmorOf(p *corev1.AppArmorProfile) *cri.SecurityProfile {
	switch {
	case p == nil:
		return nil
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	case p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
}

func selinuxOf(o *corev1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func int64Value(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

// containerSecurity is what the runtime is told. image is the image's own user; it is asked for only where it matters.
func containerSecurity(pod *corev1.Pod, c *corev1.Container, seccompDir string, image func() (uid *int64, name string, err error)) (*cri.LinuxContainerSecurityContext, error) {
	e := securityOf(pod, c)
	s := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod), Privileged: e.privileged, ReadonlyRootfs: e.readOnly, NoNewPrivs: !e.escalation,
		RunAsUser: int64Value(e.user), RunAsGroup: int64Value(e.group),
		SupplementalGroups: groupsOf(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
		Seccomp: seccompOf(e.seccomp, e.privileged, seccompDir), Apparmor: appArmorOf(e.appArmor), SelinuxOptions: selinuxOf(e.selinux),
	}
	if !e.unmasked {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readOnlyPaths
	}
	if e.capabilities != nil {
		s.Capabilities = &cri.Capability{}
		for _, name := range e.capabilities.Add {
			s.Capabilities.AddCapabilities = append(s.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range e.capabilities.Drop {
			s.Capabilities.DropCapabilities = append(s.Capabilities.DropCapabilities, string(name))
		}
	}
	if e.user == nil && (e.nonRoot || e.group != nil) {
		uid, name, err := image()
		if err != nil {
			return nil, err
		}
		if e.nonRoot {
			switch {
			case uid != nil && *uid == 0, uid == nil && name == "":
				return nil, fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", describe(pod), c.Name)
			case uid == nil:
				return nil, fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", name, describe(pod), c.Name)
			}
		}
		if s.RunAsUser = int64Value(uid); uid == nil {
			s.RunAsUsername = name
		}
		if uid == nil && name == "" {
			s.RunAsUser = &cri.Int64Value{}
		}
	}
	if e.user != nil && *e.user == 0 && e.nonRoot {
		return nil, fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", describe(pod), c.Name)
	}
	return s, nil
}

var errUserNamespaces = errors.New("user namespaces (hostUsers: false) are not supported on this node")
