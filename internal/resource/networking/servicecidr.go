package networking

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// ServiceCIDR is a range, or one of each family, that Services get their addresses from.
func ServiceCIDR() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("ServiceCIDR"), Plural: "servicecidrs", Singular: "servicecidr", Prefix: "/registry/servicecidrs/",
		New:     func() resource.Object { return &networkingv1.ServiceCIDR{} },
		NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },

		PrepareCreate: func(o resource.Object) {
			o.(*networkingv1.ServiceCIDR).Status = networkingv1.ServiceCIDRStatus{}
		},
		PrepareUpdate: func(new, old resource.Object) {
			new.(*networkingv1.ServiceCIDR).Status = *old.(*networkingv1.ServiceCIDR).Status.DeepCopy()
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return cidrs(&o.(*networkingv1.ServiceCIDR).Spec) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return cidrsUpdate(new.(*networkingv1.ServiceCIDR).Spec.CIDRs, old.(*networkingv1.ServiceCIDR).Spec.CIDRs)
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				new.(*networkingv1.ServiceCIDR).Spec = old.(*networkingv1.ServiceCIDR).Spec
			},
		},

		Fields: resource.MetaFields, FieldNames: []string{"metadata.name"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("CIDRs", "string", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*networkingv1.ServiceCIDR)
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), resource.Age(c, now)}
		},
	}
}

// shownSpec is how upstream shows a whole spec: by the names of its own fields.
type shownSpec struct{ CIDRs []string }

func cidrs(s *networkingv1.ServiceCIDRSpec) field.ErrorList {
	var c check
	at, n := root("spec", "cidrs"), len(s.CIDRs)
	if n == 0 {
		c.Required(at, "at least one CIDR required")
		return c.all()
	}
	if n > 2 {
		c.Invalid(at, shownSpec{s.CIDRs}, "may only hold up to 2 values")
		return c.all()
	}
	if n == 2 {
		if both, err := netutils.IsDualStackCIDRStrings(s.CIDRs); err != nil || !both {
			c.Invalid(at, shownSpec{s.CIDRs}, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
			return c.all()
		}
	}
	for i, cidr := range s.CIDRs {
		c.Add(validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	return c.all()
}

// cidrsUpdate lets a second family come, and nothing else change.
func cidrsUpdate(now, before []string) field.ErrorList {
	var c check
	at := root("spec", "cidrs")
	if len(now) != len(before) && (len(now) != 2 || len(before) != 1) {
		c.Invalid(at, now, validate.Immutable)
		return c.all()
	}
	for i := range before {
		if now[i] != before[i] {
			c.Invalid(at.Index(i), now[i], validate.Immutable)
		}
	}
	return c.all()
}
