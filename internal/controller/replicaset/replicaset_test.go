package replicaset

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// world is a set with its pods, and all that is written about them.
type world struct {
	mu     sync.Mutex
	set    *Set
	pods   []*corev1.Pod
	refuse error // of creating and deleting pods
	calls  int
	events []string
	status []appsv1.ReplicaSetStatus
}

func (w *world) Set(loop.Key) *Set                { return w.set }
func (w *world) Pods(*Set) []*corev1.Pod          { return w.pods }
func (w *world) RelatedPods(s *Set) []*corev1.Pod { return w.pods }

func (w *world) CreatePod(_ context.Context, p *corev1.Pod) (*corev1.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls++; w.refuse != nil {
		return nil, w.refuse
	}
	p.Name = fmt.Sprintf("%s%d", p.GenerateName, len(w.pods))
	w.pods = append(w.pods, p)
	return p, nil
}

func (w *world) DeletePod(_ context.Context, p *corev1.Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls++; w.refuse == nil {
		p.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return w.refuse
}

func (w *world) UpdatePodOwners(_ context.Context, p *corev1.Pod, change func([]metav1.OwnerReference) []metav1.OwnerReference) error {
	p.OwnerReferences = change(p.OwnerReferences)
	return nil
}

func (w *world) SetStatus(_ context.Context, _ *Set, status appsv1.ReplicaSetStatus) error {
	w.status = append(w.status, status)
	w.set.Status = &status
	return nil
}

func (w *world) Record(_ runtime.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, kind+" "+reason+" "+message)
}

func (w *world) reconcile(t *testing.T) error {
	t.Helper()
	return New("replicaset", w, w, w, nil, nil).Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "web"})
}

func TestPodsAreMadeToldAndCounted(t *testing.T) {
	w := &world{set: newSet(3)}
	if err := w.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if len(w.pods) != 3 || len(w.status) != 1 || w.status[0].Replicas != 3 || w.status[0].ObservedGeneration != 1 {
		t.Errorf("%d pods, status %+v", len(w.pods), w.status)
	}
	if len(w.events) != 3 || !strings.HasPrefix(w.events[0], "Normal SuccessfulCreate Created pod: web-") {
		t.Error(w.events)
	}
	if err := w.reconcile(t); err != nil || len(w.status) != 1 {
		t.Errorf("a pass without need wrote: %v, %+v", err, w.status)
	}
	w.set.Replicas = 1
	if err := w.reconcile(t); err != nil || w.status[1].Replicas != 1 || *w.status[1].TerminatingReplicas != 2 {
		t.Errorf("%v, %+v", err, w.status)
	}
	if last := w.events[len(w.events)-1]; !strings.HasPrefix(last, "Normal SuccessfulDelete Deleted pod: web-") {
		t.Error(last)
	}
}

func TestARefusalIsToldAndTriedAgain(t *testing.T) {
	w := &world{set: newSet(100), refuse: apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))}
	err := w.reconcile(t)
	if err == nil || w.calls != 1 {
		t.Errorf("%v after %d calls", err, w.calls)
	}
	if c := w.status[0].Conditions; len(c) != 1 || c[0].Reason != "FailedCreate" || !strings.Contains(c[0].Message, "exceeded quota") {
		t.Errorf("%+v", c)
	}
	if len(w.events) != 1 || !strings.HasPrefix(w.events[0], "Warning FailedCreate Error creating: ") {
		t.Error(w.events)
	}
	w.refuse = nil
	if err := w.reconcile(t); err != nil || len(w.status[1].Conditions) != 0 || w.status[1].Replicas != 100 {
		t.Errorf("%v, %+v", err, w.status[1])
	}
	w.set.Replicas, w.refuse = 0, errors.New("disk full")
	if err := w.reconcile(t); err == nil || w.set.Status.Conditions[0].Reason != "FailedDelete" {
		t.Errorf("%v, %+v", err, w.set.Status)
	}
}

func TestANamespaceThatGoesIsNoFailure(t *testing.T) {
	refused := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("namespace is being terminated"))
	refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	w := &world{set: newSet(3), refuse: refused}
	if err := w.reconcile(t); err != nil || len(w.events) != 0 || len(w.set.Status.Conditions) != 0 {
		t.Errorf("%v, %v, %+v", err, w.events, w.set.Status)
	}
}

func TestASetThatIsGoneIsNone(t *testing.T) {
	w := &world{}
	if err := w.reconcile(t); err != nil {
		t.Error(err)
	}
}
