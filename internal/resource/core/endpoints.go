package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

const (
	endpointsDeprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	// Objects that the cluster's own controller writes are known to be well written.
	endpointsManagedBy  = "endpoints.kubernetes.io/managed-by"
	endpointsController = "endpoint-controller"
)

// Endpoints is where the pods of a Service can be reached, in one object: what there was before EndpointSlices.
func Endpoints() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("Endpoints"), Plural: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
		Namespaced: true, Prefix: "/registry/services/endpoints/",
		New:     func() resource.Object { return &endpoints{} },
		NewList: func() runtime.Object { return &endpointsList{} },

		Default:  func(o resource.Object) { defaultEndpoints(o.(*endpoints)) },
		NameRule: apivalidation.NameIsDNSSubdomain,
		// What is stored may stay as it is, so an update is checked where the old object is known.
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return endpointsErrors(o.(*endpoints))
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			n, o := new.(*endpoints), old.(*endpoints)
			errs := endpointsErrors(n)
			if len(errs) > 0 && equality.Semantic.DeepEqual(n.Subsets, o.Subsets) {
				return nil
			}
			return errs
		},
		Warnings: func(o resource.Object) []string { return endpointsWarnings(o.(*endpoints)) },

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Endpoints", "string", endpoints{}.SwaggerDoc()["subsets"], 0),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			e := o.(*endpoints)
			return []any{e.Name, endpointsText(e), resource.Age(e, now)}
		},
	}
}

func defaultEndpoints(e *endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func endpointsErrors(e *endpoints) field.ErrorList {
	var l validate.List
	for i := range e.Subsets {
		s, at := &e.Subsets[i], root("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			l.Required(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			endpointAddress(&l, &s.Addresses[j], at.Child("addresses").Index(j))
		}
		for j := range s.NotReadyAddresses {
			endpointAddress(&l, &s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))
		}
		for j := range s.Ports {
			endpointPort(&l, &s.Ports[j], len(s.Ports) > 1, at.Child("ports").Index(j))
		}
	}
	return l.Errs
}

func endpointAddress(l *validate.List, a *endpointsAddress, at *field.Path) {
	l.Add(validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)...)
	if a.Hostname != "" {
		l.Label(at.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		l.Subdomain(at.Child("nodeName"), *a.NodeName)
	}
	l.Add(EndpointIP(a.IP, at.Child("ip"))...)
}

func endpointPort(l *validate.List, p *endpointsPort, named bool, at *field.Path) {
	if p.Name != "" {
		l.Label(at.Child("name"), p.Name)
	} else if named {
		l.Required(at.Child("name"), "")
	}
	l.Messages(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))
	protocol(l, p.Protocol, at.Child("protocol"))
	if p.AppProtocol != nil {
		l.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)
	}
}

// EndpointIP refuses addresses that mean something else on each machine: no traffic may be led there.
func EndpointIP(address string, at *field.Path) field.ErrorList {
	var l validate.List
	ip := netutils.ParseIPSloppy(address)
	if ip == nil {
		l.Invalid(at, address, "must be a valid IP address")
		return l.Errs
	}
	if ip.IsUnspecified() {
		l.Invalid(at, address, fmt.Sprintf("may not be unspecified (%v)", address))
	}
	if ip.IsLoopback() {
		l.Invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		l.Invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		l.Invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
	return l.Errs
}

func endpointsWarnings(e *endpoints) []string {
	warnings := []string{endpointsDeprecated}
	if e.Labels[endpointsManagedBy] == endpointsController {
		return warnings
	}
	for i, s := range e.Subsets {
		at := root("subsets").Index(i)
		for j, a := range s.Addresses {
			warnings = append(warnings, IPWarnings(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range s.NotReadyAddresses {
			warnings = append(warnings, IPWarnings(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return warnings
}

// endpointsText shows the first few endpoints that are ready, and how many more there are.
func endpointsText(e *endpoints) string {
	if len(e.Subsets) == 0 {
		return "<none>"
	}
	const most = 3
	var shown []string
	count := 0
	add := func(text string) {
		if count++; count <= most {
			shown = append(shown, text)
		}
	}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		if len(s.Ports) == 0 { // a headless Service may have none
			for _, a := range s.Addresses {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	text := strings.Join(shown, ",")
	if count > most {
		text += fmt.Sprintf(" + %d more...", count-most)
	}
	return text
}

// The types are deprecated by their authors, and served all the same: this is the only place that names them.
type (
	//lint:ignore SA1019 served as long as Kubernetes has them
	endpoints        = corev1.Endpoints
	endpointsList    = corev1.EndpointsList
	endpointsAddress = corev1.EndpointAddress
	endpointsPort    = corev1.EndpointPort
)
