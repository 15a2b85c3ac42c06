package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// NeedsClusterIP says that the type has a cluster IP; "None" is one too, though nothing is allocated for it.
func NeedsClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// NeedsNodePort says that the ports of the type may have node ports. AllocatesNodePorts says whether those without get one.
func NeedsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// AllocatesNodePorts says that a port without a node port gets one. Node ports that are named are taken in any case.
func AllocatesNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && orZero(s.Spec.AllocateLoadBalancerNodePorts)
}

// NeedsHealthCheckNodePort says that load balancers outside ask each node whether it has an endpoint of this Service.
func NeedsHealthCheckNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// NormalizeClusterIPs keeps clusterIP and clusterIPs[0] in step for clients that know only the former. Old is nil when the Service is created.
// It looks at nothing else; what does not fit together is left for validation to refuse.
func NormalizeClusterIPs(s, old *corev1.Service) {
	n := &s.Spec
	if old == nil {
		if n.ClusterIP != "" && len(n.ClusterIPs) == 0 {
			n.ClusterIPs = []string{n.ClusterIP}
		}
		return
	}
	o := &old.Spec
	if len(o.ClusterIPs) > 0 && len(n.ClusterIPs) == 0 && n.ClusterIP == o.ClusterIP {
		n.ClusterIPs = slices.Clone(o.ClusterIPs)
	}
	if n.ClusterIP == o.ClusterIP || !slices.Equal(n.ClusterIPs, o.ClusterIPs) {
		return
	}
	if n.ClusterIP == "" {
		n.ClusterIPs = nil
	} else {
		n.ClusterIPs = []string{n.ClusterIP}
	}
}

// InitFamilies fills in ipFamilyPolicy and ipFamilies of a Service that is about to get its addresses, in a cluster that has these families,
// the default first. Old is nil when the Service is created. It comes after NormalizeClusterIPs and before addresses are allocated.
func InitFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	n := &s.Spec
	// A Service that prefers two families keeps those it has when the cluster's change, until somebody asks for another.
	if n.Type == corev1.ServiceTypeExternalName || stillPrefersBoth(s, old) {
		return nil
	}
	bare := n.ClusterIP == corev1.ClusterIPNone && len(n.Selector) == 0 // headless, and its endpoints are somebody else's matter
	switch {
	case n.IPFamilyPolicy != nil:
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		n.IPFamilyPolicy = new(*old.Spec.IPFamilyPolicy)
	case bare:
		n.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	default:
		n.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	}
	if errs := clusterIPErrors(s, old); len(errs) > 0 {
		return errs
	}
	if errs := fitFamilies(n, old, cluster); len(errs) > 0 {
		return errs
	}
	if !bare {
		if errs := offered(n, cluster); len(errs) > 0 {
			return errs
		}
	}
	if len(n.IPFamilies) == 0 {
		n.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	if *n.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(n.IPFamilies) == 1 && (bare || len(cluster) == 2) {
		n.IPFamilies = append(n.IPFamilies, otherFamily(n.IPFamilies[0]))
	}
	return nil
}

// stillPrefersBoth says that an update leaves a Service that prefers two families as it was, as far as addresses go.
func stillPrefersBoth(s, old *corev1.Service) bool {
	if old == nil || s.Spec.IPFamilyPolicy == nil || s.Spec.Type != old.Spec.Type || !hasPolicies(s.Spec.Type) {
		return false
	}
	const prefers = corev1.IPFamilyPolicyPreferDualStack
	return *s.Spec.IPFamilyPolicy == prefers && (old.Spec.IPFamilyPolicy == nil || *old.Spec.IPFamilyPolicy == prefers) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// fitFamilies brings policy, addresses and families together: going to one family lets go of the second, and addresses tell their families.
func fitFamilies(n *corev1.ServiceSpec, old *corev1.Service, cluster []corev1.IPFamily) (errs field.ErrorList) {
	single := *n.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	policy := func(detail string) {
		errs = append(errs, field.Invalid(root("spec", "ipFamilyPolicy"), n.IPFamilyPolicy, detail))
	}
	fewer := func(now, before int) bool { return now > 0 && now < before }
	if old != nil && single {
		if len(n.ClusterIPs) > 1 && slices.Equal(n.ClusterIPs, old.Spec.ClusterIPs) {
			n.ClusterIPs = n.ClusterIPs[:1]
		}
		if len(n.IPFamilies) > 1 && slices.Equal(n.IPFamilies, old.Spec.IPFamilies) {
			n.IPFamilies = n.IPFamilies[:1]
		}
	} else if old != nil {
		if fewer(len(n.ClusterIPs), len(old.Spec.ClusterIPs)) {
			policy("must be 'SingleStack' to release the secondary cluster IP")
		}
		if fewer(len(n.IPFamilies), len(old.Spec.IPFamilies)) {
			policy("must be 'SingleStack' to release the secondary IP family")
		}
	}
	if single && len(n.ClusterIPs) == 2 {
		policy("must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified")
	}
	if single && len(n.IPFamilies) == 2 {
		policy("must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified")
	}
	for i, ip := range n.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		family := familyOf(ip)
		switch {
		case i < len(n.IPFamilies): // that they match has been checked
		case slices.Contains(cluster, family):
			n.IPFamilies = append(n.IPFamilies, family)
		default:
			errs = append(errs, field.Invalid(root("spec", "clusterIPs").Index(i), n.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
		}
	}
	return errs
}

// offered demands what the cluster has.
func offered(n *corev1.ServiceSpec, cluster []corev1.IPFamily) (errs field.ErrorList) {
	if *n.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
		errs = append(errs, field.Invalid(root("spec", "ipFamilyPolicy"), n.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range n.IPFamilies {
		if !slices.Contains(cluster, family) {
			errs = append(errs, field.Invalid(root("spec", "ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}

func familyOf(ip string) corev1.IPFamily {
	switch {
	case netutils.IsIPv4String(ip):
		return corev1.IPv4Protocol
	case netutils.IsIPv6String(ip):
		return corev1.IPv6Protocol
	}
	return "unknown"
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
