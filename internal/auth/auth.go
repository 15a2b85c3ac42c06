// Package auth says who calls the API and whether they may.
//
// It watches and writes nothing: who calls is read off a client certificate or the token of a service account, whether they may is looked
// up in a static table of rules, with one rule for nodes that also asks which pods a node has. Always: whoever shows neither certificate nor
// token is anonymous, and what no rule allows is refused; a token is worth nothing once what it is bound to is gone.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
)

// Names that Kubernetes gives to groups and users.
const (
	Anonymous       = "system:anonymous"
	Unauthenticated = "system:unauthenticated"
	Authenticated   = "system:authenticated"
	Masters         = "system:masters"
	Nodes           = "system:nodes"
	NodePrefix      = "system:node:"
	Monitoring      = "system:monitoring"
	Bootstrappers   = "system:bootstrappers"
)

// Identity is who calls. It is shared and never changed once made.
type Identity struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string // what else is known, such as the pod that calls; may be nil
}

var anonymous = &Identity{Name: Anonymous, Groups: []string{Unauthenticated}}

// In says whether the identity belongs to the group.
func (i *Identity) In(group string) bool { return slices.Contains(i.Groups, group) }

// Node is the name of the node that the identity is, or "" if it is none.
func (i *Identity) Node() string {
	if len(i.Name) > len(NodePrefix) && i.Name[:len(NodePrefix)] == NodePrefix && i.In(Nodes) {
		return i.Name[len(NodePrefix):]
	}
	return ""
}

// System is the identity of a part of this program, such as "system:kube-scheduler". It may do all, as it does not pass the
// authorizer anyway; what it writes carries its name.
func System(name string) *Identity {
	return &Identity{Name: name, Groups: []string{Masters, Authenticated}}
}

// FromCertificate reads an identity off a client certificate that has been verified already: the common name is the user, each
// organization a group. A certificate without a name is nobody's, and nil.
func FromCertificate(cert *x509.Certificate) *Identity {
	if cert.Subject.CommonName == "" {
		return nil
	}
	groups := slices.Clone(cert.Subject.Organization)
	if !slices.Contains(groups, Authenticated) {
		groups = append(groups, Authenticated)
	}
	sum := sha256.Sum256(cert.Raw)
	return &Identity{
		Name: cert.Subject.CommonName, Groups: groups,
		Extra: map[string][]string{ExtraCredential: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}
}

type userKey struct{}

// WithUser says in ctx who calls.
func WithUser(ctx context.Context, user *Identity) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// User is who calls: anonymous if ctx does not say. Never nil.
func User(ctx context.Context) *Identity {
	if user, ok := ctx.Value(userKey{}).(*Identity); ok && user != nil {
		return user
	}
	return anonymous
}
