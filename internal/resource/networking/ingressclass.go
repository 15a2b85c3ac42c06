package networking

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

const maxController = 250 // bytes

// IngressClass says which controller serves some Ingresses.
func IngressClass() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("IngressClass"), Plural: "ingressclasses", Singular: "ingressclass", Prefix: "/registry/ingressclasses/",
		New:     func() resource.Object { return &networkingv1.IngressClass{} },
		NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },

		Default: func(o resource.Object) {
			if p := o.(*networkingv1.IngressClass).Spec.Parameters; p != nil && p.Scope == nil {
				p.Scope = new(networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		PrepareCreate: func(o resource.Object) { o.SetGeneration(1) },
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*networkingv1.IngressClass), old.(*networkingv1.IngressClass)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList {
			if !resource.IsNew(o) {
				return nil
			}
			return class(&o.(*networkingv1.IngressClass).Spec, nil)
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return class(&new.(*networkingv1.IngressClass).Spec, &old.(*networkingv1.IngressClass).Spec)
		},

		Fields: resource.MetaFields, FieldNames: []string{"metadata.name"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			resource.Column("Controller", "string", "Controller that is responsible for handling this class"),
			resource.Column("Parameters", "string", "A reference to a resource with additional parameters"),
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			c := o.(*networkingv1.IngressClass)
			parameters := "<none>"
			if p := c.Spec.Parameters; p != nil {
				kind := p.Kind
				if p.APIGroup != nil {
					kind += "." + *p.APIGroup
				}
				parameters = kind + "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, resource.Age(c, now)}
		},
	}
}

// class checks a class; old is nil when it is created.
func class(s, old *networkingv1.IngressClassSpec) field.ErrorList {
	var c check
	at := root("spec", "controller")
	if old != nil {
		c.Same(at, s.Controller, old.Controller)
	}
	c.Add(tooLong(at, s.Controller)...)
	c.Add(validation.IsDomainPrefixedPath(at, s.Controller)...)
	p, at := s.Parameters, root("spec", "parameters")
	if p == nil {
		return c.all()
	}
	c.reference(p.APIGroup, p.Kind, p.Name, at, func(at *field.Path, what string) {
		wasMissing := old != nil && old.Parameters != nil && (what == "kind" && old.Parameters.Kind == "" || what == "name" && old.Parameters.Name == "")
		if !wasMissing {
			c.declared.Required(at, "")
		}
	})
	c.scope(p, at)
	return c.all()
}

func tooLong(at *field.Path, controller string) (errs field.ErrorList) {
	if len(controller) > maxController {
		errs = append(errs, field.TooLong(at, "", maxController))
	}
	return errs
}

func (c *check) scope(p *networkingv1.IngressClassParametersReference, at *field.Path) {
	const cluster, namespaced = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	if p.Scope == nil {
		c.Required(at.Child("scope"), "")
		return
	}
	validate.OneOf(&c.List, at.Child("scope"), *p.Scope, cluster, namespaced)
	switch namespace := at.Child("namespace"); {
	case *p.Scope == namespaced && p.Namespace == nil:
		c.Required(namespace, "`parameters.scope` is set to 'Namespace'")
	case *p.Scope == namespaced:
		c.Label(namespace, *p.Namespace)
	case *p.Scope == cluster && p.Namespace != nil:
		c.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'")
	}
}

// local checks a reference to an object of the same namespace.
func (c *check) local(r *corev1.TypedLocalObjectReference, at *field.Path) {
	c.reference(r.APIGroup, r.Kind, r.Name, at, func(at *field.Path, what string) { c.Required(at, what+" is required") })
}

func (c *check) reference(group *string, kind, name string, at *field.Path, missing func(at *field.Path, what string)) {
	if group != nil {
		c.Subdomain(at.Child("apiGroup"), *group)
	}
	for _, part := range []struct{ what, value string }{{"kind", kind}, {"name", name}} {
		if at := at.Child(part.what); part.value == "" {
			missing(at, part.what)
		} else {
			c.segment(at, part.value)
		}
	}
}
