package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// PodTemplate is a template of pods by itself, which nothing makes pods of.
func PodTemplate() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("PodTemplate"), Plural: "podtemplates", Singular: "podtemplate",
		Namespaced: true, Prefix: "/registry/podtemplates/",
		New:     func() resource.Object { return &corev1.PodTemplate{} },
		NewList: func() runtime.Object { return &corev1.PodTemplateList{} },

		Default: func(o resource.Object) { DefaultPodSpec(&o.(*corev1.PodTemplate).Template.Spec) },
		PrepareCreate: func(o resource.Object) {
			t := o.(*corev1.PodTemplate)
			t.Generation = 1
			DropDisabledInTemplate(&t.Template)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*corev1.PodTemplate), old.(*corev1.PodTemplate)
			DropDisabledInTemplate(&n.Template)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Template, o.Template) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList {
			return ValidatePodTemplateSpec(&o.(*corev1.PodTemplate).Template, root("template"))
		},
		Warnings: func(o resource.Object) []string {
			return TemplateWarnings(&o.(*corev1.PodTemplate).Template, root("template"))
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), column("Containers", "string", "Names of each container in the template.", 0),
			column("Images", "string", "Images referenced by each container in the template.", 0),
			column("Pod Labels", "string", "The labels for the pod template.", 0),
		},
		Row: func(o resource.Object, _ time.Time) []any {
			t := o.(*corev1.PodTemplate)
			names, images := TemplateCells(&t.Template)
			return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
		},
	}
}
