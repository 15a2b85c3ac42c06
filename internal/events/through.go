package events

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

// verbs is the part of the registry that Through needs.
type verbs[Change ~func(resource.Object) (resource.Object, error)] interface {
	Create(ctx context.Context, kind *resource.Kind, obj resource.Object, o metav1.CreateOptions) (resource.Object, error)
	Update(ctx context.Context, kind *resource.Kind, sub, ns, name string, change Change, o metav1.UpdateOptions) (resource.Object, bool, error)
}

// Through writes events through the registry of this process. kind is that of core/v1 Event.
func Through[Change ~func(resource.Object) (resource.Object, error)](registry verbs[Change], kind *resource.Kind) Writer {
	return through[Change]{registry, kind}
}

type through[Change ~func(resource.Object) (resource.Object, error)] struct {
	verbs verbs[Change]
	kind  *resource.Kind
}

func (t through[Change]) Create(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	obj, err := t.verbs.Create(ctx, t.kind, event.DeepCopy(), metav1.CreateOptions{})
	return answered(obj, err)
}

func (t through[Change]) Patch(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	obj, _, err := t.verbs.Update(ctx, t.kind, "", event.Namespace, event.Name, func(current resource.Object) (resource.Object, error) {
		e, ok := current.(*corev1.Event)
		if !ok {
			return nil, fmt.Errorf("patch event %s/%s: it is a %T", event.Namespace, event.Name, current)
		}
		e.ResourceVersion = "" // whatever it is by now
		e.Message, e.Count, e.LastTimestamp = event.Message, event.Count, event.LastTimestamp
		return e, nil
	}, metav1.UpdateOptions{})
	return answered(obj, err)
}

func answered(obj resource.Object, err error) (*corev1.Event, error) {
	if err != nil {
		return nil, err
	}
	e, _ := obj.(*corev1.Event)
	return e, nil
}
