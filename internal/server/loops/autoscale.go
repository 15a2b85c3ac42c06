package loops

import (
	"context"
	"errors"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/autoscale"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// autoscalers is the controller of HorizontalPodAutoscalers.
func autoscalers(w *world) part {
	a := autoscaling{world: w, kind: w.kindOf(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))}
	var metrics autoscale.Metrics = autoscale.None{}
	if w.Usage != nil {
		metrics = measured{w: w}
	}
	c := autoscale.New(a, a, metrics, w.Events.As("horizontal-pod-autoscaler", ""), w.Queues, w.Log)
	return part{account: "horizontal-pod-autoscaler", run: c.Run, on: map[*resource.Kind]func(change){
		a.kind: func(ch change) {
			// Its own status changes with each look at it: that is no reason to look again.
			if ch.old == nil || ch.new == nil || ch.old.Decoded().GetGeneration() != ch.new.Decoded().GetGeneration() {
				c.Mark(ch.key)
			}
		},
	}}
}

// autoscaling shows autoscalers and their targets to their controller.
type autoscaling struct {
	*world
	kind *resource.Kind
}

func (a autoscaling) Autoscaler(key loop.Key) *autoscalingv2.HorizontalPodAutoscaler {
	return get[*autoscalingv2.HorizontalPodAutoscaler](a.world, a.kind, key.Namespace, key.Name)
}

// target finds the kind of what an autoscaler points to, whatever version it names.
func (a autoscaling) target(ref autoscalingv2.CrossVersionObjectReference) (*resource.Kind, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	for _, kind := range a.Table.All() {
		if kind.Group != gv.Group || kind.Kind != ref.Kind {
			continue
		}
		if kind.Scale == nil {
			return nil, errors.New("the server could not find the requested resource")
		}
		return kind, nil
	}
	return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: ref.Kind}}
}

func (a autoscaling) Target(h *autoscalingv2.HorizontalPodAutoscaler) (t autoscale.Target, err error) {
	ref := h.Spec.ScaleTargetRef
	kind, err := a.target(ref)
	if err != nil {
		return t, err
	}
	o := get[resource.Object](a.world, kind, h.Namespace, ref.Name)
	if o == nil {
		return t, apierrors.NewNotFound(kind.GroupResource(), ref.Name)
	}
	r := kind.Scale.Read(o)
	return autoscale.Target{UID: o.GetUID(), Wanted: r.Wanted, Have: r.Have, Selector: r.Selector}, nil
}

func (a autoscaling) Pods(namespace string, selector labels.Selector) (pods []*corev1.Pod) {
	for o := range a.Cache.Snapshot().List(a.pods, cache.Selection{Namespace: namespace, Labels: selector}) {
		pods = append(pods, cache.Typed[*corev1.Pod](o))
	}
	return pods
}

func (a autoscaling) Rescale(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, t autoscale.Target, replicas int32) error {
	kind, err := a.target(h.Spec.ScaleTargetRef)
	if err != nil {
		return err
	}
	name := h.Spec.ScaleTargetRef.Name
	_, _, err = a.Registry.Update(ctx, kind, "scale", h.Namespace, name, func(o resource.Object) (resource.Object, error) {
		if o.GetUID() != t.UID || kind.Scale.Read(o).Wanted != t.Wanted {
			return nil, apierrors.NewConflict(kind.GroupResource(), name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
		}
		o.SetResourceVersion("")
		kind.Scale.Set(o, replicas)
		return o, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return a.shown(ctx)
}

func (a autoscaling) SetStatus(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) error {
	return a.update(ctx, a.kind, "status", h.Namespace, h.Name, h.UID, func(o resource.Object) { o.(*autoscalingv2.HorizontalPodAutoscaler).Status = status })
}
