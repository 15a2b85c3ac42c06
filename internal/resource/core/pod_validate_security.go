package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"sampan.dev/internal/resource/validate"
)

func (c *podCheck) user(id *int64, at *field.Path) {
	if id != nil {
		c.Messages(at, *id, validation.IsValidUserID(*id))
	}
}

func (c *podCheck) group(id *int64, at *field.Path) {
	if id != nil {
		c.Messages(at, *id, validation.IsValidGroupID(*id))
	}
}

func (c *podCheck) podSecurity(at *field.Path) {
	sc := c.spec.SecurityContext
	if sc == nil {
		return
	}
	c.group(sc.FSGroup, at.Child("fsGroup"))
	c.user(sc.RunAsUser, at.Child("runAsUser"))
	c.group(sc.RunAsGroup, at.Child("runAsGroup"))
	for i := range sc.SupplementalGroups {
		c.group(&sc.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))
	}
	if isTrue(c.spec.ShareProcessNamespace) && c.spec.HostPID {
		c.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	c.sysctls(sc.Sysctls, at.Child("sysctls"))
	if p := sc.FSGroupChangePolicy; p != nil {
		validate.OneOf(&c.List, at.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
	if p := sc.SupplementalGroupsPolicy; p != nil {
		validate.OneOf(&c.List, at.Child("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		validate.OneOf(&c.List, at.Child("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	}
}

func (c *podCheck) security(sc *corev1.SecurityContext, at *field.Path) {
	if sc == nil {
		return
	}
	c.user(sc.RunAsUser, at.Child("runAsUser"))
	c.group(sc.RunAsGroup, at.Child("runAsGroup"))
	if sc.ProcMount != nil {
		validate.OneOf(&c.List, at.Child("procMount"), *sc.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *sc.ProcMount == corev1.UnmaskedProcMount && (c.spec.HostUsers == nil || *c.spec.HostUsers) {
			c.Invalid(at.Child("procMount"), *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if isTrue(sc.Privileged) {
			c.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if sc.Capabilities != nil {
			for _, cap := range sc.Capabilities.Add {
				if cap == "CAP_SYS_ADMIN" {
					c.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
}

const (
	maxSysctl    = 253
	sysctlSyntax = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$` // as errors show it
)

func (c *podCheck) sysctls(list []corev1.Sysctl, at *field.Path) {
	seen := validate.Seen{}
	for i, s := range list {
		at := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			c.Required(at, "")
		case !isSysctl(s.Name):
			c.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlSyntax))
		case seen.Again(s.Name):
			c.Add(field.Duplicate(at, s.Name))
		}
		switch namespace, _, _ := sysctl.GetNamespace(s.Name); {
		case c.spec.HostNetwork && namespace == sysctl.NetNamespace:
			c.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		case c.spec.HostIPC && namespace == sysctl.IPCNamespace:
			c.Invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

func isSysctl(name string) bool {
	return len(name) <= maxSysctl && regexp.MustCompile(sysctlSyntax).MatchString(name)
}

func (c *podCheck) seccomp(p *corev1.SeccompProfile, at *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		c.Required(at.Child("type"), "type is required when seccompProfile is set")
	} else {
		validate.OneOf(&c.List, at.Child("type"), p.Type,
			corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	local := at.Child("localhostProfile")
	switch {
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		c.Required(local, "must be set when seccomp type is Localhost")
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		c.relativePath(*p.LocalhostProfile, local)
	case p.LocalhostProfile != nil:
		c.Invalid(local, p, "can only be set when seccomp type is Localhost")
	}
}

const maxProfilePath = 4095

func (c *podCheck) appArmor(p *corev1.AppArmorProfile, at *field.Path) {
	if p == nil {
		return
	}
	local := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		const must = "must be set when AppArmor type is Localhost"
		if p.LocalhostProfile == nil {
			c.Required(local, must)
			return
		}
		if strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile {
			c.Invalid(local, *p.LocalhostProfile, "must not be padded with whitespace")
		} else if *p.LocalhostProfile == "" {
			c.Required(local, must)
		}
		c.Size(local, len(*p.LocalhostProfile), maxProfilePath)
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			c.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		c.Required(at.Child("type"), "type is required when appArmorProfile is set")
	default:
		validate.OneOf(&c.List, at.Child("type"), p.Type,
			corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// hostUsers refuses the host's other namespaces to a pod with users of its own. Two paths have a capital letter upstream, too.
func (c *podCheck) hostUsers(at *field.Path) {
	if c.spec.HostUsers == nil || *c.spec.HostUsers {
		return
	}
	const when = "when `pod.Spec.HostUsers` is false"
	if c.spec.HostNetwork {
		c.Forbidden(at.Child("hostNetwork"), when)
	}
	if c.spec.HostPID {
		c.Forbidden(at.Child("HostPID"), when)
	}
	if c.spec.HostIPC {
		c.Forbidden(at.Child("HostIPC"), when)
	}
}
