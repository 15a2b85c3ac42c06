package admission

import (
	"context"
	"errors"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/resource/certificates"
)

// CertificateRequests writes into a request for a certificate who asks, which nobody can say himself, and refuses to ask for the right to do all.
type CertificateRequests struct{}

// Admit implements Step.
func (CertificateRequests) Admit(_ context.Context, a *Attributes) error {
	csr, is := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !is || a.Operation != Create || a.Sub != "" {
		return nil
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = a.User.Name, a.User.UID, slices.Clone(a.User.Groups)
	csr.Spec.Extra = nil
	for key, values := range a.User.Extra {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[key] = slices.Clone(values)
	}
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := certificates.ParseRequest(csr.Spec.Request)
	if err != nil {
		return nil // validation says so
	}
	if slices.Contains(request.Subject.Organization, auth.Masters) {
		return apierrors.NewForbidden(a.Kind.GroupResource(), csr.Name, errors.New("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"))
	}
	return nil
}
