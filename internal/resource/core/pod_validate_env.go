package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *podCheck) env(vars []corev1.EnvVar, at *field.Path) {
	for i, v := range vars {
		at := at.Index(i)
		if v.Name == "" {
			c.Required(at.Child("name"), "")
		} else {
			c.Messages(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))
		}
		if v.ValueFrom != nil {
			c.envSource(v, at.Child("valueFrom"))
		}
	}
}

func (c *podCheck) envSource(v corev1.EnvVar, at *field.Path) {
	from, sources := v.ValueFrom, 0
	if r := from.FieldRef; r != nil {
		sources++
		c.fieldRef(r, envFields, at.Child("fieldRef"))
	}
	if r := from.ResourceFieldRef; r != nil {
		sources++
		c.resourceRef(r, false, at.Child("resourceFieldRef"))
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		c.keyRef(r.Name, r.Key, at.Child("configMapKeyRef"))
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		c.keyRef(r.Name, r.Key, at.Child("secretKeyRef"))
	}
	if r := from.FileKeyRef; r != nil {
		sources++
		c.fileRef(r, at.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		c.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		c.Invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		c.Invalid(at, "", "may not have more than one field specified at a time")
	}
}

func (c *podCheck) keyRef(name, key string, at *field.Path) {
	c.Subdomain(at.Child("name"), name)
	if key == "" {
		c.Required(at.Child("key"), "")
	} else {
		c.Messages(at.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

// maxFileKey is the longest key in a file of variables, in bytes.
const maxFileKey = 128

func (c *podCheck) fileRef(r *corev1.FileKeySelector, at *field.Path) {
	if r.Key == "" {
		c.Required(at.Child("key"), "")
	} else {
		c.Messages(at.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))
		c.Size(at.Child("key"), len(r.Key), maxFileKey)
	}
	if r.VolumeName == "" {
		c.Required(at.Child("volumeName"), "")
	} else if v, ok := c.volumes[r.VolumeName]; !ok {
		c.Add(field.NotFound(at.Child("volumeName"), r.VolumeName))
	} else if v.EmptyDir == nil {
		c.Invalid(at.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir")
	}
	if r.Path == "" {
		c.Required(at.Child("path"), "")
	} else {
		c.plainPath(r.Path, at.Child("path"))
	}
}

func (c *podCheck) envFrom(sources []corev1.EnvFromSource, at *field.Path) {
	for i, from := range sources {
		each, n := at.Index(i), 0
		if from.Prefix != "" {
			c.Messages(each.Child("prefix"), from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		if from.ConfigMapRef != nil {
			n++
			c.reference(from.ConfigMapRef.Name, each.Child("configMapRef", "name"))
		}
		if from.SecretRef != nil {
			n++
			c.reference(from.SecretRef.Name, each.Child("secretRef", "name"))
		}
		switch { // these two name the list, not its entry, as upstream does
		case n == 0:
			c.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case n > 1:
			c.Invalid(at, "", "may not have more than one field specified at a time")
		}
	}
}

func (c *podCheck) reference(name string, at *field.Path) {
	if name == "" {
		c.Required(at, "")
	} else {
		c.Subdomain(at, name)
	}
}

// Fields of a pod that may be referred to, sorted as errors list them.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	volumeFields = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	}
	otherFields     = []string{"spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"} // known, referred to nowhere
	containerFields = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
)

func (c *podCheck) fieldRef(r *corev1.ObjectFieldSelector, allowed []string, at *field.Path) {
	switch {
	case r.APIVersion == "":
		c.Required(at.Child("apiVersion"), "")
		return
	case r.FieldPath == "":
		c.Required(at.Child("fieldPath"), "")
		return
	case r.APIVersion != "v1":
		c.Invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: unsupported pod version: "+r.APIVersion)
		return
	}
	path, key, subscript := cutSubscript(r.FieldPath)
	known := slices.Contains(envFields, path) || slices.Contains(volumeFields, path) || slices.Contains(otherFields, path)
	switch {
	case subscript && (path == "metadata.annotations" || path == "metadata.labels"):
		if path == "metadata.annotations" {
			key = strings.ToLower(key)
		}
		c.QualifiedName(at, key)
	case subscript:
		c.Invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: field label does not support subscript: "+r.FieldPath)
	case !known:
		c.Invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: field label not supported: "+path)
	default:
		if path == "spec.host" {
			path = "spec.nodeName"
		}
		if !slices.Contains(allowed, path) {
			c.Add(field.NotSupported(at.Child("fieldPath"), path, allowed))
		}
	}
}

// cutSubscript takes metadata.labels['key'] apart.
func cutSubscript(path string) (before, key string, found bool) {
	inner, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	before, key, ok = strings.Cut(inner, "['")
	if !ok || before == "" {
		return path, "", false
	}
	return before, key, true
}

func (c *podCheck) resourceRef(r *corev1.ResourceFieldSelector, inVolume bool, at *field.Path) {
	hugePages := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	switch {
	case inVolume && r.ContainerName == "":
		c.Required(at.Child("containerName"), "")
	case r.Resource == "":
		c.Required(at.Child("resource"), "")
	case !hugePages && !slices.Contains(containerFields, r.Resource):
		c.Add(field.NotSupported(at.Child("resource"), r.Resource, containerFields))
	}
	if r.Divisor.IsZero() {
		return
	}
	const sizes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	wrong := func(allowed, what string) {
		if !slices.Contains(strings.Split(allowed, ", "), r.Divisor.String()) {
			c.Invalid(at.Child("divisor"), r.Resource,
				fmt.Sprintf("only divisor's values %s are supported with the %s resource", allowed, what))
		}
	}
	switch _, what, _ := strings.Cut(r.Resource, "."); {
	case what == "cpu":
		if s := r.Divisor.String(); s != "1m" && s != "1" {
			c.Invalid(at.Child("divisor"), r.Resource, "only divisor's values 1m and 1 are supported with the cpu resource")
		}
	case what == "memory":
		wrong(sizes, "memory")
	case what == "ephemeral-storage":
		wrong(sizes, "local ephemeral storage")
	case hugePages:
		wrong(sizes, "hugepages")
	}
}
