package csr

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/resource/certificates"
)

// Who may ask for what without a person who says yes.
const (
	bootstrappers = "system:bootstrappers"
	nodes         = "system:nodes"
	nodePrefix    = "system:node:"
)

// How long requests are kept once nothing happens to them any more (as upstream's csrcleaner has it).
const (
	keepDone    = time.Hour
	keepPending = 24 * time.Hour
)

// longest is the life of a certificate that asks for no shorter one, and leastLife of one that asks for less.
const (
	longest   = 365 * 24 * time.Hour
	leastLife = 10 * time.Minute
)

// Plan is what is to be done with one request. At most one of its parts is set.
type Plan struct {
	Approve string // why
	Deny    string // why not
	Issue   *Issue
	Fail    string // why it cannot be issued
	Delete  bool

	Key   string        // with Approve: the node's key, to be remembered before
	Node  string        // whose key that is
	Again time.Duration // when to look again; zero: when something changes
}

// Issue is the certificate to be made.
type Issue struct {
	Request  *x509.CertificateRequest
	Uses     x509.KeyUsage
	Extended []x509.ExtKeyUsage
	Life     time.Duration
}

// Facts are what a decision asks for besides the request.
type Facts struct {
	Node  *corev1.Node // that the request names, or nil
	Key   string       // of that node, as it was when it joined; "" if none is known
	Now   time.Time
	Rival bool // somebody with another key has been let in under that name less than a minute ago, and may not have made its Node yet
}

// Decide says what a request needs. It is pure.
func Decide(csr *certificatesv1.CertificateSigningRequest, f Facts) Plan {
	if until := ends(csr); !until.IsZero() && !f.Now.Before(until) {
		return Plan{Delete: true}
	} else if len(csr.Status.Certificate) > 0 || certificates.Has(csr, certificatesv1.CertificateDenied) || certificates.Has(csr, certificatesv1.CertificateFailed) {
		return Plan{Again: until.Sub(f.Now)}
	}
	request, err := certificates.ParseRequest(csr.Spec.Request)
	if err != nil {
		return Plan{Fail: err.Error()} // what is stored was looked at when it came
	}
	p := Plan{Again: ends(csr).Sub(f.Now)}
	if !certificates.Has(csr, certificatesv1.CertificateApproved) {
		approve(&p, csr, request, f)
		return p
	}
	issue, why := issueOf(csr, request)
	switch {
	case why != "":
		return Plan{Fail: why}
	case issue != nil:
		return Plan{Issue: issue}
	}
	return p // another signer's
}

// ends is when a request goes.
func ends(csr *certificatesv1.CertificateSigningRequest) time.Time {
	at, keep := csr.CreationTimestamp.Time, keepPending
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			at, keep = c.LastUpdateTime.Time, keepDone
		case certificatesv1.CertificateApproved:
			if len(csr.Status.Certificate) > 0 {
				at, keep = c.LastUpdateTime.Time, keepDone
			}
		}
	}
	return at.Add(keep)
}

// NodeOf is the node that a request names by its subject; "" if it names none.
func NodeOf(request *x509.CertificateRequest) string {
	name, is := strings.CutPrefix(request.Subject.CommonName, nodePrefix)
	if !is || !slices.Equal(request.Subject.Organization, []string{nodes}) {
		return ""
	}
	return name
}

// KeyOf is a short name of the key that a request is signed with.
func KeyOf(request *x509.CertificateRequest) string {
	sum := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// approve says yes to nodes that ask for themselves, and to those who join with a token; a node's name is that of the key that it came with. All else is for a
// person to say.
func approve(p *Plan, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, f Facts) {
	node := NodeOf(request)
	if node == "" {
		return
	}
	own := csr.Spec.Username == request.Subject.CommonName && slices.Contains(csr.Spec.Groups, nodes)
	key := KeyOf(request)
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		switch {
		case !clientOfNode(csr, request):
		case own:
			p.Approve, p.Node, p.Key = "Auto approving self kubelet client certificate after SubjectAccessReview.", node, key
		case !slices.Contains(csr.Spec.Groups, bootstrappers):
		case f.Node != nil && f.Key != key: // also a node of which no key is known: a server's own, or one that a person has made
			p.Deny = fmt.Sprintf("a node named %q belongs to this cluster already, with another key: choose another name with --node-name, or remove that one first: kubectl delete node %s", node, node)
		case f.Rival:
			p.Deny = fmt.Sprintf("another machine has just joined as %q: choose another name with --node-name", node)
		default:
			p.Approve, p.Node, p.Key = "Auto approving kubelet client certificate after SubjectAccessReview.", node, key
		}
	case certificatesv1.KubeletServingSignerName:
		if own && serverOfNode(csr, request) && f.Node != nil && namesOnly(request, f.Node) {
			p.Approve = "Auto approving kubelet serving certificate for the node's own names and addresses."
		}
	}
}

func uses(csr *certificatesv1.CertificateSigningRequest, must certificatesv1.KeyUsage) bool {
	for _, u := range csr.Spec.Usages {
		if u != must && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return false
		}
	}
	return slices.Contains(csr.Spec.Usages, must)
}

// clientOfNode says that a request is one for a node's client certificate, and nothing more.
func clientOfNode(csr *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) bool {
	return NodeOf(r) != "" && uses(csr, certificatesv1.UsageClientAuth) && len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) == 0
}

// serverOfNode says that a request is one for a node's serving certificate, and nothing more.
func serverOfNode(csr *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) bool {
	return NodeOf(r) != "" && uses(csr, certificatesv1.UsageServerAuth) && len(r.DNSNames)+len(r.IPAddresses) > 0 && len(r.EmailAddresses)+len(r.URIs) == 0
}

// namesOnly says that a request has no other names and addresses than the node says to have.
func namesOnly(r *x509.CertificateRequest, node *corev1.Node) bool {
	own := []string{node.Name}
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			addrs = append(addrs, ip.Unmap())
		} else {
			own = append(own, a.Address)
		}
	}
	for _, name := range r.DNSNames {
		if !slices.Contains(own, name) {
			return false
		}
	}
	for _, ip := range r.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); !ok || !slices.Contains(addrs, a.Unmap()) {
			return false
		}
	}
	return true
}

// issueOf is the certificate for a request that was approved: nil for another signer's, and why it cannot be had.
func issueOf(csr *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (issue *Issue, why string) {
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		for _, u := range csr.Spec.Usages {
			if extended[u] != x509.ExtKeyUsageClientAuth && plainUses[u] == 0 {
				return nil, fmt.Sprintf("invalid usage for client certificate: %s", u)
			}
		}
		if !slices.Contains(csr.Spec.Usages, certificatesv1.UsageClientAuth) {
			return nil, "invalid usage for client certificate: missing client auth"
		}
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if !clientOfNode(csr, r) {
			return nil, "invalid kubelet client certificate request"
		}
	case certificatesv1.KubeletServingSignerName:
		if !serverOfNode(csr, r) {
			return nil, "invalid kubelet serving certificate request"
		}
	default:
		return nil, ""
	}
	issue = &Issue{Request: r, Life: longest}
	for _, u := range csr.Spec.Usages {
		issue.Uses |= plainUses[u]
		if e, is := extended[u]; is {
			issue.Extended = append(issue.Extended, e)
		}
	}
	if s := csr.Spec.ExpirationSeconds; s != nil {
		issue.Life = min(longest, max(leastLife, time.Duration(*s)*time.Second))
	}
	return issue, ""
}

var plainUses = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
}

var extended = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
}
