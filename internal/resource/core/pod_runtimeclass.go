package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Overhead checks what a RuntimeClass gives pods to take besides what their containers ask for, as a pod's own is checked.
func Overhead(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var c podCheck
	c.requirements(&corev1.ResourceRequirements{Limits: list}, containerResource, at)
	return c.Errs
}

// Tolerations checks those that a RuntimeClass gives pods.
func Tolerations(list []corev1.Toleration, at *field.Path) field.ErrorList {
	return tolerations(list, at)
}
