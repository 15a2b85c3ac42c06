package apps

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// ControllerRevision is a past or present state of a workload.
func ControllerRevision() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("ControllerRevision"), Plural: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true, Prefix: "/registry/controllerrevisions/",
		New:     func() resource.Object { return &appsv1.ControllerRevision{} },
		NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },

		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return controllerRevision(o.(*appsv1.ControllerRevision)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			var c check
			n, o := &new.(*appsv1.ControllerRevision).Data, &old.(*appsv1.ControllerRevision).Data
			if !sameJSON(n.Raw, o.Raw) {
				c.Same(field.NewPath("data"), n, o)
			}
			return c.Errs
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Controlled: true,
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Controller", "string", "Controller of the object"),
			resource.Column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]), resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			r := o.(*appsv1.ControllerRevision)
			return []any{r.Name, controllerName(r), r.Revision, resource.Age(r, now)}
		},
	}
}

func controllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	var c check
	if data := bytes.TrimSpace(r.Data.Raw); len(data) == 0 && r.Data.Object == nil || bytes.Equal(data, []byte("null")) {
		c.Required(field.NewPath("data"), "data is mandatory")
	}
	c.NonNegative(field.NewPath("revision"), r.Revision)
	return c.Errs
}

// sameJSON ignores how it is written: a client may have sent it with other blanks than it got.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// controllerName is the kind and the name of an object's controller.
func controllerName(o resource.Object) string {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil {
		return "<none>"
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "<none>"
	}
	return strings.ToLower(gv.WithKind(ref.Kind).GroupKind().String()) + "/" + ref.Name
}
