package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	if s.SessionAffinity == "" {
		s.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch c := s.SessionAffinityConfig; {
	case s.SessionAffinity == corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case s.SessionAffinity == corev1.ServiceAffinityClientIP && (c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil):
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{
			ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(corev1.DefaultClientIPServiceAffinitySeconds)},
		}
	}
	if s.Type == "" {
		s.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(svc) && s.ExternalTrafficPolicy == "" {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if s.InternalTrafficPolicy == nil && hasPolicies(s.Type) {
		s.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if s.AllocateLoadBalancerNodePorts == nil {
		s.AllocateLoadBalancerNodePorts = new(true)
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = new(corev1.LoadBalancerIPModeVIP)
		}
	}
}

// hasPolicies says that a Service of that type has traffic of its own to rule over.
func hasPolicies(t corev1.ServiceType) bool {
	return t == corev1.ServiceTypeClusterIP || t == corev1.ServiceTypeNodePort || t == corev1.ServiceTypeLoadBalancer
}

// externallyAccessible says that a Service has addresses that those outside of the cluster may use.
func externallyAccessible(s *corev1.Service) bool {
	return NeedsNodePort(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

// prepareServiceUpdate keeps what was allocated where the new object leaves it out, and clears what the new type has no use for.
func prepareServiceUpdate(s, old *corev1.Service) {
	keepAllocated(s, old)
	NormalizeClusterIPs(s, old)
	s.Status = *old.Status.DeepCopy()
	dropOfOldType(s, old)
}

// keepAllocated lets the manifest that a Service was created from be sent again, without what was allocated since.
func keepAllocated(s, old *corev1.Service) {
	if NeedsClusterIP(old) && NeedsClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && len(old.Spec.ClusterIPs) > 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if NeedsNodePort(old) && NeedsNodePort(s) {
		keepNodePorts(s, old)
	}
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts finds ports again by their names. A node port that the new object names itself is not given to another port.
func keepNodePorts(s, old *corev1.Service) {
	named, before := nodePorts(s), make(map[string]int32)
	for _, p := range old.Spec.Ports {
		before[p.Name] = p.NodePort
	}
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.NodePort == 0 && !slices.Contains(named, before[p.Name]) {
			p.NodePort = before[p.Name]
		}
	}
}

// dropOfOldType clears what belonged to the type a Service had, unless the same update changed it: that is for validation to refuse.
func dropOfOldType(s, old *corev1.Service) {
	n, o := &s.Spec, &old.Spec
	if NeedsClusterIP(old) && !NeedsClusterIP(s) {
		if n.ClusterIP == o.ClusterIP && slices.Equal(n.ClusterIPs, o.ClusterIPs) {
			n.ClusterIP, n.ClusterIPs = "", nil
		}
		if slices.Equal(n.IPFamilies, o.IPFamilies) {
			n.IPFamilies = nil
		}
		if orZero(n.IPFamilyPolicy) == orZero(o.IPFamilyPolicy) {
			n.IPFamilyPolicy = nil
		}
	}
	if NeedsNodePort(old) && !NeedsNodePort(s) && within(nodePorts(s), nodePorts(old)) {
		for i := range n.Ports {
			n.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckNodePort(old) && !NeedsHealthCheckNodePort(s) && n.HealthCheckNodePort == o.HealthCheckNodePort {
		n.HealthCheckNodePort = 0
	}
	if wasBalanced := o.Type == corev1.ServiceTypeLoadBalancer; wasBalanced && n.Type != corev1.ServiceTypeLoadBalancer {
		if o.AllocateLoadBalancerNodePorts != nil && samePointed(n.AllocateLoadBalancerNodePorts, o.AllocateLoadBalancerNodePorts) {
			n.AllocateLoadBalancerNodePorts = nil
		}
		if samePointed(n.LoadBalancerClass, o.LoadBalancerClass) {
			n.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(s) && n.ExternalTrafficPolicy == o.ExternalTrafficPolicy {
		n.ExternalTrafficPolicy = ""
	}
	if n.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// nodePorts are the node ports that a Service names.
func nodePorts(s *corev1.Service) (ports []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	return ports
}

// within says that all of the few are among the many.
func within[T comparable](few, many []T) bool {
	return !slices.ContainsFunc(few, func(v T) bool { return !slices.Contains(many, v) })
}

func samePointed[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
