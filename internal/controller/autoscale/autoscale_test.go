package autoscale

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// fake is an API with some autoscalers of one target, whose pods all use the same.
type fake struct {
	mu      sync.Mutex
	all     map[string]*autoscalingv2.HorizontalPodAutoscaler
	target  Target
	uses    int64 // thousandths of a CPU, each pod; negative: nothing is measured
	broken  error // of the target's scale
	refuses error // to be rescaled
	looks   int
	sizes   []int32
	events  []string
}

func (f *fake) Autoscaler(key loop.Key) *autoscalingv2.HorizontalPodAutoscaler {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[key.Name].DeepCopy()
}

func (f *fake) Target(*autoscalingv2.HorizontalPodAutoscaler) (Target, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.target, f.broken
}

func (f *fake) Pods(_ string, s labels.Selector) []*corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(pods(int(f.target.Have)), func(p *corev1.Pod) bool { return !s.Matches(labels.Set(p.Labels)) })
}

func (f *fake) Rescale(_ context.Context, _ *autoscalingv2.HorizontalPodAutoscaler, t Target, n int32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses != nil {
		return f.refuses
	}
	if t.Wanted != f.target.Wanted || t.UID != f.target.UID {
		return errors.New("another target")
	}
	f.target.Wanted, f.target.Have = n, n
	f.sizes = append(f.sizes, n)
	return nil
}

func (f *fake) SetStatus(_ context.Context, h *autoscalingv2.HorizontalPodAutoscaler, s autoscalingv2.HorizontalPodAutoscalerStatus) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[h.Name].Status = s
	return nil
}

// load is what the target's pods use.
type load struct {
	None
	of *fake
}

func (l load) Resource(ctx context.Context, name corev1.ResourceName, ns string, of labels.Selector, container string) (map[string]PodMetric, error) {
	var uses int64
	l.of.locked(func() { uses = l.of.uses })
	if uses < 0 {
		return l.None.Resource(ctx, name, ns, of, container)
	}
	m := map[string]PodMetric{}
	for _, p := range l.of.Pods(ns, of) {
		m[p.Name] = PodMetric{At: time.Now(), Window: time.Minute, Value: uses}
	}
	return m, nil
}

func (f *fake) Record(_ runtime.Object, _, reason, words string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, reason+": "+words)
}

