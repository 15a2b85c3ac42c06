package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// mounts checks where a container sees volumes as directories. Some errors name the list, not its entry, as upstream's do.
func (c *podCheck) mounts(ctr *corev1.Container, all *field.Path) {
	paths := validate.Seen{}
	for i := range ctr.VolumeMounts {
		m, at := &ctr.VolumeMounts[i], all.Index(i)
		c.must(at, "name", m.Name)
		if _, ok := c.volumes[m.Name]; !ok {
			c.Add(field.NotFound(at.Child("name"), m.Name))
		}
		c.must(at, "mountPath", m.MountPath)
		if paths.Again(m.MountPath) {
			c.Invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		for _, d := range ctr.VolumeDevices {
			if d.Name == m.Name {
				c.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
			}
			if d.DevicePath == m.MountPath {
				c.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
			}
		}
		if m.SubPath != "" {
			c.relativePath(m.SubPath, all.Child("subPath"))
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				c.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			c.relativePath(m.SubPathExpr, all.Child("subPathExpr"))
		}
		c.propagation(m, ctr.SecurityContext, all.Child("mountPropagation"))
		c.recursiveReadOnly(m, all.Child("recursiveReadOnly"))
	}
}

func (c *podCheck) propagation(m *corev1.VolumeMount, sc *corev1.SecurityContext, at *field.Path) {
	if m.MountPropagation == nil {
		return
	}
	validate.OneOf(&c.List, at, *m.MountPropagation,
		corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if *m.MountPropagation == corev1.MountPropagationBidirectional && (sc == nil || !isTrue(sc.Privileged)) {
		c.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
	}
}

func (c *podCheck) recursiveReadOnly(m *corev1.VolumeMount, at *field.Path) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return
	}
	modes := []corev1.RecursiveReadOnlyMode{
		corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible,
	}
	if !slices.Contains(modes, *m.RecursiveReadOnly) {
		c.Add(field.NotSupported(at, *m.RecursiveReadOnly, modes))
		return
	}
	if !m.ReadOnly {
		c.Forbidden(at, "may only be specified when readOnly is true")
	}
	if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
		c.Forbidden(at, "may only be specified when mountPropagation is None or not specified")
	}
}

// devices checks where a container sees volumes as block devices.
func (c *podCheck) devices(ctr *corev1.Container, all *field.Path) {
	names, paths := validate.Seen{}, validate.Seen{}
	for i, d := range ctr.VolumeDevices {
		at := all.Index(i)
		c.must(at, "name", d.Name)
		if d.Name != "" && names.Again(d.Name) {
			c.Invalid(at.Child("name"), d.Name, "must be unique")
		}
		if v, ok := c.volumes[d.Name]; !ok {
			c.Add(field.NotFound(at.Child("name"), d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			c.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		c.must(at, "devicePath", d.DevicePath)
		if paths[d.DevicePath] {
			c.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		}
		if backsteps(d.DevicePath) {
			c.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths[d.DevicePath] = true
		}
		for _, m := range ctr.VolumeMounts {
			if m.Name == d.Name {
				c.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts")
			}
			if m.MountPath == d.DevicePath {
				c.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
			}
		}
	}
}

func backsteps(p string) bool {
	var probe podCheck
	probe.noBacksteps(p, nil)
	return len(probe.Errs) > 0
}
