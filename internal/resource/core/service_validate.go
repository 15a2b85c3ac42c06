package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// kubeletPort is where the agent of each node listens.
const kubeletPort = 10250

const (
	onlyBalanced = "may only be used when `type` is 'LoadBalancer'"
	notExternal  = "may not be set for ExternalName services"
)

// serviceCheck collects what is wrong with a Service. Old is nil when it is created.
type serviceCheck struct {
	validate.List
	svc, old *corev1.Service
}

// serviceErrors checks a Service whose addresses and ports have been allocated.
func serviceErrors(svc, old *corev1.Service) field.ErrorList {
	c := serviceCheck{svc: svc, old: old}
	s, at := &svc.Spec, root("spec")
	c.topology()
	if len(s.Ports) == 0 && !isHeadless(svc) && s.Type != corev1.ServiceTypeExternalName {
		c.Required(at.Child("ports"), "")
	}
	c.byType(at)
	names := make(validate.Seen)
	for i := range s.Ports {
		c.port(&s.Ports[i], len(s.Ports) > 1, names, at.Child("ports").Index(i))
	}
	if s.Selector != nil {
		c.Add(metavalidation.ValidateLabels(s.Selector, at.Child("selector"))...)
	}
	validate.OneOfRequired(&c.List, at.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	c.affinity(at.Child("sessionAffinityConfig"))
	c.Add(clusterIPErrors(svc, old)...)
	c.externalIPs(at.Child("externalIPs"))
	validate.OneOfRequired(&c.List, at.Child("type"), s.Type,
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	c.portsTogether(at.Child("ports"))
	c.sourceRanges()
	if balanced := s.Type == corev1.ServiceTypeLoadBalancer; balanced && s.AllocateLoadBalancerNodePorts == nil {
		c.Required(root("allocateLoadBalancerNodePorts"), "")
	} else if !balanced && s.AllocateLoadBalancerNodePorts != nil {
		c.Forbidden(at.Child("allocateLoadBalancerNodePorts"), onlyBalanced)
	}
	c.balancerClass(at.Child("loadBalancerClass"))
	c.policies(at)
	return c.Errs
}

// isHeadless says that a Service has no address of its own.
func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// topology demands that the two annotations of that name agree.
func (c *serviceCheck) topology() {
	hints, hasHints := c.svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := c.svc.Annotations[corev1.AnnotationTopologyMode]
	if hasHints && hasMode && hints != mode {
		c.Invalid(root("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))
	}
}

func (c *serviceCheck) byType(at *field.Path) {
	s := &c.svc.Spec
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range s.Ports {
			if p.Port == kubeletPort {
				c.Invalid(at.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort))
			}
		}
		if isHeadless(c.svc) {
			c.Invalid(at.Child("clusterIPs").Index(0), s.ClusterIPs[0], "may not be set to 'None' for LoadBalancer services")
		}
	case corev1.ServiceTypeNodePort:
		if isHeadless(c.svc) {
			c.Invalid(at.Child("clusterIPs").Index(0), s.ClusterIPs[0], "may not be set to 'None' for NodePort services")
		}
	case corev1.ServiceTypeExternalName:
		if len(s.ClusterIPs) > 0 {
			c.Forbidden(at.Child("clusterIPs"), notExternal)
		}
		if len(s.IPFamilies) > 0 {
			c.Forbidden(at.Child("ipFamilies"), notExternal)
		}
		if s.IPFamilyPolicy != nil {
			c.Forbidden(at.Child("ipFamilyPolicy"), notExternal)
		}
		if name := strings.TrimSuffix(s.ExternalName, "."); name != "" {
			c.Subdomain(at.Child("externalName"), name)
		} else {
			c.Required(at.Child("externalName"), "")
		}
	}
}

func (c *serviceCheck) port(p *corev1.ServicePort, named bool, names validate.Seen, at *field.Path) {
	if p.Name != "" {
		c.Label(at.Child("name"), p.Name)
		if names.Again(p.Name) {
			c.Add(field.Duplicate(at.Child("name"), p.Name))
		}
	} else if named {
		c.Required(at.Child("name"), "")
	}
	c.Messages(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))
	protocol(&c.List, p.Protocol, at.Child("protocol"))
	if to := p.TargetPort; to.Type == intstr.String {
		c.Messages(at.Child("targetPort"), to.StrVal, validation.IsValidPortName(to.StrVal))
	} else {
		c.Messages(at.Child("targetPort"), to.IntValue(), validation.IsValidPortNum(to.IntValue()))
	}
	if p.AppProtocol != nil {
		c.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)
	}
}

func protocol(l *validate.List, p corev1.Protocol, at *field.Path) {
	validate.OneOfRequired(l, at, p, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

func (c *serviceCheck) affinity(at *field.Path) {
	s := &c.svc.Spec
	config := s.SessionAffinityConfig
	if s.SessionAffinity == corev1.ServiceAffinityNone && config != nil {
		c.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone))
	}
	if s.SessionAffinity != corev1.ServiceAffinityClientIP {
		return
	}
	why := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
	seconds := at.Child("clientIP", "timeoutSeconds")
	switch {
	case config == nil:
		c.Required(at, why)
	case config.ClientIP == nil:
		c.Required(at.Child("clientIP"), why)
	case config.ClientIP.TimeoutSeconds == nil:
		c.Required(seconds, why)
	default:
		if n := *config.ClientIP.TimeoutSeconds; n <= 0 || n > maxAffinitySeconds {
			c.Invalid(seconds, n, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))
		}
	}
}

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

