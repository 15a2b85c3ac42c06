package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/workload"
)

// mostDisrupted is how many evictions a budget may have that its controller has not seen happen.
const mostDisrupted = 2000

// Evict deletes a pod if its disruption budget allows that. A disruption is taken from the budget before the pod is deleted, on the very version
// that allowed it: of two evictions at once, a budget of one lets one pass.
func (r *Registry) Evict(ctx context.Context, namespace, name string, o metav1.DeleteOptions) error {
	kind, _ := r.table.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	for try := 0; ; try++ {
		again, err := r.evict(ctx, kind, namespace, name, o)
		if !again || try == maxTries {
			return err
		}
	}
}

// evict tries once. Again says that pod or budget changed meanwhile.
func (r *Registry) evict(ctx context.Context, kind *resource.Kind, namespace, name string, o metav1.DeleteOptions) (again bool, err error) {
	snap, err := r.fresh(ctx)
	if err != nil {
		return false, err
	}
	there := snap.Get(kind, namespace, name)
	if there == nil {
		return false, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	pod := cache.Typed[*corev1.Pod](there)
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
	if ended {
		return false, r.disrupt(ctx, kind, pod, o)
	}
	bound := o.Preconditions != nil && o.Preconditions.ResourceVersion != nil // to a version, by the caller
	if pod.Status.Phase == corev1.PodPending {
		err := r.disrupt(ctx, kind, pod, atVersion(o, pod)) // it may begin to count at any moment
		return !bound && apierrors.IsConflict(err), err
	}
	budget, err := r.budgetOf(snap, pod)
	switch {
	case err != nil:
		return false, err
	case budget == nil:
		return false, r.disrupt(ctx, kind, pod, o)
	case !workload.Ready(pod) && spares(budget):
		err := r.disrupt(ctx, kind, pod, atVersion(o, pod))
		if !bound && apierrors.IsConflict(err) {
			return false, unsettled(budget.Name)
		}
		return false, err
	}
	if err := r.take(ctx, budget, pod.Name, dryRun(o.DryRun)); err != nil {
		return apierrors.IsNotFound(err), err
	}
	return false, r.disrupt(ctx, kind, pod, o)
}

// atVersion makes the options conditional on the pod being as it is, unless they name a version already.
func atVersion(o metav1.DeleteOptions, pod *corev1.Pod) metav1.DeleteOptions {
	var p metav1.Preconditions
	if o.Preconditions != nil {
		p = *o.Preconditions
	}
	if p.ResourceVersion == nil {
		p.ResourceVersion = &pod.ResourceVersion
	}
	o.Preconditions = &p
	return o
}

// budgetOf finds the budget that a pod falls under, or nil.
func (r *Registry) budgetOf(snap *cache.Snapshot, pod *corev1.Pod) (found *policyv1.PodDisruptionBudget, err error) {
	for o := range snap.List(r.budgets(), cache.Selection{Namespace: pod.Namespace}) {
		b := cache.Typed[*policyv1.PodDisruptionBudget](o)
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !sel.Matches(labels.Set(pod.Labels)) {
			continue // a broken selector selects nothing
		}
		if found != nil {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
			}}
		}
		found = b
	}
	return found, nil
}

func (r *Registry) budgets() *resource.Kind {
	kind, _ := r.table.ByKind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	return kind
}

// spares says that a pod that is not ready may go without being counted: always, or while the others are as many as wanted.
func spares(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// take takes one disruption out of the budget, and notes the pod: until its deletion is seen, it counts as disrupted.
func (r *Registry) take(ctx context.Context, b *policyv1.PodDisruptionBudget, pod string, dry bool) error {
	var err error
	for range 20 { // each round of tries means that so many others got theirs
		_, err = r.modify(ctx, r.budgets(), b.Namespace, b.Name, dry, func(old resource.Object) (resource.Object, bool, error) {
			next := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
			if err := refused(next); err != nil {
				return nil, false, err
			}
			if next.Status.DisruptionsAllowed--; next.Status.DisruptionsAllowed == 0 {
				poddisruptionbudget.UpdateDisruptionAllowedCondition(next)
			}
			if next.Status.DisruptedPods == nil {
				next.Status.DisruptedPods = map[string]metav1.Time{}
			}
			next.Status.DisruptedPods[pod] = metav1.NewTime(r.now().Truncate(time.Second))
			return next, false, nil
		})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
	return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", b.Name), 10)
}

// refused says why the budget allows nothing now; nil if it does.
func refused(b *policyv1.PodDisruptionBudget) error {
	s := &b.Status
	forbidden := func(why, cause string) error {
		err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
		because(err, "The disruption budget "+b.Name+" does not allow evicting pods currently: "+cause)
		return err
	}
	switch {
	case s.ObservedGeneration < b.Generation:
		return unsettled(b.Name)
	case s.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > mostDisrupted:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller", "too many pending evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed == 0:
		err := apierrors.NewTooManyRequests(overBudget, 0)
		because(err, denial(b))
		return err
	}
	return nil
}

const overBudget = "Cannot evict pod as it would violate the pod's disruption budget."

func because(err *apierrors.StatusError, message string) {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
}

// unsettled asks the caller to come again: what the budget allows is not known yet.
func unsettled(budget string) error {
	err := apierrors.NewTooManyRequests(overBudget, 10)
	because(err, "The disruption budget "+budget+" is still being processed by the server.")
	return err
}

// denial says what the budget lacks. Its numbers mean nothing while it could not be computed.
func denial(b *policyv1.PodDisruptionBudget) string {
	failed := metav1.Condition{}
	for _, c := range b.Status.Conditions {
		if c.Type == policyv1.DisruptionAllowedCondition && c.Status == metav1.ConditionFalse && c.Message != "" {
			failed = c
		}
	}
	switch {
	case failed.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, failed.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case failed.Message != "":
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, failed.Reason, failed.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
}

// disrupt says on the pod why it goes, and deletes it.
func (r *Registry) disrupt(ctx context.Context, kind *resource.Kind, pod *corev1.Pod, o metav1.DeleteOptions) error {
	if !dryRun(o.DryRun) {
		marked, err := r.modify(ctx, kind, pod.Namespace, pod.Name, false, func(old resource.Object) (resource.Object, bool, error) {
			if err := preconditions(kind, old, o.Preconditions); err != nil {
				return nil, false, err
			}
			next := old.DeepCopyObject().(*corev1.Pod)
			disrupted(next, metav1.NewTime(r.now().Truncate(time.Second)))
			return next, false, nil
		})
		if err != nil {
			return err
		}
		if o.Preconditions != nil && o.Preconditions.ResourceVersion != nil {
			o.Preconditions = &metav1.Preconditions{UID: o.Preconditions.UID, ResourceVersion: new(marked.GetResourceVersion())}
		}
	}
	_, _, err := r.Delete(ctx, kind, pod.Namespace, pod.Name, o)
	return err
}

// disrupted sets the condition DisruptionTarget.
func disrupted(pod *corev1.Pod, now metav1.Time) {
	want := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", LastTransitionTime: now,
	}
	s := &pod.Status
	i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == want.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, want)
		return
	}
	if s.Conditions[i].Status == want.Status {
		want.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = want
}
