// Package autoscale keeps the replicas of what a HorizontalPodAutoscaler points to at what its metrics ask for.
//
// It watches HorizontalPodAutoscalers, and reads the scale of their targets, the targets' pods and what is measured of them; it writes the
// targets' scale and the autoscalers' status. Always: it looks at each autoscaler every 15 seconds, and at nothing where there is none; a target
// is rescaled only if its replicas still are what was decided on; no target leaves its autoscaler's bounds by its doing.
package autoscale

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// Period is how often each autoscaler is looked at.
const Period = 15 * time.Second

// View shows the current objects, which are shared.
type View interface {
	Autoscaler(key loop.Key) *autoscalingv2.HorizontalPodAutoscaler // nil if there is none
	// Target is the scale of what an autoscaler points to.
	Target(h *autoscalingv2.HorizontalPodAutoscaler) (Target, error)
	Pods(namespace string, selector labels.Selector) []*corev1.Pod
}

// API is what this controller writes.
type API interface {
	// Rescale sets the target's replicas, if they still are what t says.
	Rescale(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, t Target, replicas int32) error
	// SetStatus sets the status of the autoscaler of that UID.
	SetStatus(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) error
}

// Metrics is what is measured. Amounts are in thousandths.
type Metrics interface {
	// Resource is what pods use of a resource: the named container of them, or all if there is no name.
	Resource(ctx context.Context, name corev1.ResourceName, namespace string, pods labels.Selector, container string) (map[string]PodMetric, error)
	// Pods is a metric that each pod has.
	Pods(ctx context.Context, metric, namespace string, pods, of labels.Selector) (map[string]PodMetric, error)
	// Object is a metric of one object.
	Object(ctx context.Context, metric, namespace string, object autoscalingv2.CrossVersionObjectReference, of labels.Selector) (int64, error)
	// External is a metric from outside the cluster, each of its series.
	External(ctx context.Context, metric, namespace string, of labels.Selector) ([]int64, error)
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view    View
	api     API
	metrics Metrics
	events  Recorder

	mu        sync.Mutex // guards the fields below
	memory    map[loop.Key]Memory
	selectors map[string]map[string]labels.Selector // of the targets' pods, by namespace and name of the autoscaler
}

// New makes the controller.
func New(view View, api API, measure Metrics, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, metrics: measure, events: events, memory: map[loop.Key]Memory{}, selectors: map[string]map[string]labels.Selector{}}
	c.Loop = loop.New("autoscale", c.Reconcile, loop.Options{Workers: 5, Metrics: metrics, Log: log})
	return c
}

// Reconcile looks at one autoscaler, and comes back to it after a period. What fails is told by the autoscaler's conditions.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	h := c.view.Autoscaler(key)
	if h == nil {
		c.forget(key)
		return nil
	}
	c.MarkAfter(key, Period)
	plan := c.plan(ctx, key, h)
	if plan.Rescale {
		if err := c.api.Rescale(ctx, h, plan.Target, plan.Replicas); err != nil {
			plan = plan.Failed(err, h.Status.DesiredReplicas, time.Now())
		} else {
			plan = plan.Done(time.Now())
		}
	}
	c.remember(key, plan.Memory)
	for _, e := range plan.Events {
		c.events.Record(h, e.Type, e.Reason, e.Words)
	}
	if equality.Semantic.DeepEqual(&plan.Status, &h.Status) {
		return nil
	}
	err := c.api.SetStatus(ctx, h, plan.Status)
	if err != nil && !apierrors.IsNotFound(err) {
		c.events.Record(h, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		return fmt.Errorf("set status: %w", err)
	}
	return nil
}

// plan reads what there is, and decides.
func (c *Controller) plan(ctx context.Context, key loop.Key, h *autoscalingv2.HorizontalPodAutoscaler) Plan {
	m := c.recall(key)
	t, err := c.view.Target(h)
	if err != nil {
		return Unreachable(h, m, err, time.Now())
	}
	var seen Seen
	if selector, err := labels.Parse(t.Selector); err == nil && t.Selector != "" && Asks(h, t) {
		seen.Pods = c.view.Pods(h.Namespace, selector)
		if seen.Rivals = c.rivals(key, selector, seen.Pods); len(seen.Rivals) < 2 {
			seen.Samples = c.measure(ctx, h, selector)
		}
	}
	return Decide(h, t, seen, m, time.Now())
}

// measure takes a sample for each metric.
func (c *Controller) measure(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, pods labels.Selector) []Sample {
	samples := make([]Sample, len(h.Spec.Metrics))
	for i := range h.Spec.Metrics {
		s := &samples[i]
		switch m := &h.Spec.Metrics[i]; {
		case m.Resource != nil:
			s.Pods, s.Err = c.metrics.Resource(ctx, m.Resource.Name, h.Namespace, pods, "")
		case m.ContainerResource != nil:
			s.Pods, s.Err = c.metrics.Resource(ctx, m.ContainerResource.Name, h.Namespace, pods, m.ContainerResource.Container)
		case m.Pods != nil:
			s.of(m.Pods.Metric.Selector, func(of labels.Selector) (err error) {
				s.Pods, err = c.metrics.Pods(ctx, m.Pods.Metric.Name, h.Namespace, pods, of)
				return err
			})
		case m.Object != nil:
			s.of(m.Object.Metric.Selector, func(of labels.Selector) error {
				v, err := c.metrics.Object(ctx, m.Object.Metric.Name, h.Namespace, m.Object.DescribedObject, of)
				s.Values = []int64{v}
				return err
			})
		case m.External != nil:
			s.of(m.External.Metric.Selector, func(of labels.Selector) (err error) {
				s.Values, err = c.metrics.External(ctx, m.External.Metric.Name, h.Namespace, of)
				return err
			})
		}
	}
	return samples
}

// of reads a metric by its selector; without one, all of it.
func (s *Sample) of(selector *metav1.LabelSelector, read func(labels.Selector) error) {
	of := labels.Everything()
	if selector != nil {
		var err error
		if of, err = metav1.LabelSelectorAsSelector(selector); err != nil {
			s.Err = err
			return
		}
	}
	s.Err = read(of)
}

func (c *Controller) recall(key loop.Key) Memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.memory[key]
}

func (c *Controller) remember(key loop.Key, m Memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory[key] = m
}

func (c *Controller) forget(key loop.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.memory, key)
	if delete(c.selectors[key.Namespace], key.Name); len(c.selectors[key.Namespace]) == 0 {
		delete(c.selectors, key.Namespace)
	}
}

// rivals notes what an autoscaler selects, and names those that select any of its pods: by namespace and name, sorted.
func (c *Controller) rivals(key loop.Key, selector labels.Selector, pods []*corev1.Pod) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.selectors[key.Namespace] == nil {
		c.selectors[key.Namespace] = map[string]labels.Selector{}
	}
	c.selectors[key.Namespace][key.Name] = selector
	for name, s := range c.selectors[key.Namespace] {
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return s.Matches(labels.Set(p.Labels)) }) {
			names = append(names, key.Namespace+"/"+name)
		}
	}
	slices.Sort(names)
	return names
}
