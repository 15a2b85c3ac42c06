package loops

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/garbage"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/scheduler"
)

// Bind is the scheduler's; it needs no waiting, since the scheduler counts its decisions itself.
func (w *world) Bind(ctx context.Context, binding *corev1.Binding) error {
	return w.Registry.Bind(ctx, binding)
}

// SetCondition is the scheduler's.
func (w *world) SetCondition(ctx context.Context, key loop.Key, uid types.UID, condition corev1.PodCondition) error {
	_, _, err := w.Registry.Update(ctx, w.pods, "status", key.Namespace, key.Name, changePod(uid, func(pod *corev1.Pod) error {
		if pod.Spec.NodeName != "" {
			return fmt.Errorf("pod %s has a node by now", key)
		}
		setCondition(&pod.Status, condition)
		return nil
	}), metav1.UpdateOptions{})
	return err
}

// Nominate is the scheduler's.
func (w *world) Nominate(ctx context.Context, key loop.Key, uid types.UID, node string) error {
	_, _, err := w.Registry.Update(ctx, w.pods, "status", key.Namespace, key.Name, changePod(uid, func(pod *corev1.Pod) error {
		pod.Status.NominatedNodeName = node
		return nil
	}), metav1.UpdateOptions{})
	return err
}

// Evict is the scheduler's.
func (w *world) Evict(ctx context.Context, key loop.Key, uid types.UID, condition corev1.PodCondition) error {
	_, _, err := w.Registry.Update(ctx, w.pods, "status", key.Namespace, key.Name, changePod(uid, func(pod *corev1.Pod) error {
		setCondition(&pod.Status, condition)
		return nil
	}), metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return w.delete(ctx, w.pods, key.Namespace, key.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
}

// Budgets is the scheduler's.
func (w *world) Budgets(namespace string) (all []scheduler.Budget) {
	kind := w.kindOf(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	for o := range w.Cache.Snapshot().List(kind, cache.Selection{Namespace: namespace}) {
		b := cache.Typed[*policyv1.PodDisruptionBudget](o)
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || selector.Empty() {
			continue
		}
		all = append(all, scheduler.Budget{Pods: selector, Allowed: b.Status.DisruptionsAllowed, Going: b.Status.DisruptedPods})
	}
	return all
}

// Services is the scheduler's.
func (w *world) Services(namespace string) (all []labels.Selector) {
	for o := range w.Cache.Snapshot().List(w.kindOf(corev1.SchemeGroupVersion.WithKind("Service")), cache.Selection{Namespace: namespace}) {
		if selector := cache.Typed[*corev1.Service](o).Spec.Selector; len(selector) > 0 {
			all = append(all, labels.SelectorFromSet(selector))
		}
	}
	return all
}

func (w *world) CreateServiceAccount(ctx context.Context, account *corev1.ServiceAccount) error {
	return w.create(ctx, w.accounts, account)
}

func (w *world) CreateConfigMap(ctx context.Context, m *corev1.ConfigMap) error {
	return w.create(ctx, w.configs, m)
}

func (w *world) UpdateConfigMap(ctx context.Context, namespace, name string, change func(*corev1.ConfigMap)) error {
	return w.update(ctx, w.configs, "", namespace, name, "", func(o resource.Object) { change(o.(*corev1.ConfigMap)) })
}

func (w *world) DeleteEvent(ctx context.Context, key loop.Key, resourceVersion string) error {
	return w.delete(ctx, w.events, key.Namespace, key.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &resourceVersion}})
}

func (w *world) UpdatePodStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error {
	return w.update(ctx, w.pods, "status", pod.Namespace, pod.Name, pod.UID, func(o resource.Object) { change(&o.(*corev1.Pod).Status) })
}

func (w *world) DeletePod(ctx context.Context, pod *corev1.Pod) error {
	return w.delete(ctx, w.pods, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
}

// namespaces writes for the namespace controller.
type namespaces struct{ *world }

func (n namespaces) Create(ctx context.Context, ns *corev1.Namespace) error {
	return n.create(ctx, n.namespaces, ns)
}

func (n namespaces) DeleteAll(ctx context.Context, kind *resource.Kind, ns string) error {
	background := metav1.DeletePropagationBackground
	_, err := n.Registry.DeleteCollection(ctx, kind, cache.Selection{Namespace: ns}, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		return err
	}
	return n.shown(ctx)
}

func (n namespaces) SetStatus(ctx context.Context, name string, change func(*corev1.Namespace)) error {
	return n.update(ctx, n.namespaces, "status", "", name, "", func(o resource.Object) { change(o.(*corev1.Namespace)) })
}

func (n namespaces) Finalize(ctx context.Context, name string, change func(*corev1.Namespace)) error {
	return n.update(ctx, n.namespaces, "finalize", "", name, "", func(o resource.Object) { change(o.(*corev1.Namespace)) })
}

// things writes for the garbage controller.
type things struct{ *world }

func (t things) Delete(ctx context.Context, ref garbage.Ref, uid types.UID, policy metav1.DeletionPropagation) error {
	return t.delete(ctx, ref.Kind, ref.Namespace, ref.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &uid}})
}

func (t things) UpdateMeta(ctx context.Context, ref garbage.Ref, uid types.UID, change func(metav1.Object)) error {
	return t.update(ctx, ref.Kind, "", ref.Namespace, ref.Name, uid, func(o resource.Object) { change(o) })
}

// changePod is a change of a pod's status for the registry, if it still is the pod of that UID.
func changePod(uid types.UID, change func(*corev1.Pod) error) func(resource.Object) (resource.Object, error) {
	return func(current resource.Object) (resource.Object, error) {
		pod, ok := current.(*corev1.Pod)
		if !ok || pod.UID != uid {
			return nil, apierrors.NewNotFound(corev1.Resource("pods"), "")
		}
		pod.ResourceVersion = ""
		return pod, change(pod)
	}
}

// setCondition puts the condition in the place of one of its type. The time is that of the last change of status.
func setCondition(s *corev1.PodStatus, condition corev1.PodCondition) {
	for i := range s.Conditions {
		if s.Conditions[i].Type != condition.Type {
			continue
		}
		if s.Conditions[i].Status == condition.Status {
			condition.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
		s.Conditions[i] = condition
		return
	}
	s.Conditions = append(s.Conditions, condition)
}

// createPod creates a pod and returns it as it is stored, once the cache shows it.
func (w *world) createPod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	made, err := w.Registry.Create(ctx, w.pods, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return made.(*corev1.Pod), w.shown(ctx)
}

// updateOwners changes the owner references of an object, of that UID.
func (w *world) updateOwners(ctx context.Context, kind *resource.Kind, o metav1.Object, change func([]metav1.OwnerReference) []metav1.OwnerReference) error {
	return w.update(ctx, kind, "", o.GetNamespace(), o.GetName(), o.GetUID(), func(o resource.Object) { o.SetOwnerReferences(change(o.GetOwnerReferences())) })
}
