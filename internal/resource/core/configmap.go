package core

import (
	"maps"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

const sealed = "field is immutable when `immutable` is set"

// ConfigMap holds configuration, as text and as bytes.
func ConfigMap() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("ConfigMap"), Plural: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		Namespaced: true, Prefix: "/registry/configmaps/",
		New:     func() resource.Object { return &corev1.ConfigMap{} },
		NewList: func() runtime.Object { return &corev1.ConfigMapList{} },

		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return configMap(o.(*corev1.ConfigMap)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return configMapUpdate(new.(*corev1.ConfigMap), old.(*corev1.ConfigMap))
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"], 0), resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			cm := o.(*corev1.ConfigMap)
			return []any{cm.Name, int64(len(cm.Data) + len(cm.BinaryData)), resource.Age(cm, now)}
		},
	}
}

func configMap(cm *corev1.ConfigMap) field.ErrorList {
	var l validate.List
	size := 0
	for key, value := range validate.InOrder(cm.Data) {
		at := root("data").Key(key)
		l.Messages(at, key, validation.IsConfigMapKey(key))
		if _, twice := cm.BinaryData[key]; twice {
			l.Invalid(at, key, "duplicate of key present in binaryData")
		}
		size += len(value)
	}
	for key, value := range validate.InOrder(cm.BinaryData) {
		l.Messages(root("binaryData").Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	l.Size(root(""), size, maxData)
	return l.Errs
}

func configMapUpdate(new, old *corev1.ConfigMap) field.ErrorList {
	var l validate.List
	if old.Immutable == nil || !*old.Immutable {
		return nil
	}
	if new.Immutable == nil || !*new.Immutable {
		l.Forbidden(root("immutable"), sealed)
	}
	if !maps.Equal(new.Data, old.Data) {
		l.Forbidden(root("data"), sealed)
	}
	if !sameBytes(new.BinaryData, old.BinaryData) {
		l.Forbidden(root("binaryData"), sealed)
	}
	return l.Errs
}

// sameBytes compares contents; whether an empty map is nil depends on the encoding it came in, and says nothing.
func sameBytes(a, b map[string][]byte) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}
