package apiserver

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/resource"
)

// scales says that the request is for the subresource /scale.
func (c *call) scales() bool { return c.sub == "scale" && c.rest == "" && c.kind.Scale != nil }

// setScale changes the object whose scale the client has sent.
func (c *call) setScale(next, current resource.Object) (resource.Object, error) {
	changed := current.DeepCopyObject().(resource.Object)
	errs := c.kind.SetScale(changed, next.(*autoscalingv1.Scale))
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(resource.ScaleKind.GroupKind(), c.name, errs)
	}
	return changed, nil
}
