package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// os checks the operating system a pod names, and that it uses nothing of the other one.
func (c *podCheck) os(at *field.Path) {
	if c.spec.OS == nil {
		return
	}
	switch c.spec.OS.Name {
	case corev1.Linux:
		c.linux(at)
	case corev1.Windows:
		c.windows(at)
	case "":
		c.Required(at.Child("os", "name"), "cannot be empty")
	default:
		c.Add(field.NotSupported(at.Child("os"), c.spec.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows}))
	}
}

func (c *podCheck) linux(at *field.Path) {
	const no = "windows options cannot be set for a linux pod"
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		c.Forbidden(at.Child("securityContext", "windowsOptions"), no)
	}
	eachContainer(c.spec, at, func(ctr *corev1.Container, at *field.Path, _ containerKind) {
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			c.Forbidden(at.Child("securityContext", "windowsOptions"), no)
		}
	})
}

type setting struct {
	name string
	set  bool
}

func (c *podCheck) windows(at *field.Path) {
	refuse := func(at *field.Path, settings ...setting) {
		for _, s := range settings {
			if s.set {
				c.Forbidden(at.Child(s.name), "cannot be set for a windows pod")
			}
		}
	}
	refuse(at,
		setting{"hostUsers", c.spec.HostUsers != nil}, setting{"hostPID", c.spec.HostPID}, setting{"hostIPC", c.spec.HostIPC},
		setting{"shareProcessNamespace", c.spec.ShareProcessNamespace != nil})
	if sc := c.spec.SecurityContext; sc != nil {
		refuse(at.Child("securityContext"),
			setting{"appArmorProfile", sc.AppArmorProfile != nil}, setting{"seLinuxOptions", sc.SELinuxOptions != nil},
			setting{"seccompProfile", sc.SeccompProfile != nil}, setting{"fsGroup", sc.FSGroup != nil},
			setting{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, setting{"sysctls", len(sc.Sysctls) > 0},
			setting{"runAsUser", sc.RunAsUser != nil}, setting{"runAsGroup", sc.RunAsGroup != nil},
			setting{"supplementalGroups", sc.SupplementalGroups != nil},
			setting{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
			setting{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil})
	}
	eachContainer(c.spec, at, func(ctr *corev1.Container, at *field.Path, _ containerKind) {
		sc := ctr.SecurityContext
		if sc == nil {
			return
		}
		refuse(at.Child("securityContext"),
			setting{"appArmorProfile", sc.AppArmorProfile != nil}, setting{"seLinuxOptions", sc.SELinuxOptions != nil},
			setting{"seccompProfile", sc.SeccompProfile != nil}, setting{"capabilities", sc.Capabilities != nil},
			setting{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, setting{"privileged", sc.Privileged != nil},
			setting{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, setting{"procMount", sc.ProcMount != nil},
			setting{"runAsUser", sc.RunAsUser != nil}, setting{"runAsGroup", sc.RunAsGroup != nil})
	})
}

// windowsHostProcess holds that either all containers are processes of a Windows host, or none.
func (c *podCheck) windowsHostProcess(at *field.Path) {
	var pod *bool
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		pod = sc.WindowsOptions.HostProcess
	}
	count, onHost := 0, 0
	eachContainer(c.spec, at, func(ctr *corev1.Container, at *field.Path, _ containerKind) {
		count++
		own := pod
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			own = sc.WindowsOptions.HostProcess
			if pod != nil && *pod != *own {
				c.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod))
			}
		}
		if isTrue(own) {
			onHost++
		}
	})
	if onHost == 0 {
		return
	}
	if onHost != count {
		c.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !c.spec.HostNetwork {
		c.Invalid(at.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

const (
	maxCredentials   = 64 << 10 // bytes
	maxWindowsDomain = 256
	maxWindowsUser   = 104
)

func (c *podCheck) windowsOptions(o *corev1.WindowsSecurityContextOptions, at *field.Path) {
	if o == nil {
		return
	}
	if o.GMSACredentialSpecName != nil {
		c.Subdomain(at.Child("gmsaCredentialSpecName"), *o.GMSACredentialSpecName)
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		if *spec == "" {
			c.Invalid(at.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*spec) > maxCredentials {
			c.Invalid(at.Child("gmsaCredentialSpec"), *spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentials>>10))
		}
	}
	if o.RunAsUserName != nil {
		for _, msg := range windowsUser(*o.RunAsUserName) {
			c.Invalid(at.Child("runAsUserName"), *o.RunAsUserName, "runAsUserName"+msg)
		}
	}
}

// windowsUser says what is wrong with DOMAIN\USER or USER.
func windowsUser(name string) (wrong []string) {
	switch {
	case name == "":
		return []string{" cannot be an empty string"}
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return []string{" cannot contain control characters"}
	case strings.Count(name, `\`) > 1:
		return []string{" cannot contain more than one backslash"}
	}
	domain, user, hasDomain := strings.Cut(name, `\`)
	if !hasDomain {
		domain, user = "", name
	}
	if len(domain) >= maxWindowsDomain {
		wrong = append(wrong, fmt.Sprintf("'s Domain length must be under %d characters", maxWindowsDomain))
	}
	if hasDomain && !isWindowsDomain(domain) {
		wrong = append(wrong, "'s Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		wrong = append(wrong, "'s User cannot be empty")
	} else if len(user) > maxWindowsUser {
		wrong = append(wrong, fmt.Sprintf("'s User length must not be longer than %d characters", maxWindowsUser))
	}
	if user != "" && strings.Trim(user, ". ") == "" {
		wrong = append(wrong, "'s User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		wrong = append(wrong, `'s User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return wrong
}

func isWindowsDomain(name string) bool {
	netBIOS := regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	return netBIOS.MatchString(name) || len(validation.IsDNS1123Subdomain(strings.ToLower(name))) == 0
}
