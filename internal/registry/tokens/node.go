package tokens

import (
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/cache"
)

// checkNode holds a node to tokens for pods that are bound to it, and to the audiences that these name.
func (i *Issuer) checkNode(snap *cache.Snapshot, node, namespace, account string, r *authenticationv1.TokenRequest) error {
	forbidden := func(err error) error { return apierrors.NewForbidden(i.accounts.GroupResource(), account, err) }
	ref := r.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return forbidden(errors.New("node requested token not bound to a pod"))
	case ref.UID == "":
		return forbidden(errors.New("node requested token with a pod binding without a uid"))
	}
	o := snap.Get(i.pods, namespace, ref.Name)
	if o == nil {
		return apierrors.NewNotFound(i.pods.GroupResource(), ref.Name)
	}
	pod := cache.Typed[*corev1.Pod](o)
	switch {
	case pod.UID != ref.UID:
		return forbidden(otherUID(ref.UID))
	case pod.Spec.NodeName != node:
		return forbidden(errors.New("node requested token bound to a pod scheduled on a different node"))
	case len(r.Spec.Audiences) > 1:
		return forbidden(errors.New("node may only request 0 or 1 audiences"))
	}
	audience := ""
	if len(r.Spec.Audiences) == 1 {
		audience = r.Spec.Audiences[0]
	}
	if !asks(pod, audience) {
		return forbidden(fmt.Errorf("audience %q not found in pod spec volume, system:node:%s is not authorized to request tokens for this audience", audience, node))
	}
	return nil
}

// asks says whether a pod wants tokens for that audience; empty is the API's own.
func asks(pod *corev1.Pod, audience string) bool {
	for i := range pod.Spec.Volumes {
		p := pod.Spec.Volumes[i].Projected
		if p == nil {
			continue
		}
		for _, s := range p.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	}
	return audience == ""
}
