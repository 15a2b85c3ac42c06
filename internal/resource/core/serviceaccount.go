package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/resource"
)

const mountableSecrets = "kubernetes.io/enforce-mountable-secrets"

// ServiceAccount is who a pod is when it calls the API.
func ServiceAccount() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("ServiceAccount"), Plural: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		Namespaced: true, Prefix: "/registry/serviceaccounts/",
		Connects: []string{"token"},
		New:      func() resource.Object { return &corev1.ServiceAccount{} },
		NewList:  func() runtime.Object { return &corev1.ServiceAccountList{} },

		PrepareCreate: func(o resource.Object) { keepSecretNames(o.(*corev1.ServiceAccount)) },
		PrepareUpdate: func(new, _ resource.Object) { keepSecretNames(new.(*corev1.ServiceAccount)) },
		NameRule:      apivalidation.ValidateServiceAccountName,
		Warnings: func(o resource.Object) []string {
			if _, ok := o.GetAnnotations()[mountableSecrets]; !ok {
				return nil
			}
			at := root("metadata", "annotations").Key(mountableSecrets)
			return []string{at.String() + ": deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), column("Secrets", "string", corev1.ServiceAccount{}.SwaggerDoc()["secrets"], 0), resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			sa := o.(*corev1.ServiceAccount)
			return []any{sa.Name, int64(len(sa.Secrets)), resource.Age(sa, now)}
		},
	}
}

// keepSecretNames drops all but the names of referenced secrets: they are in the same namespace by definition.
func keepSecretNames(sa *corev1.ServiceAccount) {
	for i, ref := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: ref.Name}
	}
}
