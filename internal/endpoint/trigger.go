package endpoint

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Triggers remembers, for each Service, when what its endpoints depend on changed last: that is how the annotation
// endpoints.kubernetes.io/last-change-trigger-time comes about. The zero value is ready. Calls for one Service must follow each other.
type Triggers struct {
	mu       sync.Mutex
	services map[types.NamespacedName]triggered
}

type triggered struct {
	service time.Time
	pods    map[string]time.Time // by name, when their readiness changed
}

// Next is the earliest change since the last call for the Service; zero if nothing has changed that has a time. The first call for a Service tells when it
// was created.
func (t *Triggers) Next(service *corev1.Service, pods []*corev1.Pod) time.Time {
	key := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	t.mu.Lock()
	last, known := t.services[key]
	t.mu.Unlock()
	var first time.Time
	note := func(at, before time.Time) {
		if at.After(before) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	now := triggered{service: service.CreationTimestamp.Time, pods: make(map[string]time.Time, len(pods))}
	for _, pod := range pods {
		for i := range pod.Status.Conditions {
			if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
				if at := c.LastTransitionTime.Time; !at.IsZero() {
					now.pods[pod.Name] = at
					note(at, last.pods[pod.Name])
				}
				break
			}
		}
	}
	note(now.service, last.service)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.services == nil {
		t.services = map[types.NamespacedName]triggered{}
	}
	t.services[key] = now
	if !known {
		return now.service
	}
	return first
}

// Forget drops what is remembered of a Service that is gone.
func (t *Triggers) Forget(namespace, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.services, types.NamespacedName{Namespace: namespace, Name: name})
}

// SetTrigger writes that time into annotations, or removes it if it is zero.
func SetTrigger(annotations map[string]string, at time.Time) map[string]string {
	if at.IsZero() {
		delete(annotations, corev1.EndpointsLastChangeTriggerTime)
		return annotations
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.EndpointsLastChangeTriggerTime] = at.UTC().Format(time.RFC3339Nano)
	return annotations
}
