package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// fake is an API with one Service. What is written shows at once.
type fake struct {
	mu      sync.Mutex
	service *corev1.Service
	pods    []*corev1.Pod
	slices  []*discovery.EndpointSlice
	writes  []string
	events  []string
	refuse  func(verb string) error
}

func (f *fake) Scene(loop.Key) Scene {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Scene{Service: f.service, Pods: slices.Clone(f.pods), Slices: slices.Clone(f.slices), Zones: zones}
}

func (f *fake) write(verb string, do func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		if err := f.refuse(verb); err != nil {
			return err
		}
	}
	f.writes = append(f.writes, verb)
	do()
	return nil
}

func (f *fake) Create(_ context.Context, s *discovery.EndpointSlice) error {
	return f.write("create", func() {
		s = s.DeepCopy()
		s.Name, s.ResourceVersion = fmt.Sprint("web-", len(f.slices)+1), "1"
		f.slices = append(f.slices, s)
	})
}

func (f *fake) Update(_ context.Context, s *discovery.EndpointSlice) error {
	return f.write("update", func() {
		for i := range f.slices {
			if f.slices[i].Name == s.Name {
				f.slices[i] = s.DeepCopy()
			}
		}
	})
}

func (f *fake) Delete(_ context.Context, s *discovery.EndpointSlice) error {
	return f.write("delete", func() {
		f.slices = slices.DeleteFunc(f.slices, func(o *discovery.EndpointSlice) bool { return o.Name == s.Name })
	})
}

func (f *fake) Shown(context.Context) error { return nil }

func (f *fake) Record(_ runtime.Object, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, kind+" "+reason+" "+message)
}

// locked does something while the controller does nothing.
func (f *fake) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

var key = loop.Key{Namespace: "ns", Name: "web"}

// play runs the controller in time of its own.
func play(t *testing.T, f *fake, test func(t *testing.T, mark func())) {
	synctest.Test(t, func(t *testing.T) {
		c := New(f, f, f, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		test(t, func() { c.Mark(key); synctest.Wait() })
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (f *fake) expect(t *testing.T, writes ...string) {
	t.Helper()
	f.locked(func() {
		if !slices.Equal(f.writes, writes) {
			t.Errorf("it wrote %v, not %v", f.writes, writes)
		}
		f.writes = nil
	})
}

func TestASliceTellsWhenItsCauseWas(t *testing.T) {
	f := &fake{service: newService(), pods: pods(0, 1)}
	f.service.CreationTimestamp = metav1.Unix(1000, 0)
	trigger := func() (at string) {
		f.locked(func() { at = f.slices[0].Annotations[corev1.EndpointsLastChangeTriggerTime] })
		return at
	}
	play(t, f, func(t *testing.T, mark func()) {
		mark()
		f.expect(t, "create")
		if got := trigger(); got != "1970-01-01T00:16:40Z" {
			t.Error(got)
		}
		mark()
		f.expect(t)
		f.locked(func() {
			f.pods = pods(0, 1, unready)
			f.pods[0].Status.Conditions[0].LastTransitionTime = metav1.Unix(2000, 0)
		})
		mark()
		f.expect(t, "update")
		if got := trigger(); got != "1970-01-01T00:33:20Z" {
			t.Error(got)
		}
		f.locked(func() { f.pods = nil })
		mark()
		f.expect(t, "update")
		if got := trigger(); got != "" {
			t.Error("a pod that has gone tells no time:", got)
		}
	})
}

func TestServicesWhoseEndpointsAreNotPodsAreLeftAlone(t *testing.T) {
	for name, c := range map[string]change{
		"without selector": func(s *corev1.Service) { s.Spec.Selector = nil },
		"a name elsewhere": func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
	} {
		f := &fake{service: newService(c), slices: made(t, newService(), pods(0, 1))}
		play(t, f, func(t *testing.T, mark func()) {
			mark()
			f.expect(t)
			f.locked(func() { f.service = nil })
			mark()
			f.expect(t)
			if len(f.events) != 0 {
				t.Error(name, f.events)
			}
		})
	}
}

func TestASliceThatSomebodyWritesMeanwhileIsDecidedOnAgain(t *testing.T) {
	f := &fake{service: newService(), pods: pods(0, 2), slices: made(t, newService(), pods(0, 1))}
	refusals := []error{
		apierrors.NewConflict(discovery.Resource("endpointslices"), "web-1", nil), apierrors.NewNotFound(discovery.Resource("endpointslices"), "web-1"),
	}
	f.refuse = func(string) (err error) {
		if len(refusals) > 0 {
			err, refusals = refusals[0], refusals[1:]
		}
		return err
	}
	play(t, f, func(t *testing.T, mark func()) {
		mark()
		f.expect(t, "update")
		if len(f.events) != 0 {
			t.Error(f.events)
		}
	})
}

func TestAFailureIsToldAndTriedAgain(t *testing.T) {
	f := &fake{service: newService(), pods: pods(0, 1)}
	f.refuse = func(string) error { return errors.New("no room") }
	play(t, f, func(t *testing.T, mark func()) {
		mark()
		want := "Warning FailedToUpdateEndpointSlices Error updating Endpoint Slices for Service ns/web: failed to create EndpointSlice for Service ns/web: no room"
		f.locked(func() {
			if !slices.Equal(f.events, []string{want}) {
				t.Error(f.events)
			}
			f.refuse = nil
		})
		time.Sleep(time.Second)
		synctest.Wait()
		f.expect(t, "create")
	})
}

func TestAPodOnANodeThatIsNotThereWaitsForIt(t *testing.T) {
	f := &fake{service: newService(), pods: append(pods(0, 1), newPod(1, on("n9")))}
	play(t, f, func(t *testing.T, mark func()) {
		mark()
		f.expect(t, "create")
		want := "Warning FailedToUpdateEndpointSlices Error updating Endpoint Slices for Service ns/web: skipping Pod p1 for Service ns/web: Node n9 Not Found"
		f.locked(func() {
			if !slices.Equal(f.events, []string{want}) {
				t.Error(f.events)
			}
			f.pods[1] = newPod(1)
		})
		time.Sleep(time.Second)
		synctest.Wait()
		f.expect(t, "update")
	})
}

func TestANamespaceThatEndsGetsNoMore(t *testing.T) {
	f := &fake{service: newService(), pods: pods(0, 1)}
	f.refuse = func(string) error {
		err := apierrors.NewForbidden(discovery.Resource("endpointslices"), "", errors.New("it is being terminated"))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
		return err
	}
	play(t, f, func(t *testing.T, mark func()) {
		mark()
		time.Sleep(time.Hour)
		f.locked(func() {
			if len(f.events) != 0 {
				t.Error(f.events)
			}
		})
	})
}
