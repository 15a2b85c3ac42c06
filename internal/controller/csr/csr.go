// Package csr approves, signs and removes requests for certificates.
//
// It watches CertificateSigningRequests and Nodes; it writes the conditions and certificates of requests, deletes old ones, and keeps which key each node has joined
// with (in the ConfigMap kube-system/sampan-node-keys). Without a person it approves only what a node asks for itself, and what whoever holds a join token
// asks for a node whose name nobody has with another key. Signers are those of https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers.
// Always: a certificate is only issued to a request that was approved, and says nothing that its signer does not stand for; a node's key is
// remembered before its certificate is made.
package csr

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource/certificates"
)

// Namespace and Name are those of the ConfigMap that has each node's key.
const (
	Namespace = "kube-system"
	Name      = "sampan-node-keys"
)

// View shows the current objects, which are shared; nil for what is not there.
type View interface {
	Request(name string) *certificatesv1.CertificateSigningRequest
	Requests() []*certificatesv1.CertificateSigningRequest
	Node(name string) *corev1.Node
	// Key is the one that a node has joined with; "" if none is known.
	Key(node string) string
}

// API is what this controller writes.
type API interface {
	// Approval changes the request's conditions of approval, Status the others and the certificate.
	Approval(ctx context.Context, name string, change func(*certificatesv1.CertificateSigningRequest)) error
	Status(ctx context.Context, name string, change func(*certificatesv1.CertificateSigningRequest)) error
	Delete(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error
	SetKey(ctx context.Context, node, key string) error
}

// Authority makes certificates in PEM. pki.PKI is one.
type Authority interface {
	Sign(request *x509.CertificateRequest, uses x509.KeyUsage, extended []x509.ExtKeyUsage, ttl time.Duration) ([]byte, error)
}

// Controller runs as its Loop does. Its keys are names of requests.
type Controller struct {
	*loop.Loop
	view View
	api  API
	ca   Authority
}

// New makes the controller.
func New(view View, api API, ca Authority, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, ca: ca}
	c.Loop = loop.New("certificate-requests", c.Reconcile, loop.Options{Workers: 1, Metrics: metrics, Log: log})
	return c
}

// NodeChanged marks the requests that may wait for what a node says of itself.
func (c *Controller) NodeChanged(name string) {
	for _, r := range c.view.Requests() {
		if r.Spec.SignerName == certificatesv1.KubeletServingSignerName && r.Spec.Username == nodePrefix+name && len(r.Status.Conditions) == 0 {
			c.Mark(loop.Key{Name: r.Name})
		}
	}
}

// Reconcile looks after one request.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	csr := c.view.Request(key.Name)
	if csr == nil {
		return nil
	}
	facts := Facts{Now: time.Now()}
	if request, err := certificates.ParseRequest(csr.Spec.Request); err == nil {
		if node := NodeOf(request); node != "" {
			facts.Node, facts.Key, facts.Rival = c.view.Node(node), c.view.Key(node), c.rival(node, KeyOf(request), facts.Now)
		}
	}
	p := Decide(csr, facts)
	err := c.apply(ctx, csr, facts, p)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("look after certificate request %s: %w", csr.Name, err)
	}
	if p.Again > 0 {
		c.MarkAfter(key, p.Again)
	}
	return nil
}

// joining is how long a machine that has been let in is given to make its Node.
const joining = time.Minute

// rival says whether somebody with another key has just been let in as that node.
func (c *Controller) rival(node, key string, now time.Time) bool {
	for _, r := range c.view.Requests() {
		if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
			continue
		}
		i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateApproved && now.Sub(c.LastUpdateTime.Time) < joining
		})
		if i < 0 {
			continue
		}
		if other, err := certificates.ParseRequest(r.Spec.Request); err == nil && NodeOf(other) == node && KeyOf(other) != key {
			return true
		}
	}
	return false
}

func (c *Controller) apply(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, f Facts, p Plan) error {
	condition := func(t certificatesv1.RequestConditionType, reason, message string) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message})
		}
	}
	switch {
	case p.Delete:
		return c.api.Delete(ctx, csr)
	case p.Deny != "":
		return c.api.Approval(ctx, csr.Name, condition(certificatesv1.CertificateDenied, "NameTaken", p.Deny))
	case p.Approve != "":
		if p.Key != "" && p.Key != f.Key {
			if err := c.api.SetKey(ctx, p.Node, p.Key); err != nil {
				return err
			}
		}
		return c.api.Approval(ctx, csr.Name, condition(certificatesv1.CertificateApproved, "AutoApproved", p.Approve))
	case p.Issue != nil:
		certificate, err := c.ca.Sign(p.Issue.Request, p.Issue.Uses, p.Issue.Extended, p.Issue.Life)
		if err != nil {
			return c.api.Status(ctx, csr.Name, condition(certificatesv1.CertificateFailed, "SigningError", err.Error()))
		}
		return c.api.Status(ctx, csr.Name, func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = certificate })
	case p.Fail != "":
		return c.api.Status(ctx, csr.Name, condition(certificatesv1.CertificateFailed, "SignerValidationFailure", p.Fail))
	}
	return nil
}

// DeleteOptions are those that delete a request only if it is still the same.
func DeleteOptions(r *certificatesv1.CertificateSigningRequest) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID}}
}
