// Package serviceaccount gives each namespace the service account `default`.
//
// It watches Namespaces and ServiceAccounts; it creates ServiceAccounts.
// Always: it only ever creates `default`, in namespaces that are not being deleted; it changes none that is there.
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// Name of the account.
const Name = "default"

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Namespace(name string) *corev1.Namespace
	ServiceAccount(namespace, name string) *corev1.ServiceAccount
}

// API is what this controller writes.
type API interface {
	CreateServiceAccount(ctx context.Context, account *corev1.ServiceAccount) error
}

// Controller runs as its Loop does. Its keys are namespaces' names.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("serviceaccount", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Reconcile creates the account of one namespace if it is missing.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	if !Missing(c.view.Namespace(key.Name), c.view.ServiceAccount(key.Name, Name)) {
		return nil
	}
	err := c.api.CreateServiceAccount(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: Name}})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // it is there, or the namespace is going: either will be seen
	}
	return fmt.Errorf("create service account %s: %w", Name, err)
}

// Missing reports whether the namespace is to be given an account.
func Missing(ns *corev1.Namespace, account *corev1.ServiceAccount) bool {
	return ns != nil && ns.DeletionTimestamp == nil && account == nil
}
