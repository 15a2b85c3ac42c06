package networking

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// IPAddress says whose an address is; its name is the address.
func IPAddress() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("IPAddress"), Plural: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"}, Prefix: "/registry/ipaddresses/",
		New:     func() resource.Object { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },

		NameRule: func(name string, _ bool) (wrong []string) {
			for _, err := range validation.IsValidIP(nil, name) {
				wrong = append(wrong, err.Detail)
			}
			return wrong
		},
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return parent(o.(*networkingv1.IPAddress).Spec.ParentRef, nil, true)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return parent(new.(*networkingv1.IPAddress).Spec.ParentRef, old.(*networkingv1.IPAddress).Spec.ParentRef, false)
		},

		Fields: resource.MetaFields, FieldNames: []string{"metadata.name"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			a := o.(*networkingv1.IPAddress)
			return []any{a.Name, parentText(a.Spec.ParentRef), resource.Age(a, now)}
		},
	}
}

func parentText(p *networkingv1.ParentReference) string {
	if p == nil {
		return "<none>"
	}
	parts := []string{strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())}
	if p.Namespace != "" {
		parts = append(parts, p.Namespace)
	}
	return strings.Join(append(parts, p.Name), "/")
}

// parent checks whose the address is. What is missing is told only of a new one: of another, that it may not change is told.
func parent(p, old *networkingv1.ParentReference, isNew bool) field.ErrorList {
	var c check
	at := root("spec", "parentRef")
	if !isNew && !equality.Semantic.DeepEqual(p, old) {
		c.declared.Invalid(at, nil, "field is immutable")
		if p == nil {
			c.declared.Required(at, "")
		}
	} else if isNew && p == nil {
		c.declared.Required(at, "")
	}
	if p == nil {
		return c.all()
	}
	if p.Group != "" {
		c.Subdomain(at.Child("group"), p.Group)
	}
	for _, part := range []struct{ what, value string }{{"resource", p.Resource}, {"name", p.Name}} {
		if at := at.Child(part.what); part.value != "" {
			c.segment(at, part.value)
		} else if isNew {
			c.declared.Required(at, "")
		}
	}
	if p.Namespace != "" {
		c.segment(at.Child("namespace"), p.Namespace)
	}
	return c.all()
}
