package disruption

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// fake is an API with one budget and its pods. What is written shows at once.
type fake struct {
	mu     sync.Mutex
	budget *policyv1.PodDisruptionBudget
	pods   []*corev1.Pod
	writes int
	meant  int // conflicts to answer before the next write passes
	events []string
}

func (f *fake) Budget(loop.Key) (*policyv1.PodDisruptionBudget, []*corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.budget.DeepCopy(), slices.Clone(f.pods)
}

func (f *fake) Pod(key loop.Key) *corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.Name == key.Name {
			return p.DeepCopy()
		}
	}
	return nil
}

func (f *fake) Scale(_ string, ref metav1.OwnerReference) (*Scale, error) { return world(ref) }

func (f *fake) SetStatus(_ context.Context, _ *policyv1.PodDisruptionBudget, s policyv1.PodDisruptionBudgetStatus) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.meant > 0 {
		f.meant--
		return apierrors.NewConflict(policyv1.Resource("poddisruptionbudgets"), "b", nil)
	}
	f.writes++
	f.budget.Status = s
	return nil
}

func (f *fake) UpdatePodStatus(_ context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.Name == pod.Name {
			change(&p.Status)
		}
	}
	return nil
}

func (f *fake) Record(_ runtime.Object, _, reason, _ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, reason)
}

// locked does something while the controller does nothing.
func (f *fake) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// play runs the controller in time of its own.
func play(t *testing.T, f *fake, test func(t *testing.T, c *Controller)) {
	synctest.Test(t, func(t *testing.T) {
		c := New(f, f, f, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		test(t, c)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAnEvictedPodThatDoesNotGoCountsAgainAfterTwoMinutes(t *testing.T) {
	f := &fake{budget: newBudget(atLeast("1")), pods: pods(2)}
	play(t, f, func(t *testing.T, c *Controller) {
		f.locked(func() { f.budget.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.Now()} })
		c.Mark(loop.Key{Namespace: "ns", Name: "b"})
		synctest.Wait()
		f.locked(func() {
			if s := f.budget.Status; s.DisruptionsAllowed != 0 || s.CurrentHealthy != 1 || len(f.events) != 0 {
				t.Errorf("%+v %v", s, f.events)
			}
		})
		time.Sleep(Timeout - time.Second)
		synctest.Wait()
		f.locked(func() {
			if f.budget.Status.CurrentHealthy != 1 {
				t.Error("it has given up too early")
			}
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		var writes int
		f.locked(func() {
			if s := f.budget.Status; s.DisruptionsAllowed != 1 || len(s.DisruptedPods) != 0 || !slices.Equal(f.events, []string{"NotDeleted"}) {
				t.Errorf("%+v %v", s, f.events)
			}
			writes = f.writes
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		f.locked(func() {
			if f.writes != writes {
				t.Error("it goes on writing")
			}
		})
	})
}

func TestAStatusThatCameTooLateIsComputedAgain(t *testing.T) {
	f := &fake{budget: newBudget(atLeast("1")), pods: pods(2), meant: 2}
	play(t, f, func(t *testing.T, c *Controller) {
		c.Mark(loop.Key{Namespace: "ns", Name: "b"})
		synctest.Wait()
		f.locked(func() {
			if f.writes != 1 || f.meant != 0 || f.budget.Status.DisruptionsAllowed != 1 {
				t.Errorf("%d writes, %+v", f.writes, f.budget.Status)
			}
		})
	})
}

func TestAnAnnouncementThatDidNotComeTrueIsTakenBack(t *testing.T) {
	f := &fake{budget: newBudget(), pods: pods(1)}
	play(t, f, func(t *testing.T, c *Controller) {
		f.locked(func() {
			f.pods[0].Status.Conditions = append(f.pods[0].Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", LastTransitionTime: metav1.Now(),
			})
		})
		c.PodDisrupted(loop.Key{Namespace: "ns", Name: "p0"})
		time.Sleep(Timeout - time.Second)
		synctest.Wait()
		f.locked(func() {
			if got := f.pods[0].Status.Conditions[1]; got.Status != corev1.ConditionTrue {
				t.Errorf("too early: %+v", got)
			}
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		f.locked(func() {
			if got := f.pods[0].Status.Conditions[1]; got.Status != corev1.ConditionFalse || got.Reason != "" || got.Message != "" {
				t.Errorf("%+v", got)
			}
		})
	})
}
