package resource

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Column makes a column that `kubectl get` shows.
func Column(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description}
}

// NameColumn is the first column of every kind.
func NameColumn() metav1.TableColumnDefinition {
	c := Column("Name", "string", metav1.ObjectMeta{}.SwaggerDoc()["name"])
	c.Format = "name"
	return c
}

// AgeColumn is the column that Age fills.
func AgeColumn() metav1.TableColumnDefinition {
	return Column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// Age is how old an object is, as people read it.
func Age(o Object, now time.Time) string { return Since(o.GetCreationTimestamp(), now) }

// Since is how long ago something was, as people read it.
func Since(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// MetaFields are the fields that every kind can be selected by, and MetaNames what they are called where there are namespaces.
func MetaFields(o Object) map[string]string {
	fields := map[string]string{"metadata.name": o.GetName()}
	if ns := o.GetNamespace(); ns != "" {
		fields["metadata.namespace"] = ns
	}
	return fields
}

// MetaNames are the names of MetaFields. It is a function, so that nobody appends to what others share.
func MetaNames(more ...string) []string { return append(more, "metadata.name", "metadata.namespace") }
