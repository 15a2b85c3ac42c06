// Package core is the kinds of the core group, one file a kind.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words; an object that was valid when written stays readable and deletable.
package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// maxData is the most that a ConfigMap or Secret may hold, in bytes.
const maxData = corev1.MaxSecretSize

// Kinds are the kinds of the core group, in the order discovery shows them.
func Kinds() []*resource.Kind {
	return []*resource.Kind{
		ConfigMap(), Event(), Namespace(), Node(), Pod(), PodTemplate(), ReplicationController(), Secret(), ServiceAccount(), Service(),
	}
}

func gvk(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

// column makes a column that `kubectl get` shows; priority 1 for those of -o wide.
func column(name, kind, description string, priority int32) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: priority}
}

func nameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}
}

func ageColumn() metav1.TableColumnDefinition {
	return column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], 0)
}

func age(since metav1.Time, now time.Time) string {
	if since.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(since.Time))
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// metaFields are the fields that every kind can be selected by.
func metaFields(o resource.Object, more map[string]string) map[string]string {
	fields := make(map[string]string, len(more)+2)
	fields["metadata.name"] = o.GetName()
	if ns := o.GetNamespace(); ns != "" {
		fields["metadata.namespace"] = ns
	}
	for k, v := range more {
		fields[k] = v
	}
	return fields
}

var metaNames = []string{"metadata.name", "metadata.namespace"}

func named(o resource.Object) map[string]string { return metaFields(o, nil) }

func root(name string, more ...string) *field.Path { return field.NewPath(name, more...) }
