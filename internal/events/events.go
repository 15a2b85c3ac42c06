// Package events tells what happened to an object as Kubernetes Events.
//
// It watches nothing; it writes core/v1 Events through a Writer, several at once but those about one thing in their order.
// Always: Record never blocks its caller and never fails it; a repetition raises the count of the event that is
// there instead of adding one; an object that is talked about too often is silenced until its bucket refills.
package events

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Writer is all this package asks of the API.
type Writer interface {
	// Create adds the event, and returns it as it is stored.
	Create(ctx context.Context, event *corev1.Event) (*corev1.Event, error)
	// Patch sets message, count and lastTimestamp of the event of that namespace and name to those given.
	Patch(ctx context.Context, event *corev1.Event) (*corev1.Event, error)
}

// Options are a recorder's particulars; the zero value works.
type Options struct {
	Queue  int             // events that may wait to be written; more are dropped. 4096 if zero
	Scheme *runtime.Scheme // names the kinds of objects that come without their own; core pods and nodes need none
	Log    *slog.Logger
	Now    func() time.Time
}

// Recorder writes events in one component's name. Those made by As share its queue and its memory of what was said.
type Recorder struct {
	*shared
	component, host string
}

type shared struct {
	writer    Writer
	scheme    *runtime.Scheme
	log       *slog.Logger
	now       func() time.Time
	queue     chan *corev1.Event
	dropped   atomic.Int64
	correlate *correlator // owned by Run's goroutine
	last      struct {
		sync.Mutex
		stamp int64 // of the last name given: two events never get one name
	}
}

// New makes a recorder for a component ("kubelet") on a host ("" where it is not of one node). Run starts it.
func New(writer Writer, component, host string, o Options) *Recorder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Recorder{component: component, host: host, shared: &shared{
		writer: writer, scheme: o.Scheme, log: o.Log, now: o.Now,
		queue:     make(chan *corev1.Event, cmp.Or(o.Queue, 4096)),
		correlate: newCorrelator(o.Now),
	}}
}

// As is the same recorder speaking for another component.
func (r *Recorder) As(component, host string) *Recorder {
	return &Recorder{shared: r.shared, component: component, host: host}
}

// Record tells what happened to obj (an API object, or a *corev1.ObjectReference where a part of one is meant).
// kind is corev1.EventTypeNormal or corev1.EventTypeWarning. It returns at once; a full queue drops the event.
func (r *Recorder) Record(obj runtime.Object, kind, reason, message string) {
	ref, err := r.refer(obj)
	if err != nil {
		r.log.Error("event without an object", "reason", reason, "message", message, "error", err)
		return
	}
	select {
	case r.queue <- r.event(ref, kind, reason, message):
	default:
		if r.dropped.Add(1) == 1 {
			r.log.Warn("events come faster than they can be written, some are dropped", "queue", cap(r.queue))
		}
	}
}

// Recordf is Record with a message to format.
func (r *Recorder) Recordf(obj runtime.Object, kind, reason, format string, args ...any) {
	r.Record(obj, kind, reason, fmt.Sprintf(format, args...))
}

// Dropped is how many events found the queue full.
func (r *Recorder) Dropped() int64 { return r.dropped.Load() }

func (r *Recorder) event(ref corev1.ObjectReference, kind, reason, message string) *corev1.Event {
	now := metav1.NewTime(r.now())
	namespace := cmp.Or(ref.Namespace, metav1.NamespaceDefault)
	return &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, r.stamp(now.Time))},
		InvolvedObject:      ref,
		Reason:              reason,
		Message:             message,
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
		Type:                kind,
		ReportingController: r.component,
		ReportingInstance:   r.host,
	}
}

// stamp is now in nanoseconds, or one more than the last one given.
func (s *shared) stamp(now time.Time) int64 {
	s.last.Lock()
	defer s.last.Unlock()
	s.last.stamp = max(s.last.stamp+1, now.UnixNano())
	return s.last.stamp
}

// refer is obj as an event names it.
func (s *shared) refer(obj runtime.Object) (corev1.ObjectReference, error) {
	if obj == nil || reflect.ValueOf(obj).IsNil() {
		return corev1.ObjectReference{}, fmt.Errorf("refer to an object: there is none")
	}
	if ref, ok := obj.(*corev1.ObjectReference); ok {
		return *ref, nil
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return corev1.ObjectReference{}, fmt.Errorf("refer to a %T: %w", obj, err)
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	if gvk.Kind == "" {
		switch obj.(type) {
		case *corev1.Pod:
			gvk = corev1.SchemeGroupVersion.WithKind("Pod")
		case *corev1.Node:
			gvk = corev1.SchemeGroupVersion.WithKind("Node")
		default:
			if s.scheme == nil {
				return corev1.ObjectReference{}, fmt.Errorf("refer to a %T: it does not say its kind", obj)
			}
			kinds, _, err := s.scheme.ObjectKinds(obj)
			if err != nil {
				return corev1.ObjectReference{}, fmt.Errorf("refer to a %T: %w", obj, err)
			}
			gvk = kinds[0]
		}
	}
	return corev1.ObjectReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: m.GetNamespace(), Name: m.GetName(),
		UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
	}, nil
}

// Container refers to a container of a pod, as `spec.containers{web}`.
func Container(pod *corev1.Pod, name string) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		FieldPath: fmt.Sprintf("spec.containers{%s}", name),
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			ref.FieldPath = fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			ref.FieldPath = fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return ref
}
