// Package rootca publishes the cluster's certificate authority to each namespace.
//
// It watches Namespaces and ConfigMaps; it writes the ConfigMap kube-root-ca.crt.
// Always: the ca.crt in it is the authority that signs the API server's certificate; whoever changes it finds it
// changed back. No other ConfigMap is touched.
package rootca

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// Name of the ConfigMap, and the key in it.
const (
	Name = "kube-root-ca.crt"
	Key  = "ca.crt"

	described   = "kubernetes.io/description"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Namespace(name string) *corev1.Namespace
	ConfigMap(namespace, name string) *corev1.ConfigMap
}

// API is what this controller writes.
type API interface {
	CreateConfigMap(ctx context.Context, m *corev1.ConfigMap) error
	UpdateConfigMap(ctx context.Context, namespace, name string, change func(*corev1.ConfigMap)) error
}

// Controller runs as its Loop does. Its keys are namespaces' names.
type Controller struct {
	*loop.Loop
	view View
	api  API
	ca   string // PEM
}

// New makes the controller that publishes ca, in PEM.
func New(view View, api API, ca string, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, ca: ca}
	c.Loop = loop.New("root-ca-certificate-publisher", c.Reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// step is what one namespace needs.
type step int

const (
	nothing step = iota
	create
	change
)

// Reconcile publishes to one namespace.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	var err error
	switch decide(c.view.Namespace(key.Name), c.view.ConfigMap(key.Name, Name), c.ca) {
	case nothing:
		return nil
	case create:
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: Name}}
		c.fill(m)
		err = c.api.CreateConfigMap(ctx, m)
	case change:
		err = c.api.UpdateConfigMap(ctx, key.Name, Name, c.fill)
	}
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // what came or went meanwhile will be seen
	}
	return fmt.Errorf("write config map %s: %w", Name, err)
}

func (c *Controller) fill(m *corev1.ConfigMap) {
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[described] = description
	m.Data, m.BinaryData = map[string]string{Key: c.ca}, nil
}

func decide(ns *corev1.Namespace, m *corev1.ConfigMap, ca string) step {
	switch {
	case ns == nil || ns.DeletionTimestamp != nil:
		return nothing
	case m == nil:
		return create
	case m.DeletionTimestamp == nil && (len(m.Data) != 1 || m.Data[Key] != ca || len(m.BinaryData) > 0 || m.Annotations[described] == ""):
		return change
	}
	return nothing
}
