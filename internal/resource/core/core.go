// Package core is the kinds of the core group, one file a kind.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words; an object that was valid when written stays readable and deletable.
package core

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// maxData is the most that a ConfigMap or Secret may hold, in bytes.
const maxData = corev1.MaxSecretSize

// Kinds are the kinds of the core group, in the order discovery shows them.
func Kinds() []*resource.Kind {
	return []*resource.Kind{
		ConfigMap(), Endpoints(), Event(), Namespace(), Node(), PersistentVolumeClaim(), PersistentVolume(), Pod(), PodTemplate(), ReplicationController(), Secret(), ServiceAccount(), Service(),
	}
}

func gvk(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

// column makes a column that `kubectl get` shows; priority 1 for those of -o wide.
func column(name, kind, description string, priority int32) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: priority}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// metaFields are the fields that every kind can be selected by, and more.
func metaFields(o resource.Object, more map[string]string) map[string]string {
	fields := resource.MetaFields(o)
	maps.Copy(fields, more)
	return fields
}

func root(name string, more ...string) *field.Path { return field.NewPath(name, more...) }
