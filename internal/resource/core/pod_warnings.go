package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// podWarnings tells of what is allowed but hardly meant. Only who creates a pod is told.
func podWarnings(p *corev1.Pod) (warnings []string) {
	if !resource.IsNew(p) {
		return nil
	}
	if wrong := validation.IsDNS1123Label(p.Name); len(wrong) > 0 {
		warnings = append(warnings, fmt.Sprintf(
			"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", wrong))
	}
	return append(warnings, PodSpecWarnings(&p.Spec, p.Annotations, nil)...)
}

// PodSpecWarnings tells the same of a spec in a template, whose path is given.
func PodSpecWarnings(spec *corev1.PodSpec, notes map[string]string, at *field.Path) (warnings []string) {
	warn := func(at *field.Path, format string, args ...any) {
		warnings = append(warnings, at.String()+": "+fmt.Sprintf(format, args...))
	}
	for _, old := range []struct{ key, instead string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := notes[old.key]; ok {
			warn(at.Child("metadata", "annotations").Key(old.key), "%s", old.instead)
		}
	}
	at = at.Child("spec")
	for i, c := range spec.TopologySpreadConstraints {
		if c.LabelSelector == nil {
			warn(at.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	for i, v := range spec.Volumes {
		for name, since := range oldVolumes(&v) {
			warn(at.Child("volumes").Index(i).Child(name), "%s", since)
		}
	}
	seen := validate.Seen{}
	for i, alias := range spec.HostAliases {
		if seen.Again(alias.IP) {
			warn(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
	}
	seen = validate.Seen{}
	for i, s := range spec.ImagePullSecrets {
		at := at.Child("imagePullSecrets").Index(i).Child("name")
		if seen.Again(s.Name) {
			warn(at, "duplicate name %q", s.Name)
		}
		if s.Name == "" {
			warn(at, "invalid empty name %q", s.Name)
		}
	}
	ports := make(map[string][]usedPort)
	eachContainer(spec, at, func(c *corev1.Container, at *field.Path, _ containerKind) {
		fractions(&c.Resources, at.Child("resources"), warn)
		hiddenVariables(c.Env, at.Child("env"), warn)
		samePorts(c.Ports, at.Child("ports"), ports, warn)
	})
	if g := spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		warn(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	return warnings
}

type warner func(at *field.Path, format string, args ...any)

// oldVolumes are the types that do nothing any more, each since when.
func oldVolumes(v *corev1.Volume) map[string]string {
	old := make(map[string]string)
	for _, t := range []struct {
		set         bool
		name, since string
	}{
		{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
		{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
		{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if t.set {
			old[t.name] = t.since
		}
	}
	return old
}

// fractions finds parts of bytes, mostly a small m that was meant to be a large one.
func fractions(r *corev1.ResourceRequirements, at *field.Path, warn warner) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		for _, list := range []struct {
			name    string
			amounts corev1.ResourceList
		}{{"limits", r.Limits}, {"requests", r.Requests}} {
			if q, ok := list.amounts[name]; ok && q.MilliValue()%1000 != 0 {
				warn(at.Child(list.name).Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
			}
		}
	}
}

// hiddenVariables finds definitions that replace an earlier one of the same name without building on it.
func hiddenVariables(env []corev1.EnvVar, at *field.Path, warn warner) {
	seen := validate.Seen{}
	for i, v := range env {
		own := "$(" + v.Name + ")"
		if seen.Again(v.Name) && (v.ValueFrom != nil || v.Value == own || !strings.Contains(v.Value, own)) {
			warn(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
	}
}

type usedPort struct {
	port corev1.ContainerPort
	at   *field.Path
}

// samePorts finds ports that two containers, or one twice, declare.
func samePorts(ports []corev1.ContainerPort, at *field.Path, used map[string][]usedPort, warn warner) {
	for i, p := range ports {
		at := at.Index(i)
		if p.HostIP != "" && p.HostPort == 0 {
			warn(at, "hostIP set without hostPort: %+v", p)
		}
		key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		for _, other := range used[key] {
			switch {
			case p.HostIP == other.port.HostIP && p.HostPort == other.port.HostPort:
				warn(at, "duplicate port definition with %s", other.at)
			case p.HostPort == 0 || other.port.HostPort == 0:
				warn(at, "overlapping port definition with %s", other.at)
			case p.HostPort == other.port.HostPort && (p.HostIP == "" || other.port.HostIP == ""):
				warn(at, "dangerously ambiguous port definition with %s", other.at)
			}
		}
		used[key] = append(used[key], usedPort{p, at})
	}
}
