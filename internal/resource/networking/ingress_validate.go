package networking

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/validate"
)

// ingress checks an Ingress; old is nil when it is created.
func ingress(s, old *networkingv1.IngressSpec) field.ErrorList {
	var c check
	at := root("spec")
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		c.Invalid(at, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		c.backend(s.DefaultBackend, at.Child("defaultBackend"))
	}
	anyWildcard := old != nil && badWildcards(old)
	for i := range s.Rules {
		r, at := &s.Rules[i], at.Child("rules").Index(i)
		wildcard := strings.Contains(r.Host, "*")
		c.ruleHost(r.Host, at.Child("host"))
		if !wildcard || !anyWildcard {
			c.rule(r, at)
		}
	}
	anySecret := old != nil && badSecrets(old)
	for i := range s.TLS {
		t, at := &s.TLS[i], at.Child("tls").Index(i)
		for j, host := range t.Hosts {
			c.host(host, at.Child("hosts").Index(j))
		}
		if !anySecret && t.SecretName != "" {
			c.Subdomain(at.Child("secretName"), t.SecretName)
		}
	}
	if s.IngressClassName != nil {
		c.Subdomain(at.Child("ingressClassName"), *s.IngressClassName)
	}
	return c.all()
}

// badSecrets says that there were names that no Secret can have, from a time when nobody looked.
func badSecrets(s *networkingv1.IngressSpec) bool {
	for _, t := range s.TLS {
		if t.SecretName != "" && len(validation.IsDNS1123Subdomain(t.SecretName)) > 0 {
			return true
		}
	}
	return false
}

// badWildcards says that rules for many hosts were wrong, from a time when nobody looked at them.
func badWildcards(s *networkingv1.IngressSpec) bool {
	for i := range s.Rules {
		var c check
		if r := &s.Rules[i]; strings.Contains(r.Host, "*") {
			c.rule(r, nil)
		}
		if len(c.all()) > 0 {
			return true
		}
	}
	return false
}

func (c *check) ruleHost(host string, at *field.Path) {
	if host == "" {
		return
	}
	if netutils.ParseIPSloppy(host) != nil {
		c.Invalid(at, host, "must be a DNS name, not an IP address")
	}
	c.host(host, at)
}

func (c *check) host(host string, at *field.Path) {
	if strings.Contains(host, "*") {
		c.Messages(at, host, validation.IsWildcardDNS1123Subdomain(host))
	} else {
		c.Subdomain(at, host)
	}
}

func (c *check) rule(r *networkingv1.IngressRule, at *field.Path) {
	if r.HTTP == nil {
		return
	}
	at = at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		c.Required(at, "")
	}
	for i := range r.HTTP.Paths {
		c.path(&r.HTTP.Paths[i], at.Index(i))
	}
}

func (c *check) path(p *networkingv1.HTTPIngressPath, at *field.Path) {
	if p.PathType == nil {
		c.Required(at.Child("pathType"), "pathType must be specified")
		return
	}
	absolute, path := strings.HasPrefix(p.Path, "/"), at.Child("path")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !absolute {
			c.Invalid(path, p.Path, "must be an absolute path")
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				c.Invalid(path, p.Path, fmt.Sprintf("must not contain '%s'", part))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				c.Invalid(path, p.Path, fmt.Sprintf("cannot end with '%s'", end))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !absolute {
			c.Invalid(path, p.Path, "must be an absolute path")
		}
	default:
		validate.OneOf(&c.List, at.Child("pathType"), *p.PathType,
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	}
	c.backend(&p.Backend, at.Child("backend"))
}

func (c *check) backend(b *networkingv1.IngressBackend, at *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		c.Invalid(at, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		c.local(b.Resource, at.Child("resource"))
	case b.Service != nil:
		c.serviceBackend(b.Service, at)
	default:
		c.Invalid(at, "", "resource or service backend is required")
	}
}

func (c *check) serviceBackend(s *networkingv1.IngressServiceBackend, at *field.Path) {
	if name := at.Child("service", "name"); s.Name == "" {
		c.Required(name, "")
	} else {
		c.Label(name, s.Name)
	}
	port, byName, byNumber := at.Child("service", "port"), s.Port.Name != "", s.Port.Number != 0
	switch {
	case byName && byNumber:
		c.Invalid(at, "", "cannot set both port name & port number")
	case byName:
		c.Messages(port.Child("name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))
	case byNumber:
		c.Messages(port.Child("number"), s.Port.Number, validation.IsValidPortNum(int(s.Port.Number)))
	default:
		c.Required(at, "port name or number is required")
	}
}
