// Package tokencleaner deletes join tokens when their time is over.
//
// It watches Secrets; it deletes Secrets of the type bootstrap.kubernetes.io/token. Always: it deletes only those in kube-system that say when they end, once they
// have ended. Nobody could use them any more before, either.
package tokencleaner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/loop"
)

// View shows the current secrets, which are shared; nil if there is none.
type View interface {
	Secret(key loop.Key) *corev1.Secret
}

// API is what this controller writes.
type API interface {
	// DeleteSecret deletes the secret if it is still the same.
	DeleteSecret(ctx context.Context, s *corev1.Secret) error
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("token_cleaner", c.Reconcile, loop.Options{Workers: 1, Metrics: metrics, Log: log})
	return c
}

// Reconcile deletes one token if its time has come.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	s := c.view.Secret(key)
	if s == nil || s.Type != auth.BootstrapType || s.Namespace != auth.BootstrapNamespace || len(s.Data[auth.BootstrapExpiration]) == 0 {
		return nil
	}
	now := time.Now()
	if !auth.BootstrapExpired(s, now) {
		end, err := time.Parse(time.RFC3339, string(s.Data[auth.BootstrapExpiration]))
		if err == nil {
			c.MarkAfter(key, end.Sub(now))
		}
		return nil
	}
	if err := c.api.DeleteSecret(ctx, s); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete expired join token %s: %w", s.Name, err)
	}
	return nil
}
