package loops

import (
	"bytes"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/disruption"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// disruptions is the controller of PodDisruptionBudgets.
func disruptions(w *world) part {
	d := disrupting{world: w, kind: w.kindOf(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))}
	c := disruption.New(d, d, w.Events.As("controllermanager", ""), w.Queues, w.Log)
	return part{account: "disruption-controller", run: c.Run, on: map[*resource.Kind]func(change){
		d.kind: func(ch change) { c.Mark(ch.key) },
		w.pods: func(ch change) {
			d.markBudgets(ch, c.Mark)
			// Looking for the word is much cheaper than decoding each pod that changes.
			if ch.new != nil && bytes.Contains(ch.new.Protobuf(), []byte(corev1.DisruptionTarget)) {
				c.PodDisrupted(ch.key)
			}
		},
	}}
}

// disrupting shows budgets and their pods to their controller.
type disrupting struct {
	*world
	kind *resource.Kind
}

// markBudgets marks the budgets that select the pod, or did.
func (d disrupting) markBudgets(ch change, mark func(loop.Key)) {
	for o := range d.Cache.Snapshot().List(d.kind, cache.Selection{Namespace: ch.key.Namespace}) {
		sel, err := metav1.LabelSelectorAsSelector(cache.Typed[*policyv1.PodDisruptionBudget](o).Spec.Selector)
		if err != nil {
			continue
		}
		for _, pod := range []*cache.Object{ch.old, ch.new} {
			if pod != nil && sel.Matches(pod.LabelSet()) {
				mark(keyOf(o))
				break
			}
		}
	}
}

func (d disrupting) Budget(key loop.Key) (b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) {
	snap := d.Cache.Snapshot()
	o := snap.Get(d.kind, key.Namespace, key.Name)
	if o == nil {
		return nil, nil
	}
	b = cache.Typed[*policyv1.PodDisruptionBudget](o)
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		sel = labels.Nothing()
	}
	for o := range snap.List(d.pods, cache.Selection{Namespace: key.Namespace, Labels: sel}) {
		pods = append(pods, cache.Typed[*corev1.Pod](o))
	}
	return b, pods
}

func (d disrupting) Scale(namespace string, ref metav1.OwnerReference) (*disruption.Scale, error) {
	o, kind, err := d.scalable(namespace, ref.APIVersion, ref.Kind, ref.Name)
	if o == nil || err != nil {
		return nil, err
	}
	return &disruption.Scale{UID: o.GetUID(), Replicas: kind.Scale.Read(o).Wanted, Controller: metav1.GetControllerOfNoCopy(o)}, nil
}

// scalable finds an object that has a scale: nil if there is no such object, an error if its kind is not served or has no scale.
func (w *world) scalable(namespace, apiVersion, kindName, name string) (resource.Object, *resource.Kind, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, nil, err
	}
	kind, _ := w.Table.ByKind(gv.WithKind(kindName))
	if kind == nil {
		return nil, nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: kindName}, SearchedVersions: []string{gv.Version}}
	}
	if kind.Scale == nil {
		return nil, nil, fmt.Errorf("%s does not implement the scale subresource", kind.GroupResource())
	}
	return get[resource.Object](w, kind, namespace, name), kind, nil
}

func (d disrupting) SetStatus(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	_, _, err := d.Registry.Update(ctx, d.kind, "status", b.Namespace, b.Name, func(resource.Object) (resource.Object, error) {
		next := b.DeepCopy() // with its resourceVersion
		next.Status = *status.DeepCopy()
		return next, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return d.shown(ctx)
}
