// Package certificates is the kinds of certificates.k8s.io.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: what a request asks for does not change once it is made, its
// approval is given or refused once, and its certificate is set once; errors and columns have upstream's words.
package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Kinds are the kinds of certificates.k8s.io.
func Kinds() []*resource.Kind { return []*resource.Kind{CertificateSigningRequest()} }

type object = *certificatesv1.CertificateSigningRequest

// CertificateSigningRequest asks for a certificate, is approved or denied, and carries the certificate then.
func CertificateSigningRequest() *resource.Kind {
	spec := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"), Plural: "certificatesigningrequests", Singular: "certificatesigningrequest",
		ShortNames: []string{"csr"}, Prefix: "/registry/certificatesigningrequests/",
		New:     func() resource.Object { return &certificatesv1.CertificateSigningRequest{} },
		NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },

		// Who asks is set by admission, which knows.
		PrepareCreate: func(o resource.Object) { o.(object).Status = certificatesv1.CertificateSigningRequestStatus{} },
		PrepareUpdate: func(new, old resource.Object) {
			new.(object).Spec, new.(object).Status = *old.(object).Spec.DeepCopy(), *old.(object).Status.DeepCopy()
		},
		NameRule: func(string, bool) []string { return nil }, // any, upstream says
		Validate: func(o resource.Object) field.ErrorList { return validateRequest(o.(object)) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				n, o := new.(object), old.(object)
				n.Spec = *o.Spec.DeepCopy()
				stamp(n.Status.Conditions, o.Status.Conditions)
			},
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return validateUpdate(new.(object), old.(object), false, true)
			},
		},
		Approval: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				n, o := new.(object), old.(object)
				conditions := n.Status.Conditions
				stamp(conditions, o.Status.Conditions)
				n.Spec, n.Status = *o.Spec.DeepCopy(), *o.Status.DeepCopy()
				n.Status.Conditions = conditions
			},
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return validateUpdate(new.(object), old.(object), true, false)
			},
		},

		Fields: func(o resource.Object) map[string]string {
			all := resource.MetaFields(o)
			all["spec.signerName"] = o.(object).Spec.SignerName
			return all
		},
		FieldNames: []string{"metadata.name", "spec.signerName"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(), resource.AgeColumn(),
			resource.Column("SignerName", "string", spec["signerName"]),
			resource.Column("Requestor", "string", spec["request"]),
			resource.Column("RequestedDuration", "string", spec["expirationSeconds"]),
			resource.Column("Condition", "string", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(object)
			wanted := "<none>"
			if s := c.Spec.ExpirationSeconds; s != nil {
				wanted = duration.HumanDuration(time.Duration(*s) * time.Second)
			}
			signer := c.Spec.SignerName
			if signer == "" {
				signer = "<none>"
			}
			return []any{c.Name, resource.Age(c, now), signer, c.Spec.Username, wanted, state(c)}
		},
	}
}

// state is how far a request is, as kubectl shows it.
func state(c object) string {
	var words []string
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if slices.ContainsFunc(c.Status.Conditions, func(o certificatesv1.CertificateSigningRequestCondition) bool { return o.Type == t }) {
			words = append(words, string(t))
		}
	}
	if len(words) == 0 {
		words = []string{"Pending"}
	}
	if len(c.Status.Certificate) > 0 {
		words = append(words, "Issued")
	}
	return strings.Join(words, ",")
}

// stamp fills in the times of conditions: of those that are new, now; of those that are as they were, the former ones.
func stamp(now, before []certificatesv1.CertificateSigningRequestCondition) {
	at := metav1.Now().Rfc3339Copy()
	for i := range now {
		c := &now[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = at
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = at
		for _, o := range before {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
}

// ParseRequest reads what a certificate is asked for by: PKCS#10 in PEM.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// Has says whether a request has a condition of that type.
func Has(c object, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(o certificatesv1.CertificateSigningRequestCondition) bool { return o.Type == t })
}

func sameCertificate(a, b object) bool {
	return bytes.Equal(a.Status.Certificate, b.Status.Certificate)
}
