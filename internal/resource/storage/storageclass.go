// Package storage is the kinds of storage.k8s.io.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words.
package storage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of storage.k8s.io.
func Kinds() []*resource.Kind { return []*resource.Kind{StorageClass()} }

// The annotations that make a class the one of claims that name none; the second is older than the first.
const (
	DefaultAnnotation     = "storageclass.kubernetes.io/is-default-class"
	DefaultAnnotationBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// IsDefault says whether claims that name no class get this one.
func IsDefault(c *storagev1.StorageClass) bool {
	return c.Annotations[DefaultAnnotation] == "true" || c.Annotations[DefaultAnnotationBeta] == "true"
}

// Default is the class of claims that name none: of several that are marked so the newest. Nil: there is none.
func Default(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	marked := slices.DeleteFunc(slices.Clone(classes), func(c *storagev1.StorageClass) bool { return !IsDefault(c) })
	if len(marked) == 0 {
		return nil
	}
	return slices.MinFunc(marked, func(x, y *storagev1.StorageClass) int {
		return cmp.Or(y.CreationTimestamp.Compare(x.CreationTimestamp.Time), cmp.Compare(x.Name, y.Name))
	})
}

// Waits says that claims of the class are bound only once a pod that uses them is to be placed.
func Waits(c *storagev1.StorageClass) bool {
	return c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// StorageClass says who makes volumes for claims, and when.
func StorageClass() *resource.Kind {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("StorageClass"), Plural: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"},
		Prefix:  "/registry/storageclasses/",
		New:     func() resource.Object { return &storagev1.StorageClass{} },
		NewList: func() runtime.Object { return &storagev1.StorageClassList{} },

		Default: func(o resource.Object) {
			c := o.(*storagev1.StorageClass)
			if c.ReclaimPolicy == nil {
				c.ReclaimPolicy = new(corev1.PersistentVolumeReclaimDelete)
			}
			if c.VolumeBindingMode == nil {
				c.VolumeBindingMode = new(storagev1.VolumeBindingImmediate)
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return class(o.(*storagev1.StorageClass)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return classUpdate(new.(*storagev1.StorageClass), old.(*storagev1.StorageClass))
		},

		Fields: resource.MetaFields, FieldNames: []string{"metadata.name"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("Provisioner", "string", doc["provisioner"]),
			resource.Column("ReclaimPolicy", "string", doc["reclaimPolicy"]),
			resource.Column("VolumeBindingMode", "string", doc["volumeBindingMode"]),
			resource.Column("AllowVolumeExpansion", "string", doc["allowVolumeExpansion"]),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*storagev1.StorageClass)
			name, policy, mode := c.Name, string(corev1.PersistentVolumeReclaimDelete), string(storagev1.VolumeBindingImmediate)
			if IsDefault(c) {
				name += " (default)"
			}
			if c.ReclaimPolicy != nil {
				policy = string(*c.ReclaimPolicy)
			}
			if c.VolumeBindingMode != nil {
				mode = string(*c.VolumeBindingMode)
			}
			return []any{name, c.Provisioner, policy, mode, c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion, resource.Age(c, now)}
		},
	}
}

const (
	mostParameters     = 512
	mostParameterBytes = 256 << 10
)

func class(c *storagev1.StorageClass) field.ErrorList {
	var l validate.List
	if at := field.NewPath("provisioner"); c.Provisioner == "" {
		l.Required(at, c.Provisioner)
	} else {
		l.Messages(at, c.Provisioner, validation.IsQualifiedName(strings.ToLower(c.Provisioner)))
	}
	parameters(&l, c.Parameters, field.NewPath("parameters"))
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		validate.OneOf(&l, field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if at := field.NewPath("volumeBindingMode"); c.VolumeBindingMode == nil {
		l.Required(at, "")
	} else {
		validate.OneOf(&l, at, *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	topologies(&l, c.AllowedTopologies, field.NewPath("allowedTopologies"))
	return l.Errs
}

func parameters(l *validate.List, p map[string]string, at *field.Path) {
	if len(p) > mostParameters {
		l.Add(field.TooLong(at, "Provisioner Parameters exceeded max allowed", mostParameters))
		return
	}
	size := 0
	for key, value := range p {
		if key == "" {
			l.Invalid(at, key, "field can not be empty.")
		}
		size += len(key) + len(value)
	}
	l.Size(at, size, mostParameterBytes)
}

func topologies(l *validate.List, terms []corev1.TopologySelectorTerm, at *field.Path) {
	var seen []map[string][]string
	for i, term := range terms {
		at := at.Index(i)
		of := map[string][]string{}
		for j, r := range term.MatchLabelExpressions {
			at := at.Child("matchLabelExpressions").Index(j)
			if len(r.Values) == 0 {
				l.Required(at.Child("values"), "")
			}
			values := validate.Seen{}
			for k, v := range r.Values {
				if values.Again(v) {
					l.Add(field.Duplicate(at.Child("values").Index(k), v))
				}
			}
			l.Add(metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
			if _, twice := of[r.Key]; twice {
				l.Add(field.Duplicate(at.Child("key"), r.Key))
			}
			of[r.Key] = slices.Sorted(maps.Keys(values))
		}
		for _, other := range seen {
			if equality.Semantic.DeepEqual(of, other) {
				l.Add(field.Duplicate(at.Child("matchLabelExpressions"), ""))
			}
		}
		seen = append(seen, of)
	}
}

func classUpdate(new, old *storagev1.StorageClass) field.ErrorList {
	var l validate.List
	forbid := func(name string, same bool) {
		if !same {
			l.Forbidden(field.NewPath(name), fmt.Sprintf("updates to %s are forbidden.", name))
		}
	}
	forbid("parameters", equality.Semantic.DeepEqual(new.Parameters, old.Parameters))
	forbid("provisioner", new.Provisioner == old.Provisioner)
	forbid("reclaimPolicy", equality.Semantic.DeepEqual(new.ReclaimPolicy, old.ReclaimPolicy))
	l.Same(field.NewPath("volumeBindingMode"), new.VolumeBindingMode, old.VolumeBindingMode)
	return l.Errs
}
