package admission

import (
	"cmp"
	"context"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// DefaultIngressClass gives an Ingress that names no class the default one, if there is one; of several, the newest.
type DefaultIngressClass struct {
	classes *resource.Kind
	cache   state
}

func newDefaultIngressClass(table *resource.Table, c *cache.Cache) DefaultIngressClass {
	k, _ := table.ByKind(networkingv1.SchemeGroupVersion.WithKind("IngressClass"))
	return DefaultIngressClass{k, c}
}

// ingressClass is the annotation by which an Ingress named its class before it had a field for it.
const ingressClass = "kubernetes.io/ingress.class"

// Admit implements Step.
func (d DefaultIngressClass) Admit(_ context.Context, a *Attributes) error {
	ingress, is := a.Object.(*networkingv1.Ingress)
	if !is || a.Operation != Create || a.Sub != "" || ingress.Spec.IngressClassName != nil || d.classes == nil {
		return nil
	}
	if _, named := ingress.Annotations[ingressClass]; named {
		return nil
	}
	var defaults []*networkingv1.IngressClass
	for o := range d.cache.Snapshot().List(d.classes, cache.Selection{}) {
		if class := cache.Typed[*networkingv1.IngressClass](o); class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			defaults = append(defaults, class)
		}
	}
	if len(defaults) == 0 {
		return nil
	}
	ingress.Spec.IngressClassName = new(newest(defaults).Name)
	return nil
}

func newest(classes []*networkingv1.IngressClass) *networkingv1.IngressClass {
	return slices.MinFunc(classes, func(x, y *networkingv1.IngressClass) int {
		return cmp.Or(y.CreationTimestamp.Compare(x.CreationTimestamp.Time), cmp.Compare(x.Name, y.Name))
	})
}
