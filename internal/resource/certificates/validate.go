package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement,
	certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
}

const leastSeconds = 600

func validateRequest(c object) (errs field.ErrorList) {
	at := field.NewPath("spec")
	if request, err := ParseRequest(c.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(at.Child("request"), c.Spec.Request, err.Error()))
	} else if err := request.CheckSignature(); err != nil {
		errs = append(errs, field.Invalid(at.Child("request"), c.Spec.Request, err.Error()))
	}
	if len(c.Spec.Usages) == 0 {
		errs = append(errs, field.Required(at.Child("usages"), ""))
	}
	for i, u := range c.Spec.Usages {
		if !slices.Contains(usages, u) {
			errs = append(errs, field.NotSupported(at.Child("usages").Index(i), u, usages))
		}
		if slices.Contains(c.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(at.Child("usages").Index(i), u))
		}
	}
	if name := c.Spec.SignerName; name == "kubernetes.io/legacy-unknown" {
		errs = append(errs, field.Invalid(at.Child("signerName"), name, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, signerName(at.Child("signerName"), name)...)
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < leastSeconds {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, conditions(field.NewPath("status", "conditions"), c)...)
	if err := chain(c.Status.Certificate); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
	}
	return errs
}

func signerName(at *field.Path, name string) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, two := strings.Cut(name, "/")
	if !two || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	for _, label := range strings.Split(domain, ".") {
		for _, msg := range validation.IsDNS1123Label(label) {
			errs = append(errs, field.Invalid(at, domain, fmt.Sprintf("validating label %q: %s", label, msg)))
		}
	}
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	for _, label := range strings.Split(path, ".") {
		for _, msg := range validation.IsDNS1123Subdomain(label) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("validating label %q: %s", label, msg)))
		}
	}
	const most = validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + validation.DNS1123SubdomainMaxLength + 2
	if len(name) > most {
		errs = append(errs, field.TooLong(at, name, most))
	}
	return errs
}

func conditions(at *field.Path, c object) (errs field.ErrorList) {
	var seen []certificatesv1.RequestConditionType
	approved, denied := false, false
	for i, o := range c.Status.Conditions {
		if o.Type == "" {
			errs = append(errs, field.Required(at.Index(i).Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}
		switch o.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = allowed[:1]
		}
		switch {
		case o.Status == "":
			errs = append(errs, field.Required(at.Index(i).Child("status"), ""))
		case !slices.Contains(allowed, o.Status):
			errs = append(errs, field.NotSupported(at.Index(i).Child("status"), o.Status, allowed))
		}
		approved, denied = approved || o.Type == certificatesv1.CertificateApproved, denied || o.Type == certificatesv1.CertificateDenied
		if approved && denied && (o.Type == certificatesv1.CertificateApproved || o.Type == certificatesv1.CertificateDenied) {
			errs = append(errs, field.Invalid(at.Index(i).Child("type"), o.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if slices.Contains(seen, o.Type) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), o.Type))
		}
		seen = append(seen, o.Type)
	}
	return errs
}

// chain says what is wrong with an issued certificate.
func chain(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	blocks := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certificates) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
		data = rest
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// validateUpdate checks what a subresource may change: approving is for the one, issuing for the other.
func validateUpdate(new, old object, approving, issuing bool) field.ErrorList {
	errs := validateRequest(new)
	at := field.NewPath("status", "conditions")
	forbid := func(format string, args ...any) {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf(format, args...)))
	}
	of := func(c object, t certificatesv1.RequestConditionType) (all []certificatesv1.CertificateSigningRequestCondition) {
		for _, o := range c.Status.Conditions {
			if o.Type == t {
				all = append(all, o)
			}
		}
		return all
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if len(of(new, t)) < len(of(old, t)) {
			forbid("updates may not remove a condition of type %q", t)
		}
	}
	if !approving {
		for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
			was, is := of(old, t), of(new, t)
			switch {
			case len(is) < len(was):
			case len(is) > len(was):
				forbid("updates may not add a condition of type %q", t)
			case !equality.Semantic.DeepEqual(was, is):
				forbid("updates may not modify a condition of type %q", t)
			}
		}
	}
	if !sameCertificate(new, old) {
		switch at := field.NewPath("status", "certificate"); {
		case !issuing:
			errs = append(errs, field.Forbidden(at, "updates may not set certificate content"))
		case len(old.Status.Certificate) > 0:
			errs = append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
		}
	}
	return errs
}
