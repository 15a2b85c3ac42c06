package core

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

const (
	appArmorPrefix  = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	seccompPrefix   = "container.seccomp.security.alpha.kubernetes.io/"
	seccompPod      = "seccomp.security.alpha.kubernetes.io/pod"
	dockerDefault   = "docker/default" // the oldest name of runtime/default
	tolerationsNote = corev1.TolerationsAnnotationKey
)

// annotations checks those annotations that once were fields, or mean something.
func (c *podCheck) annotations(notes map[string]string, at *field.Path) {
	if value, mirror := notes[corev1.MirrorPodAnnotationKey]; mirror && c.spec.NodeName == "" {
		c.Invalid(at.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if value := notes[tolerationsNote]; value != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(value), &list); err != nil {
			c.Invalid(at, tolerationsNote, err.Error())
		} else {
			c.Add(tolerations(list, at.Child(tolerationsNote))...)
		}
	}
	if value, ok := notes[corev1.PodDeletionCost]; ok && !deletionCost(value) {
		c.Invalid(at.Key(corev1.PodDeletionCost), value, "must be a 32bit integer")
	}
	for key, value := range validate.InOrder(notes) {
		if key == seccompPod || strings.HasPrefix(key, seccompPrefix) {
			c.seccompNote(value, at.Child(key))
		}
	}
	for key, value := range validate.InOrder(notes) {
		name, ok := strings.CutPrefix(key, appArmorPrefix)
		if !ok {
			continue
		}
		found := false
		eachContainer(c.spec, nil, func(ctr *corev1.Container, _ *field.Path, _ containerKind) {
			found = found || ctr.Name == name
		})
		if !found {
			c.Invalid(at.Key(key), name, "container not found")
		}
		switch {
		case value == "", value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault,
			value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined,
			strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
		default:
			c.Invalid(at.Key(key), value, fmt.Sprintf("invalid AppArmor profile name: %q", value))
		}
	}
}

func (c *podCheck) seccompNote(value string, at *field.Path) {
	if file, ok := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); ok {
		c.relativePath(file, at)
		return
	}
	switch value {
	case corev1.SeccompProfileRuntimeDefault, dockerDefault, corev1.SeccompProfileNameUnconfined:
	default:
		c.Invalid(at, value, "must be a valid seccomp profile")
	}
}

// profilesMatch holds old annotations to the fields that took their place, where both are there.
func (c *podCheck) profilesMatch(notes map[string]string, at *field.Path) {
	var podArmor *corev1.AppArmorProfile
	if sc := c.spec.SecurityContext; sc != nil {
		podArmor = sc.AppArmorProfile
		if note, ok := notes[seccompPod]; ok && sc.SeccompProfile != nil {
			c.seccompMatches(note, sc.SeccompProfile, at.Child("securityContext", "seccompProfile"))
		}
	}
	eachContainer(c.spec, at, func(ctr *corev1.Container, at *field.Path, _ containerKind) {
		sc, armor := ctr.SecurityContext, podArmor
		if sc != nil && sc.SeccompProfile != nil {
			if note, ok := notes[seccompPrefix+ctr.Name]; ok {
				c.seccompMatches(note, sc.SeccompProfile, at.Child("securityContext", "seccompProfile"))
			}
		}
		if sc != nil && sc.AppArmorProfile != nil {
			armor = sc.AppArmorProfile
		}
		note, ok := notes[appArmorPrefix+ctr.Name]
		if ok && armor != nil && (c.spec.OS == nil || c.spec.OS.Name != corev1.Windows) {
			c.profileMatches("apparmor", note, string(armor.Type), armor.LocalhostProfile, at.Child("securityContext", "appArmorProfile"))
		}
	})
}

func (c *podCheck) seccompMatches(note string, p *corev1.SeccompProfile, at *field.Path) {
	if note == dockerDefault {
		note = corev1.SeccompProfileRuntimeDefault
	}
	c.profileMatches("seccomp", note, string(p.Type), p.LocalhostProfile, at)
}

// profileMatches compares: both sorts of profile have the same names for types and the same prefix for files.
func (c *podCheck) profileMatches(sort, note, kind string, file *string, at *field.Path) {
	same := true
	switch kind {
	case string(corev1.SeccompProfileTypeUnconfined):
		same = note == corev1.SeccompProfileNameUnconfined
	case string(corev1.SeccompProfileTypeRuntimeDefault):
		same = note == corev1.SeccompProfileRuntimeDefault
	case string(corev1.SeccompProfileTypeLocalhost):
		var noted string
		if noted, same = strings.CutPrefix(note, corev1.SeccompLocalhostProfileNamePrefix); same && (file == nil || noted != *file) {
			c.Forbidden(at.Child("localhostProfile"), sort+" profile in annotation and field must match")
		}
	}
	if !same {
		c.Forbidden(at.Child("type"), sort+" type in annotation and field must match")
	}
}
