// Package networking is the kinds of the networking.k8s.io group, one file a kind.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and columns
// have upstream's words; an object that was valid when written stays changeable.
package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of networking.k8s.io/v1, in the order discovery shows them.
func Kinds() []*resource.Kind {
	return []*resource.Kind{IngressClass(), Ingress(), IPAddress(), NetworkPolicy(), ServiceCIDR()}
}

func gvk(kind string) schema.GroupVersionKind { return networkingv1.SchemeGroupVersion.WithKind(kind) }

func root(name string, more ...string) *field.Path { return field.NewPath(name, more...) }

// check collects what is wrong. What upstream's schema declares is kept apart and comes last, since upstream reports it last.
type check struct {
	validate.List
	declared validate.List
}

func (c *check) all() field.ErrorList { return append(c.Errs, c.declared.Errs...) }

// segment demands what fits between two slashes of a URL.
func (c *check) segment(at *field.Path, value string) {
	c.Messages(at, value, content.IsPathSegmentName(value))
}
