package networking

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// NetworkPolicy says who may speak with some pods.
func NetworkPolicy() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("NetworkPolicy"), Plural: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
		Namespaced: true, Prefix: "/registry/networkpolicies/",
		New:     func() resource.Object { return &networkingv1.NetworkPolicy{} },
		NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },

		Default:       func(o resource.Object) { defaultPolicy(&o.(*networkingv1.NetworkPolicy).Spec) },
		PrepareCreate: func(o resource.Object) { o.SetGeneration(1) },
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*networkingv1.NetworkPolicy), old.(*networkingv1.NetworkPolicy)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		// A range that is stored may stay though none like it may come, so an update is checked where the old object is known.
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return policy(&o.(*networkingv1.NetworkPolicy).Spec, nil)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return policy(&new.(*networkingv1.NetworkPolicy).Spec, &old.(*networkingv1.NetworkPolicy).Spec)
		},
		Warnings: func(o resource.Object) []string { return policyWarnings(&o.(*networkingv1.NetworkPolicy).Spec) },

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			p := o.(*networkingv1.NetworkPolicy)
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), resource.Age(p, now)}
		},
	}
}

func defaultPolicy(s *networkingv1.NetworkPolicySpec) {
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	each(s, func(_ *field.Path, ports []networkingv1.NetworkPolicyPort, _ *field.Path, _ []networkingv1.NetworkPolicyPeer) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = new(corev1.ProtocolTCP)
			}
		}
	})
}

// each walks the rules of both directions.
func each(s *networkingv1.NetworkPolicySpec, rule func(atPorts *field.Path, ports []networkingv1.NetworkPolicyPort, atPeers *field.Path, peers []networkingv1.NetworkPolicyPeer)) {
	for i := range s.Ingress {
		at := root("spec", "ingress").Index(i)
		rule(at.Child("ports"), s.Ingress[i].Ports, at.Child("from"), s.Ingress[i].From)
	}
	for i := range s.Egress {
		at := root("spec", "egress").Index(i)
		rule(at.Child("ports"), s.Egress[i].Ports, at.Child("to"), s.Egress[i].To)
	}
}

// policyCheck knows what may stay of what was stored.
type policyCheck struct {
	check
	selectors metavalidation.LabelSelectorValidationOptions
	ranges    []string
	unchanged bool // the direction that is looked at is as it was
}

// policy checks a policy; old is nil when it is created.
func policy(s, old *networkingv1.NetworkPolicySpec) field.ErrorList {
	c, at := policyCheck{}, root("spec")
	if old != nil {
		c.selectors.AllowInvalidLabelValueInSelector = len(metavalidation.ValidateLabelSelector(&old.PodSelector, c.selectors, nil)) > 0
		c.ranges = ranges(old)
	}
	c.Add(metavalidation.ValidateLabelSelector(&s.PodSelector, c.selectors, at.Child("podSelector"))...)
	rule := func(atPorts *field.Path, ports []networkingv1.NetworkPolicyPort, atPeers *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for i := range ports {
			c.port(&ports[i], atPorts.Index(i))
		}
		for i := range peers {
			c.peer(&peers[i], atPeers.Index(i))
		}
	}
	c.unchanged = old != nil && equality.Semantic.DeepEqual(s.Ingress, old.Ingress)
	each(&networkingv1.NetworkPolicySpec{Ingress: s.Ingress}, rule)
	c.unchanged = old != nil && equality.Semantic.DeepEqual(s.Egress, old.Egress)
	each(&networkingv1.NetworkPolicySpec{Egress: s.Egress}, rule)
	types := at.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		c.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes")
		return c.all()
	}
	for i, t := range s.PolicyTypes {
		validate.OneOf(&c.List, types.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return c.all()
}

// ranges are all ranges that a policy names.
func ranges(s *networkingv1.NetworkPolicySpec) (all []string) {
	each(s, func(_ *field.Path, _ []networkingv1.NetworkPolicyPort, _ *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				all = append(append(all, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	})
	return all
}

func (c *policyCheck) port(p *networkingv1.NetworkPolicyPort, at *field.Path) {
	if p.Protocol != nil {
		validate.OneOf(&c.List, at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
	port, end := at.Child("port"), at.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			c.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified")
		}
	case p.Port.Type == intstr.Int:
		c.Messages(port, p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))
		if p.EndPort == nil {
			return
		}
		if *p.EndPort < p.Port.IntVal {
			c.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`") // upstream shows the port here
		}
		c.Messages(end, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))
	default:
		if p.EndPort != nil {
			c.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric")
		}
		c.Messages(port, p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))
	}
}

func (c *policyCheck) peer(p *networkingv1.NetworkPolicyPeer, at *field.Path) {
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	if p.PodSelector != nil {
		c.Add(metavalidation.ValidateLabelSelector(p.PodSelector, c.selectors, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		c.Add(metavalidation.ValidateLabelSelector(p.NamespaceSelector, c.selectors, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		c.block(p.IPBlock, at.Child("ipBlock"))
	}
	if p.IPBlock == nil && !selects {
		c.Required(at, "must specify a peer")
	} else if p.IPBlock != nil && selects {
		c.Forbidden(at, "may not specify both ipBlock and another peer")
	}
}

func (c *policyCheck) block(b *networkingv1.IPBlock, at *field.Path) {
	if b.CIDR == "" {
		if !c.unchanged {
			c.declared.Required(at.Child("cidr"), "")
		}
		return
	}
	c.Add(validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, c.ranges)...)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return // has been told
	}
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		c.Add(validation.IsValidCIDRForLegacyField(at, text, true, c.ranges)...)
		_, part, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			continue
		}
		bits, partBits := ones(whole.Mask), ones(part.Mask)
		if !whole.Contains(part.IP) || bits >= partBits {
			c.Invalid(at, text, "must be a strict subset of `cidr`")
		}
	}
}

func ones(mask interface{ Size() (ones, bits int) }) int {
	n, _ := mask.Size()
	return n
}

func policyWarnings(s *networkingv1.NetworkPolicySpec) (warnings []string) {
	each(s, func(_ *field.Path, _ []networkingv1.NetworkPolicyPort, at *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for i, p := range peers {
			if p.IPBlock == nil {
				continue
			}
			at := at.Index(i).Child("ipBlock")
			warnings = append(warnings, core.CIDRWarnings(at.Child("cidr"), p.IPBlock.CIDR)...)
			for j, cidr := range p.IPBlock.Except {
				warnings = append(warnings, core.CIDRWarnings(at.Child("except").Index(j), cidr)...)
			}
		}
	})
	return warnings
}