func (c *serviceCheck) externalIPs(at *field.Path) {
	var before []string
	if c.old != nil {
		before = c.old.Spec.ExternalIPs
	}
	for i, ip := range c.svc.Spec.ExternalIPs {
		if errs := validation.IsValidIPForLegacyField(at.Index(i), ip, true, before); len(errs) > 0 {
			c.Add(errs...)
		} else {
			c.Add(EndpointIP(ip, at.Index(i))...)
		}
	}
}

// portKey is what upstream shows of a port that is there twice: all fields of its own, all but two empty.
type portKey struct {
	Name        string
	Protocol    corev1.Protocol
	AppProtocol *string
	Port        int32
	TargetPort  intstr.IntOrString
	NodePort    int32
}

// portsTogether checks what ports may not have in common, and that they have node ports only where the type does.
func (c *serviceCheck) portsTogether(at *field.Path) {
	ports := c.svc.Spec.Ports
	if c.svc.Spec.Type == corev1.ServiceTypeClusterIP {
		for i, p := range ports {
			if p.NodePort != 0 {
				c.Forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
			}
		}
	}
	nodePorts, own := make(map[portKey]bool), make(map[portKey]bool)
	for i, p := range ports {
		if p.NodePort == 0 {
			continue
		}
		key := portKey{Protocol: p.Protocol, NodePort: p.NodePort}
		if nodePorts[key] {
			c.Add(field.Duplicate(at.Index(i).Child("nodePort"), p.NodePort))
		}
		nodePorts[key] = true
	}
	for i, p := range ports {
		key := portKey{Protocol: p.Protocol, Port: p.Port}
		if own[key] {
			c.Add(field.Duplicate(at.Index(i), key))
		}
		own[key] = true
	}
}

// sourceRanges checks who may use a load balancer; the annotation counts only where the field is empty. Both may have spaces around a range.
func (c *serviceCheck) sourceRanges() {
	s, note := &c.svc.Spec, corev1.AnnotationLoadBalancerSourceRangesKey
	var before []string
	if len(s.LoadBalancerSourceRanges) > 0 {
		at := root("spec", "LoadBalancerSourceRanges")
		if s.Type != corev1.ServiceTypeLoadBalancer {
			c.Forbidden(at, onlyBalanced)
		}
		if c.old != nil {
			before = trimmed(c.old.Spec.LoadBalancerSourceRanges)
		}
		for i, cidr := range trimmed(s.LoadBalancerSourceRanges) {
			c.Add(validation.IsValidCIDRForLegacyField(at.Index(i), cidr, true, before)...)
		}
		return
	}
	value, has := c.svc.Annotations[note]
	if !has {
		return
	}
	at := root("metadata", "annotations").Key(note)
	if s.Type != corev1.ServiceTypeLoadBalancer {
		c.Forbidden(at, onlyBalanced)
	}
	if value = strings.TrimSpace(value); value == "" {
		return
	}
	if c.old != nil {
		before = trimmed(strings.Split(c.old.Annotations[note], ","))
	}
	for _, cidr := range trimmed(strings.Split(value, ",")) {
		c.Add(validation.IsValidCIDRForLegacyField(at, cidr, true, before)...)
	}
}

func trimmed(values []string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = strings.TrimSpace(v)
	}
	return out
}

func (c *serviceCheck) balancerClass(at *field.Path) {
	switch class := c.svc.Spec.LoadBalancerClass; {
	case class == nil:
	case c.svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		c.QualifiedName(at, *class)
	default:
		c.Forbidden(at, onlyBalanced)
	}
}

func (c *serviceCheck) policies(at *field.Path) {
	s := &c.svc.Spec
	external := at.Child("externalTrafficPolicy")
	if externallyAccessible(c.svc) {
		validate.OneOfRequired(&c.List, external, s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.ExternalTrafficPolicy != "" {
		c.Invalid(external, s.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	switch port := at.Child("healthCheckNodePort"); {
	case NeedsHealthCheckNodePort(c.svc) && s.HealthCheckNodePort == 0:
		c.Required(port, "")
	case NeedsHealthCheckNodePort(c.svc):
		c.Messages(port, s.HealthCheckNodePort, validation.IsValidPortNum(int(s.HealthCheckNodePort)))
	case s.HealthCheckNodePort != 0:
		c.Invalid(port, s.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
	if p := s.InternalTrafficPolicy; p != nil {
		validate.OneOf(&c.List, at.Child("internalTrafficPolicy"), *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	} else if hasPolicies(s.Type) {
		c.Required(at.Child("internalTrafficPolicy"), "")
	}
	if d := s.TrafficDistribution; d != nil {
		validate.OneOf(&c.List, at.Child("trafficDistribution"), *d,
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}
