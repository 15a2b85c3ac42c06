package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/validate"
)

const setOnce = "may not change once set"

// clusterIPErrors checks addresses and families against each other. Old is nil when the Service is created.
func clusterIPErrors(svc, old *corev1.Service) field.ErrorList {
	s := &svc.Spec
	if s.Type == corev1.ServiceTypeExternalName {
		return nil // it may have none of this, and has been told so
	}
	var l validate.List
	ips, families := root("spec", "clusterIPs"), root("spec", "ipFamilies")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		l.Invalid(ips, s.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		l.Required(ips, "")
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		l.Invalid(ips, s.ClusterIPs, "first value must match `clusterIP`")
	}
	seen := make(validate.Seen)
	for i, f := range s.IPFamilies {
		validate.OneOf(&l, families.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if seen.Again(string(f)) {
			l.Add(field.Duplicate(families.Index(i), f))
		}
	}
	if p := s.IPFamilyPolicy; p != nil {
		validate.OneOf(&l, root("spec", "ipFamilyPolicy"), *p,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	malformed := addressErrors(&l, s, old, ips)
	if len(s.ClusterIPs) > 2 {
		l.Invalid(ips, s.ClusterIPs, "may only hold up to 2 values")
	}
	if malformed {
		return l.Errs
	}
	if len(s.ClusterIPs) > 1 {
		both, err := netutils.IsDualStackIPStrings(s.ClusterIPs)
		if err != nil {
			l.Add(field.InternalError(ips, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		}
		if !both {
			l.Invalid(ips, s.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	if isHeadless(svc) {
		return l.Errs
	}
	for i, ip := range s.ClusterIPs[:min(len(s.ClusterIPs), len(s.IPFamilies))] {
		switch is6 := netutils.IsIPv6String(ip); {
		case s.IPFamilies[i] == corev1.IPv4Protocol && is6, s.IPFamilies[i] == corev1.IPv6Protocol && !is6:
			l.Invalid(ips.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", s.IPFamilies[i], i))
		}
	}
	return l.Errs
}

// addressErrors checks each address by itself, and says whether one of them is none.
func addressErrors(l *validate.List, s *corev1.ServiceSpec, old *corev1.Service, at *field.Path) (malformed bool) {
	var before []string
	if old != nil {
		before = old.Spec.ClusterIPs
	}
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				malformed = true
				l.Invalid(at, s.ClusterIPs, "'None' must be the first and only value")
			}
			continue
		}
		errs := validation.IsValidIPForLegacyField(at.Index(i), ip, true, before)
		l.Add(errs...)
		malformed = malformed || len(errs) > 0
	}
	return malformed
}

// serviceUpdate checks what may change. A second address or family may come and go; the first stays while there is one.
func serviceUpdate(s, old *corev1.Service) field.ErrorList {
	c := serviceCheck{svc: s, old: old}
	if NeedsClusterIP(s) && NeedsClusterIP(old) {
		was, is := isHeadless(old), isHeadless(s)
		if !was || !is {
			c.clusterIPChange()
		}
		if !was && !is {
			c.familyChange()
		}
	}
	class, balanced := root("spec", "loadBalancerClass"), corev1.ServiceTypeLoadBalancer
	if old.Spec.Type == balanced && s.Spec.Type == balanced && !samePointed(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		c.Invalid(class, s.Spec.LoadBalancerClass, setOnce)
	}
	c.balancerClass(class)
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(s) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		c.Forbidden(root("spec", "healthCheckNodePort"), "field is immutable")
	}
	return c.Errs
}

func (c *serviceCheck) clusterIPChange() {
	at, now, before := root("spec", "clusterIPs"), c.svc.Spec.ClusterIPs, c.old.Spec.ClusterIPs
	if len(now) == len(before) {
		for i := range before {
			if before[i] != now[i] {
				c.Invalid(at.Index(i), now, setOnce)
			}
		}
		return
	}
	if len(now) == 0 {
		c.Invalid(at.Index(0), now, "primary clusterIP can not be unset")
	} else if len(before) > 0 && now[0] != before[0] {
		c.Invalid(at.Index(0), now, setOnce)
	}
	if len(now) == 1 && len(before) > 1 {
		c.singleOnly("must be set to 'SingleStack' when releasing the secondary clusterIP")
	}
}

func (c *serviceCheck) familyChange() {
	at, now, before := root("spec", "ipFamilies").Index(0), c.svc.Spec.IPFamilies, c.old.Spec.IPFamilies
	if len(now) == len(before) {
		for i := range before {
			if before[i] != now[i] {
				c.Invalid(at, now, setOnce)
			}
		}
		return
	}
	if len(now) < len(before) && len(c.svc.Spec.ClusterIPs) == 0 {
		c.Invalid(at, now, "primary ipFamily can not be unset")
	}
	if len(now) > 0 && len(before) > 0 && now[0] != before[0] {
		c.Invalid(at, c.svc.Spec.ClusterIPs, setOnce) // upstream shows the addresses here
	}
	if len(now) == 1 && len(before) > 1 {
		c.singleOnly("must be set to 'SingleStack' when releasing the secondary ipFamily")
	}
}

func (c *serviceCheck) singleOnly(detail string) {
	if p := c.svc.Spec.IPFamilyPolicy; orZero(p) != corev1.IPFamilyPolicySingleStack {
		c.Invalid(root("spec", "ipFamilyPolicy"), p, detail)
	}
}

// serviceStatus checks what a load balancer reports of itself.
func serviceStatus(s, old *corev1.Service) field.ErrorList {
	var l validate.List
	at := root("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	if len(ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		l.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")
		return l.Errs
	}
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for i, in := range ingress {
		at := at.Index(i)
		if in.IP != "" {
			l.Add(validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		switch mode := at.Child("ipMode"); {
		case in.IPMode == nil && in.IP != "":
			l.Required(mode, "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			l.Forbidden(mode, "may not be specified when `ip` is not set")
		case in.IPMode != nil:
			validate.OneOf(&l, mode, *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		BalancerHostname(&l, in.Hostname, at.Child("hostname"))
	}
	return l.Errs
}

// BalancerHostname demands that a load balancer's name is one, and no address.
func BalancerHostname(l *validate.List, name string, at *field.Path) {
	if name == "" {
		return
	}
	l.Subdomain(at, name)
	if netutils.ParseIPSloppy(name) != nil {
		l.Invalid(at, name, "must be a DNS name, not an IP address")
	}
}

// serviceWarnings tells of what is allowed but has no effect, or will not stay.
func serviceWarnings(svc *corev1.Service) (warnings []string) {
	s, at := &svc.Spec, root("spec")
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if _, ok := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		warn("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	}
	if s.ClusterIP != "" && s.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range s.ClusterIPs {
			warnings = append(warnings, IPWarnings(at.Child("clusterIPs").Index(i), ip)...)
		}
	}
	if s.Type == corev1.ServiceTypeClusterIP && s.ClusterIP == corev1.ClusterIPNone {
		if s.LoadBalancerIP != "" {
			warn("spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.ExternalIPs) > 0 {
			warn("spec.externalIPs is ignored for headless services")
		}
		if s.SessionAffinity != corev1.ServiceAffinityNone {
			warn("spec.SessionAffinity is ignored for headless services")
		}
	}
	if len(s.ExternalIPs) > 0 {
		warn("spec.externalIPs is deprecated")
	}
	for i, ip := range s.ExternalIPs {
		warnings = append(warnings, IPWarnings(at.Child("externalIPs").Index(i), ip)...)
	}
	warnings = append(warnings, IPWarnings(at.Child("loadBalancerIP"), s.LoadBalancerIP)...)
	for i, cidr := range s.LoadBalancerSourceRanges {
		warnings = append(warnings, CIDRWarnings(at.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if s.Type == corev1.ServiceTypeExternalName && len(s.ExternalIPs) > 0 {
		warn("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	}
	if s.Type != corev1.ServiceTypeExternalName && s.ExternalName != "" {
		warn("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	}
	if d := orZero(s.TrafficDistribution); d == corev1.ServiceTrafficDistributionPreferClose {
		warn("spec.trafficDistribution: %q is deprecated; use %q", d, corev1.ServiceTrafficDistributionPreferSameZone)
	}
	return slices.Clip(warnings)
}

// IPWarnings tells of an address that is not written as it should be. What is no address at all is for validation to refuse.
func IPWarnings(at *field.Path, ip string) []string {
	if netutils.ParseIPSloppy(ip) == nil {
		return nil
	}
	return validation.GetWarningsForIP(at, ip)
}

// CIDRWarnings tells the same of a range.
func CIDRWarnings(at *field.Path, cidr string) []string {
	if _, _, err := netutils.ParseCIDRSloppy(cidr); err != nil {
		return nil
	}
	return validation.GetWarningsForCIDR(at, cidr)
}
