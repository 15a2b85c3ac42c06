// Package node is the kinds of node.k8s.io.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words.
package node

import (
	"time"

	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// Kinds are the kinds of node.k8s.io.
func Kinds() []*resource.Kind { return []*resource.Kind{RuntimeClass()} }

// RuntimeClass says what runs pods of that class: by which handler of the node's runtime, on which nodes, and what it takes besides the pods' own containers.
func RuntimeClass() *resource.Kind {
	doc := nodev1.RuntimeClass{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), Plural: "runtimeclasses", Singular: "runtimeclass",
		Prefix:  "/registry/runtimeclasses/",
		New:     func() resource.Object { return &nodev1.RuntimeClass{} },
		NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },

		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return class(o.(*nodev1.RuntimeClass)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			n, o := new.(*nodev1.RuntimeClass), old.(*nodev1.RuntimeClass)
			return apivalidation.ValidateImmutableField(n.Handler, o.Handler, field.NewPath("handler"))
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			{Name: "Handler", Type: "string", Description: doc["handler"]},
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*nodev1.RuntimeClass)
			return []any{c.Name, c.Handler, resource.Age(c, now)}
		},
	}
}

func class(c *nodev1.RuntimeClass) (errs field.ErrorList) {
	for _, msg := range apivalidation.NameIsDNSLabel(c.Handler, false) {
		errs = append(errs, field.Invalid(field.NewPath("handler"), c.Handler, msg))
	}
	if c.Overhead != nil {
		errs = append(errs, core.Overhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		errs = append(errs, core.Tolerations(s.Tolerations, at.Child("tolerations"))...)
	}
	return errs
}
