package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DropDisabledInTemplate drops the fields of features that are off, as it is done to pods.
func DropDisabledInTemplate(t *corev1.PodTemplateSpec) { dropDisabled(&t.Spec) }

// TemplateWarnings are those about a template of pods.
func TemplateWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	return PodSpecWarnings(&t.Spec, t.Annotations, at)
}

// TemplateColumns are the wide columns of kinds with a template: containers, images and, if it has a description, the selector.
func TemplateColumns(selector string) []metav1.TableColumnDefinition {
	columns := []metav1.TableColumnDefinition{
		column("Containers", "string", "Names of each container in the template.", 1),
		column("Images", "string", "Images referenced by each container in the template.", 1),
	}
	if selector != "" {
		columns = append(columns, column("Selector", "string", selector, 1))
	}
	return columns
}

// TemplateCells are the names and the images of a template's containers.
func TemplateCells(t *corev1.PodTemplateSpec) (containers, images string) {
	names, from := make([]string, len(t.Spec.Containers)), make([]string, len(t.Spec.Containers))
	for i := range t.Spec.Containers {
		names[i], from[i] = t.Spec.Containers[i].Name, t.Spec.Containers[i].Image
	}
	return strings.Join(names, ","), strings.Join(from, ",")
}
