package core

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Namespace holds all else. Its spec.finalizers keep it after a delete until everything in it is gone.
func Namespace() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("Namespace"), Plural: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		Prefix:  "/registry/namespaces/",
		New:     func() resource.Object { return &corev1.Namespace{} },
		NewList: func() runtime.Object { return &corev1.NamespaceList{} },
		Verbs:   []string{"create", "delete", "get", "list", "patch", "update", "watch"},

		Default:       func(o resource.Object) { defaultNamespace(o.(*corev1.Namespace)) },
		PrepareCreate: func(o resource.Object) { prepareNamespace(o.(*corev1.Namespace)) },
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*corev1.Namespace), old.(*corev1.Namespace)
			n.Spec.Finalizers, n.Status = o.Spec.Finalizers, o.Status
		},
		PrepareDelete: func(o resource.Object) { o.(*corev1.Namespace).Status.Phase = corev1.NamespaceTerminating },
		Held:          func(o resource.Object) bool { return len(o.(*corev1.Namespace).Spec.Finalizers) > 0 },

		NameRule: apivalidation.ValidateNamespaceName,
		Validate: func(o resource.Object) field.ErrorList {
			ns := o.(*corev1.Namespace)
			if !resource.IsNew(ns) {
				return nil
			}
			return namespaceFinalizers(ns, func(int) *field.Path { return root("spec", "finalizers") })
		},

		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				n, o := new.(*corev1.Namespace), old.(*corev1.Namespace)
				n.Spec.Finalizers = o.Spec.Finalizers
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return namespacePhase(new.(*corev1.Namespace))
			},
		},
		Finalize: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				new.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return namespaceFinalizers(new.(*corev1.Namespace), root("spec", "finalizers").Index)
			},
		},

		Fields: func(o resource.Object) map[string]string {
			return metaFields(o, map[string]string{"status.phase": string(o.(*corev1.Namespace).Status.Phase)})
		},
		FieldNames: []string{"metadata.name", "status.phase"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), column("Status", "string", "The status of the namespace", 0), resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			ns := o.(*corev1.Namespace)
			return []any{ns.Name, string(ns.Status.Phase), resource.Age(ns, now)}
		},
	}
}

func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name != "" { // a name that is still to be generated is labelled by a later pass
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	}
	if ns.Status.Phase == "" {
		ns.Status.Phase = corev1.NamespaceActive
	}
}

func prepareNamespace(ns *corev1.Namespace) {
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func namespaceFinalizers(ns *corev1.Namespace, at func(i int) *field.Path) field.ErrorList {
	var l validate.List
	for i, f := range ns.Spec.Finalizers {
		l.QualifiedName(at(i), string(f))
		l.Add(resource.PlainFinalizer(string(f), at(i)))
	}
	return l.Errs
}

// namespacePhase holds the phase and the deletion together. The path has a capital letter upstream, too.
func namespacePhase(ns *corev1.Namespace) field.ErrorList {
	at := root("status", "Phase")
	switch {
	case ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(at, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(at, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
