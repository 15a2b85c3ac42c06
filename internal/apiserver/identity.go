package apiserver

import (
	"context"
	"crypto/x509"
	"iter"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
)

// connIdentity is who is at the other end of a connection: verified once, not with each request, for as long as the certificate is good.
type connIdentity struct {
	once sync.Once
	user *auth.Identity
	err  error
	end  time.Time // of its certificate
}

type connKey struct{}

func withConnIdentity(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &connIdentity{})
}

var errUnauthorized = apierrors.NewUnauthorized("Unauthorized")

// identify says who sends a request. A good certificate comes first, then a token; one that cannot be verified is an error, none at
// all is anonymous.
func (s *Server) identify(r *http.Request) (*auth.Identity, error) {
	user, err := s.certified(r)
	if user != nil {
		return user, nil
	}
	if text, ok := bearer(r); ok {
		return s.bearer(r, text)
	}
	if text, ok := socketToken(r); ok {
		return s.bearer(r, text)
	}
	if err != nil {
		return nil, err
	}
	return auth.User(context.Background()), nil
}

// bearer is who holds the token. What is wrong with it, its holder is not told.
func (s *Server) bearer(r *http.Request, text string) (*auth.Identity, error) {
	if _, err := s.fresh(r.Context()); err != nil { // what it is bound to may be gone
		return nil, err
	}
	user, _, err := s.authenticate(text, nil)
	if err != nil {
		s.log.Debug("token refused", "error", err)
		return nil, errUnauthorized
	}
	return user, nil
}

// certified is who the certificate of the connection names: nil if there is none.
func (s *Server) certified(r *http.Request) (*auth.Identity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	conn, ok := r.Context().Value(connKey{}).(*connIdentity)
	if !ok {
		conn = &connIdentity{}
	}
	conn.once.Do(func() {
		conn.user, conn.err = s.verify(r.TLS.PeerCertificates)
		conn.end = r.TLS.PeerCertificates[0].NotAfter
	})
	if conn.user != nil && time.Now().After(conn.end) { // a connection may outlive it
		return nil, errUnauthorized
	}
	return conn.user, conn.err
}

func (s *Server) verify(chain []*x509.Certificate) (*auth.Identity, error) {
	options := x509.VerifyOptions{
		Roots: s.clientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if options.Roots == nil {
		options.Roots = x509.NewCertPool() // nobody; nil would be all that the machine trusts
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(options); err != nil {
		s.log.Debug("client certificate refused", "subject", chain[0].Subject.String(), "error", err)
		return nil, errUnauthorized
	}
	user := auth.FromCertificate(chain[0])
	if user == nil {
		return nil, errUnauthorized
	}
	return user, nil
}

// allowed refuses what the user may not do.
func (s *Server) allowed(r *http.Request, t *target, user *auth.Identity) error {
	selected := t.fieldName(r)
	q := &auth.Request{User: user, Verb: t.verb, Path: r.URL.Path}
	if t.isResource {
		q = &auth.Request{
			User: user, Verb: t.verb, Group: t.group, Resource: t.resource, Subresource: t.sub,
			Namespace: t.namespace, Name: t.name, Fields: selected,
		}
	}
	if !t.named {
		t.name = ""
	}
	if ok, reason := s.authorize.Authorize(q); !ok {
		return forbidden(q, reason)
	}
	return nil
}

// mayCreate holds nodes to their own name where the name of what is created is in the body.
func (s *Server) mayCreate(ctx context.Context, c *call, name string) error {
	node := auth.User(ctx).Node()
	if node == "" || node == name {
		return nil
	}
	switch c.gr() {
	case schema.GroupResource{Resource: "nodes"}:
		return apierrors.NewForbidden(c.gr(), name, errorf("node %q is not allowed to modify node %q", node, name))
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		return apierrors.NewForbidden(c.gr(), name, errorf("can only access node lease with the same name as the requesting node"))
	}
	return nil
}

// podsOf gives the pods bound to a node, for the rule about nodes.
func (s *Server) podsOf(node, namespace string) iter.Seq[*corev1.Pod] {
	kind, _ := s.table.ByResource(corev1.SchemeGroupVersion.WithResource("pods"))
	return func(yield func(*corev1.Pod) bool) {
		if kind == nil {
			return
		}
		selection := cache.Selection{Namespace: namespace, Fields: fields.OneTermEqualSelector("spec.nodeName", node)}
		for obj := range s.cache.Snapshot().List(kind, selection) {
			if !yield(cache.Typed[*corev1.Pod](obj)) {
				return
			}
		}
	}
}