// locked does something while the controller does nothing.
func (f *fake) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// play runs the controller in time of its own, with autoscalers of these names.
func play(t *testing.T, f *fake, names []string, test func(t *testing.T, c *Controller)) {
	synctest.Test(t, func(t *testing.T) {
		f.all = map[string]*autoscalingv2.HorizontalPodAutoscaler{}
		c := New(f, f, load{of: f}, f, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		for _, name := range names {
			h := newAutoscaler(t, cpuHalf)
			h.Name = name
			f.locked(func() { f.all[name] = h })
			c.Mark(loop.Key{Namespace: "ns", Name: name})
		}
		synctest.Wait()
		test(t, c)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestItLooksEveryFifteenSecondsAndOnlyWhileThereIsOne(t *testing.T) {
	f := &fake{target: scale(4), uses: 500}
	play(t, f, []string{"h"}, func(t *testing.T, c *Controller) {
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		f.locked(func() {
			if f.looks != 5 || len(f.sizes) != 0 {
				t.Errorf("%d looks, sizes %v", f.looks, f.sizes)
			}
			delete(f.all, "h")
		})
		c.Mark(loop.Key{Namespace: "ns", Name: "h"})
		time.Sleep(time.Hour)
		synctest.Wait()
		f.locked(func() {
			if f.looks != 5 {
				t.Errorf("nothing is left, but %d looks", f.looks)
			}
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.memory)+len(c.selectors) != 0 {
			t.Errorf("%v and %v are left", c.memory, c.selectors)
		}
	})
}

func TestReplicasFollowTheLoad(t *testing.T) {
	f := &fake{target: scale(4), uses: 1000}
	play(t, f, []string{"h"}, func(t *testing.T, _ *Controller) {
		time.Sleep(Period)
		synctest.Wait()
		f.locked(func() { f.uses = 100 }) // it is over: after five minutes they go
		time.Sleep(5*time.Minute - 2*Period)
		synctest.Wait()
		f.locked(func() {
			if !slices.Equal(f.sizes, []int32{8, 10}) {
				t.Errorf("up: %v", f.sizes)
			}
		})
		time.Sleep(4 * Period)
		synctest.Wait()
		f.locked(func() {
			if !slices.Equal(f.sizes, []int32{8, 10, 2}) {
				t.Errorf("down: %v", f.sizes)
			}
			s := f.all["h"].Status
			if s.CurrentReplicas != 2 || s.DesiredReplicas != 2 || s.LastScaleTime == nil || *s.CurrentMetrics[0].Resource.Current.AverageUtilization != 10 {
				t.Errorf("%+v", s)
			}
			want := []string{
				"SuccessfulRescale: New size: 8; reason: cpu resource utilization (percentage of request) above target",
				"SuccessfulRescale: New size: 10; reason: cpu resource utilization (percentage of request) above target",
				"SuccessfulRescale: New size: 2; reason: All metrics below target",
			}
			if !slices.Equal(f.events, want) {
				t.Errorf("%s", strings.Join(f.events, "\n"))
			}
		})
	})
}

func TestWithoutMetricsItSaysSo(t *testing.T) {
	f := &fake{target: scale(4), uses: -1}
	play(t, f, []string{"h"}, func(t *testing.T, _ *Controller) {
		const why = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"
		f.locked(func() {
			got := f.all["h"].Status.Conditions
			if len(got) != 2 || got[0].Reason != "SucceededGetScale" || got[1].Reason != "FailedGetResourceMetric" || got[1].Message != "the HPA was unable to compute the replica count: "+why {
				t.Errorf("%+v", got)
			}
			if len(f.events) != 2 || f.events[0] != "FailedGetResourceMetric: "+why || !strings.HasPrefix(f.events[1], "FailedComputeMetricsReplicas: ") {
				t.Errorf("%q", f.events)
			}
		})
	})
}

func TestWhatItCannotDoItTriesAgain(t *testing.T) {
	f := &fake{target: scale(4), uses: 1000, refuses: errors.New("not now")}
	play(t, f, []string{"h"}, func(t *testing.T, _ *Controller) {
		f.locked(func() {
			if got := f.all["h"].Status; got.Conditions[0].Reason != "FailedUpdateScale" || got.DesiredReplicas != 7 {
				t.Errorf("%+v", got)
			}
			f.refuses, f.broken = nil, errors.New("nobody is there")
		})
		time.Sleep(Period)
		synctest.Wait()
		f.locked(func() {
			if got := f.all["h"].Status.Conditions[0]; got.Reason != "FailedGetScale" || got.Message != "the HPA controller was unable to get the target's current scale: nobody is there" {
				t.Errorf("%+v", got)
			}
			f.broken = nil
		})
		time.Sleep(Period)
		synctest.Wait()
		f.locked(func() {
			if got := f.all["h"].Status; got.Conditions[0].Reason != "SucceededRescale" || got.DesiredReplicas != 8 {
				t.Errorf("%+v", got)
			}
		})
	})
}

func TestTwoAutoscalersOfTheSamePodsDoNothing(t *testing.T) {
	f := &fake{target: scale(4), uses: 500}
	play(t, f, []string{"g", "h"}, func(t *testing.T, c *Controller) {
		f.locked(func() { f.uses = 1000 })
		time.Sleep(Period)
		synctest.Wait()
		f.locked(func() {
			const why = "pods by selector app=web are controlled by multiple HPAs: [ns/g ns/h]"
			for name, h := range f.all {
				if got := h.Status.Conditions[1]; got.Reason != "AmbiguousSelector" || got.Message != why {
					t.Errorf("%s: %+v", name, got)
				}
			}
			delete(f.all, "g")
		})
		c.Mark(loop.Key{Namespace: "ns", Name: "g"})
		time.Sleep(Period)
		synctest.Wait()
		f.locked(func() {
			if !slices.Equal(f.sizes, []int32{8}) {
				t.Errorf("one is left: %v", f.sizes)
			}
		})
	})
}
