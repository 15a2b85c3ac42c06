package networking

import (
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// classNote named the class before there was a field for it.
const classNote = "kubernetes.io/ingress.class"

// Ingress leads requests from outside to Services, by host and path. Who does that is no part of the cluster itself.
func Ingress() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("Ingress"), Plural: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
		Namespaced: true, Prefix: "/registry/ingress/",
		New:     func() resource.Object { return &networkingv1.Ingress{} },
		NewList: func() runtime.Object { return &networkingv1.IngressList{} },

		PrepareCreate: func(o resource.Object) {
			i := o.(*networkingv1.Ingress)
			i.Status, i.Generation = networkingv1.IngressStatus{}, 1
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*networkingv1.Ingress), old.(*networkingv1.Ingress)
			n.Status = *o.Status.DeepCopy()
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		// Some of what is stored may stay though none like it may come, so an update is checked where the old object is known.
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			i := o.(*networkingv1.Ingress)
			return append(ingress(&i.Spec, nil), twoClasses(i)...)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return ingress(&new.(*networkingv1.Ingress).Spec, &old.(*networkingv1.Ingress).Spec)
		},
		Warnings: func(o resource.Object) []string {
			_, noted := o.GetAnnotations()[classNote]
			if !resource.IsNew(o) || !noted || o.(*networkingv1.Ingress).Spec.IngressClassName != nil {
				return nil
			}
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classNote)}
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*networkingv1.Ingress).Spec = old.(*networkingv1.Ingress).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return ingressStatus(new.(*networkingv1.Ingress), old.(*networkingv1.Ingress))
			},
		},

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
			resource.Column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
			resource.Column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
			resource.Column("Ports", "string", "Ports of TLS configurations that open"),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any { return ingressRow(o.(*networkingv1.Ingress), now) },
	}
}

func ingressRow(i *networkingv1.Ingress, now time.Time) []any {
	class, ports := "<none>", "80"
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var from []string
	for _, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			from = append(from, in.IP)
		} else if in.Hostname != "" {
			from = append(from, in.Hostname)
		}
	}
	slices.Sort(from)
	return []any{i.Name, class, hosts(i.Spec.Rules), strings.Join(slices.Compact(from), ","), ports, resource.Age(i, now)}
}

// hosts shows the first few hosts. How many more there are counts rules, as upstream does.
func hosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var shown []string
	for _, r := range rules {
		if len(shown) == most {
			return fmt.Sprintf("%s + %d more...", strings.Join(shown, ","), len(rules)-most)
		}
		if r.Host != "" {
			shown = append(shown, r.Host)
		}
	}
	if len(shown) == 0 {
		return "*"
	}
	return strings.Join(shown, ",")
}

func twoClasses(i *networkingv1.Ingress) field.ErrorList {
	var c check
	note, noted := i.Annotations[classNote]
	if name := i.Spec.IngressClassName; noted && name != nil && note != *name {
		c.Invalid(root("annotations").Child(classNote), note, "must match `ingressClassName` when both are specified")
	}
	return c.all()
}

func ingressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var c check
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for j, in := range i.Status.LoadBalancer.Ingress {
		at := root("status", "loadBalancer", "ingress").Index(j)
		if in.IP != "" {
			c.Add(validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		core.BalancerHostname(&c.List, in.Hostname, at.Child("hostname"))
	}
	return c.all()
}
