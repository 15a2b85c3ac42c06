package statefulset

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// ensure makes the claims that a pod lacks. While one is going, the pod waits: it would get a volume that is taken away.
func (c *Controller) ensure(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	n, _ := ordinal(set, pod)
	var errs []error
	for _, want := range claims(set, n) {
		have := c.claims.Claim(loop.Key{Namespace: want.Namespace, Name: want.Name})
		if have != nil {
			if have.DeletionTimestamp != nil || stale(have, pod) {
				errs = append(errs, fmt.Errorf("pvc %s is being deleted", want.Name))
			}
			continue
		}
		err := c.claims.CreateClaim(ctx, want)
		if err != nil {
			errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", want.Name, err))
		}
		if !apierrors.IsAlreadyExists(err) {
			c.tellClaim(set, pod, want, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) tellClaim(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, err error) {
	if err != nil {
		c.events.Record(set, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, pod.Name, set.Name, err))
		return
	}
	c.events.Record(set, corev1.EventTypeNormal, "SuccessfulCreate", fmt.Sprintf("create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, set.Name))
}

// retain says on the claims of the set's pods whom they go with, as the set's policy has it. It does so before any pod goes. A pod that has not begun yet, and whose claim
// has gone meanwhile, gets another.
func (c *Controller) retain(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod) error {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	var errs []error
	for _, pod := range pods {
		n, _ := ordinal(set, pod)
		for i := range set.Spec.VolumeClaimTemplates {
			claim := c.claims.Claim(loop.Key{Namespace: set.Namespace, Name: claimName(set, set.Spec.VolumeClaimTemplates[i].Name, n)})
			if claim == nil {
				if pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil {
					errs = append(errs, c.ensure(ctx, set, pod))
				}
				continue
			}
			refs, changed := Owners(set, pod, claim)
			if !changed {
				continue
			}
			_, err := c.claims.UpdateClaim(ctx, claim, func(claim *corev1.PersistentVolumeClaim) { claim.OwnerReferences = refs })
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// Owners are the owner references that the claim of a pod should have, and whether they differ from those that it has. The owner is the set where claims go with
// it, the pod where they go with pods that are scaled away. A claim that somebody else controls is left alone.
func Owners(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) (refs []metav1.OwnerReference, changed bool) {
	whenDeleted, whenScaled := false, false
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		whenDeleted = p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		whenScaled = p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	}
	n, _ := ordinal(set, pod)
	away := n < start(set) || n >= start(set)+int(*set.Spec.Replicas)
	byPod := whenScaled && away
	bySet := whenDeleted && !byPod

	var others []metav1.OwnerReference
	for _, r := range claim.OwnerReferences {
		ours := r.UID == set.UID || r.UID == pod.UID || r.Kind == podKind.Kind && r.Name == pod.Name || r.Kind == Kind.Kind && r.Name == set.Name
		if ours {
			continue
		}
		if r.Controller != nil && *r.Controller {
			return claim.OwnerReferences, false
		}
		others = append(others, r)
	}
	refs = others
	switch {
	case bySet:
		refs = append(refs, *metav1.NewControllerRef(set, Kind))
	case byPod:
		refs = append(refs, *metav1.NewControllerRef(pod, podKind))
	}
	same := func(a, b metav1.OwnerReference) bool { return a.UID == b.UID && a.Kind == b.Kind && a.Name == b.Name }
	return refs, !slices.EqualFunc(refs, claim.OwnerReferences, same)
}

// stale says that the claim goes with an earlier pod of that name.
func stale(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Kind == podKind.Kind && r.Name == pod.Name && r.UID != pod.UID
	})
}
