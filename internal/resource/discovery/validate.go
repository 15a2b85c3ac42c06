package discovery

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// Limits of one slice.
const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
	maxTopology  = 16
	maxHints     = 8
)

// slice checks a slice; old is nil when it is created. What upstream's schema declares comes last, since upstream reports it last.
func slice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var l, declared validate.List
	changed := old == nil || !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints)
	if at := field.NewPath("endpoints"); changed && len(s.Endpoints) > maxEndpoints {
		l.TooMany(at, len(s.Endpoints), maxEndpoints)
	} else if changed {
		for i := range s.Endpoints {
			endpoint(&l, &s.Endpoints[i], s.AddressType, at.Index(i))
		}
	}
	ports(&l, s.Ports, field.NewPath("ports"))

	at := field.NewPath("addressType")
	switch {
	case old != nil && s.AddressType != old.AddressType:
		declared.Invalid(at, nil, "field is immutable")
		if s.AddressType == "" {
			declared.Required(at, "")
		}
	case old == nil:
		validate.OneOfRequired(&declared, at, s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	}
	if changed {
		for i := range s.Endpoints {
			addresses, at := s.Endpoints[i].Addresses, field.NewPath("endpoints").Index(i).Child("addresses")
			if len(addresses) == 0 {
				declared.Required(at, "")
			}
			declared.TooMany(at, len(addresses), maxAddresses)
		}
	}
	return append(l.Errs, declared.Errs...)
}

func endpoint(l *validate.List, e *discoveryv1.Endpoint, family discoveryv1.AddressType, at *field.Path) {
	addresses := at.Child("addresses")
	for i, a := range e.Addresses {
		at := addresses.Index(i)
		switch family {
		case discoveryv1.AddressTypeIPv4:
			address(l, a, netutils.IsIPv4String, "must be an IPv4 address", addresses, at)
		case discoveryv1.AddressTypeIPv6:
			address(l, a, netutils.IsIPv6String, "must be an IPv6 address", addresses, at)
		case discoveryv1.AddressTypeFQDN:
			l.Add(validation.IsFullyQualifiedDomainName(at, a)...)
		}
	}
	if e.NodeName != nil {
		l.Subdomain(at.Child("nodeName"), *e.NodeName)
	}
	topology := at.Child("deprecatedTopology")
	l.TooMany(topology, len(e.DeprecatedTopology), maxTopology)
	l.Add(metavalidation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if _, found := e.DeprecatedTopology[corev1.LabelTopologyZone]; found {
		l.Add(field.InternalError(topology.Key(corev1.LabelTopologyZone), fmt.Errorf("reserved key was not removed in conversion")))
	}
	if e.Hostname != nil {
		l.Label(at.Child("hostname"), *e.Hostname)
	}
	if e.Hints != nil {
		hints(l, e.Hints, at.Child("hints"))
	}
}

// address demands an address of the slice's family. Upstream reports one of the other family at the list, not at its place in it.
func address(l *validate.List, a string, fits func(string) bool, detail string, list, at *field.Path) {
	if errs := validation.IsValidIPForLegacyField(at, a, true, nil); len(errs) > 0 {
		l.Add(errs...)
		return
	}
	if !fits(a) {
		l.Invalid(list, a, detail)
	}
	l.Add(core.EndpointIP(a, at)...)
}

func ports(l *validate.List, ports []discoveryv1.EndpointPort, at *field.Path) {
	if len(ports) > maxPorts {
		l.TooMany(at, len(ports), maxPorts)
		return
	}
	names := make(validate.Seen)
	for i, p := range ports {
		at, name := at.Index(i), ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			l.Label(at.Child("name"), name)
		}
		if names.Again(name) {
			l.Add(field.Duplicate(at.Child("name"), name))
		}
		if p.Protocol == nil {
			l.Required(at.Child("protocol"), "")
		} else {
			validate.OneOf(l, at.Child("protocol"), *p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
		if p.AppProtocol != nil {
			l.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)
		}
	}
}

func hints(l *validate.List, h *discoveryv1.EndpointHints, at *field.Path) {
	zones, nodes := at.Child("forZones"), at.Child("forNodes")
	if len(h.ForZones) > maxHints {
		l.TooMany(zones, len(h.ForZones), maxHints)
		return
	}
	seen := make(validate.Seen)
	for i, z := range h.ForZones {
		at := zones.Index(i).Child("name")
		if seen.Again(z.Name) {
			l.Add(field.Duplicate(at, z.Name))
		}
		l.Messages(at, z.Name, validation.IsValidLabelValue(z.Name))
	}
	if len(h.ForNodes) > maxHints {
		l.TooMany(nodes, len(h.ForNodes), maxHints)
		return
	}
	seen = make(validate.Seen)
	for i, n := range h.ForNodes {
		at := nodes.Index(i).Child("name")
		if seen.Again(n.Name) {
			l.Add(field.Duplicate(at, n.Name))
		}
		l.Subdomain(at, n.Name)
	}
}
