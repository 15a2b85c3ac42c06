package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// NamespaceLifecycle keeps objects out of namespaces that are not there or that end, and keeps the namespaces that a cluster cannot do without.
type NamespaceLifecycle struct {
	state state
	kind  *resource.Kind
}

// immortal namespaces cannot be deleted.
var immortal = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true}

func newNamespaceLifecycle(table *resource.Table, s state) NamespaceLifecycle {
	kind, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return NamespaceLifecycle{s, kind}
}

// Admit implements Step.
func (n NamespaceLifecycle) Admit(_ context.Context, a *Attributes) error {
	if a.Kind == n.kind {
		if a.Operation == Delete && immortal[a.Name] {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if !a.Kind.Namespaced || a.Operation != Create || a.Namespace == "" {
		return nil
	}
	obj := n.state.Snapshot().Get(n.kind, "", a.Namespace)
	if obj == nil {
		return apierrors.NewNotFound(n.kind.GroupResource(), a.Namespace)
	}
	ns := cache.Typed[*corev1.Namespace](obj)
	if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	err := apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace), Field: "metadata.namespace",
	})
	return err
}
