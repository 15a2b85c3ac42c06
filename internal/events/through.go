package events

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

// verbs is the part of the registry that Through needs.
type verbs interface {
	Create(ctx context.Context, kind *resource.Kind, obj resource.Object, o metav1.CreateOptions) (resource.Object, error)
	Update(ctx context.Context, kind *resource.Kind, sub, ns, name string, change func(resource.Object) (resource.Object, error), o metav1.UpdateOptions) (resource.Object, bool, error)
}

// Through writes events through the registry of this process. kind is that of core/v1 Event.
func Through(registry verbs, kind *resource.Kind) Writer { return through{registry, kind} }

type through struct {
	verbs verbs
	kind  *resource.Kind
}

func (t through) Create(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	obj, err := t.verbs.Create(ctx, t.kind, event.DeepCopy(), metav1.CreateOptions{})
	return answered(obj, err)
}

func (t through) Patch(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	obj, _, err := t.verbs.Update(ctx, t.kind, "", event.Namespace, event.Name, func(current resource.Object) (resource.Object, error) {
		if current == nil {
			return nil, apierrors.NewNotFound(corev1.Resource("events"), event.Name)
		}
		e, ok := current.(*corev1.Event)
		if !ok {
			return nil, fmt.Errorf("patch event %s/%s: it is a %T", event.Namespace, event.Name, current)
		}
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
