// Package discovery is the kinds of the discovery.k8s.io group.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and columns
// have upstream's words; what is stored may stay as it is.
package discovery

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// Kinds are the kinds of discovery.k8s.io/v1.
func Kinds() []*resource.Kind { return []*resource.Kind{EndpointSlice()} }

// EndpointSlice is where some of the pods of a Service can be reached.
func EndpointSlice() *resource.Kind {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Plural:           "endpointslices", Singular: "endpointslice",
		Namespaced: true, Prefix: "/registry/endpointslices/",
		New:     func() resource.Object { return &discoveryv1.EndpointSlice{} },
		NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },

		Default: func(o resource.Object) { defaultSlice(o.(*discoveryv1.EndpointSlice)) },
		PrepareCreate: func(o resource.Object) {
			s := o.(*discoveryv1.EndpointSlice)
			s.Generation = 1
			dropTopology(s, nil)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
			if n.Generation = o.Generation; differ(n, o) {
				n.Generation++
			}
			dropTopology(n, o)
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		// What is stored may stay as it is, so an update is checked where the old object is known.
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return slice(o.(*discoveryv1.EndpointSlice), nil)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return slice(new.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice))
		},
		Warnings: func(o resource.Object) []string { return warnings(o.(*discoveryv1.EndpointSlice)) },

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("AddressType", "string", doc["addressType"]),
			resource.Column("Ports", "string", doc["ports"]),
			resource.Column("Endpoints", "string", doc["endpoints"]),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any { return row(o.(*discoveryv1.EndpointSlice), now) },
	}
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// differ says that an update is one: anything but metadata changed, or labels did.
func differ(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType != b.AddressType || !equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) ||
		!equality.Semantic.DeepEqual(a.Ports, b.Ports) || !equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

// dropTopology clears what this version cannot write, where the endpoints changed. The node's name, which older clients know only from there,
// goes where it belongs if it was there before.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	if old != nil && equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return
	}
	known := make(map[string]bool)
	if old != nil {
		for i := range old.Endpoints {
			if name := old.Endpoints[i].DeprecatedTopology[corev1.LabelHostname]; name != "" {
				known[name] = true
			}
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		name := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && known[name] && len(validation.IsDNS1123Subdomain(name)) == 0 {
			e.NodeName = &name
		}
		e.DeprecatedTopology = nil
	}
}

// writers are the controllers whose addresses are known to be well written.
var writers = map[string]bool{"endpointslice-controller.k8s.io": true, "endpointslicemirroring-controller.k8s.io": true}

func warnings(s *discoveryv1.EndpointSlice) (all []string) {
	if resource.IsNew(s) && s.AddressType == discoveryv1.AddressTypeFQDN {
		all = append(all, "spec.addressType: FQDN endpoints are deprecated")
	}
	if writers[s.Labels[discoveryv1.LabelManagedBy]] {
		return all
	}
	for i := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i).Child("addresses")
		for j, a := range s.Endpoints[i].Addresses {
			all = append(all, core.IPWarnings(at.Index(j), a)...)
		}
	}
	return all
}

func row(s *discoveryv1.EndpointSlice, now time.Time) []any {
	ports := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports[i] = strconv.Itoa(int(*p.Port))
		case p.Name != nil:
			ports[i] = *p.Name
		default:
			ports[i] = "*"
		}
	}
	var addresses []string
	for i := range s.Endpoints {
		addresses = append(addresses, s.Endpoints[i].Addresses...)
	}
	return []any{s.Name, string(s.AddressType), few(ports), few(addresses), resource.Age(s, now)}
}

// few shows the first of many, and how many more there are.
func few(all []string) string {
	const most = 3
	if len(all) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:most], ","), len(all)-most)
	}
	if text := strings.Join(all, ","); text != "" {
		return text
	}
	return "<unset>"
}
