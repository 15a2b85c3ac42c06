// Package tainteviction evicts pods from nodes whose taints they do not tolerate, or no longer, and replaces a person where a node is lost.
//
// It watches Nodes and Pods; it adds the condition DisruptionTarget to pods, and deletes them: gracefully when the time is up that they tolerate the node's
// taints with NoExecute, counted from when a taint was added.
//
// A deleted pod is only gone for good when its node says so, and a lost node says nothing: the pod stays Terminating, and a StatefulSet does not make
// the next. Nodes that fence themselves make an end of that. The rule has two sides, and each counts from the same sign of life:
//
//	G  the grace of the node: what its lease says as its duration, and at the least what the control plane grants
//	s  the seconds for which the pod tolerates node.kubernetes.io/unreachable:NoExecute, by the first of its tolerations that matches; 0 without one
//	k  the pod's termination grace period, and Kill (10 s) at the most
//
// The node's agent counts from when it sent the last request to renew its lease that succeeded, with a clock that does not stop while the machine sleeps
// (CLOCK_BOOTTIME) and that nobody sets. At G+s it begins to stop the pod (SIGTERM), at G+s+k at the latest no process of it is left (SIGKILL). That holds while
// the agent itself does not run, or is started anew, too. A pod that was stopped so is only started again once a server has been heard again, says that the
// pod is there, and does not say that it is being deleted. An agent that keeps all this says so by the annotation sampan.dev/fences: "true" on its Node.
//
// The control plane counts from when it saw the last renewal, which is later than the agent sent it. When the node has been silent for
// (G+s+k) × 1.01 + Margin (4 s), what was written before has been seen, and the node still has the taint unreachable, it deletes the pod for good, if it was marked for deletion. The
// hundredth is for clocks that do not run alike. So a pod that tolerates 30 s and has 30 s to end is replaced 14.5 s after its toleration has ended, one that tolerates
// 300 s 17.2 s after.
//
// Time in which the store stands still counts on neither side, as nobody can renew in it. The control plane takes off all that its store has stood still since it saw the
// renewal, a stall that was noticed late whole: so it waits longer than the agent counts on, never shorter. An agent whose renewal fails asks all servers that it knows of. If
// each proves by TLS who it is and says that its store stands still, or its machine says that no server runs there, the agent takes off the time, up to when it asked, for which
// all say so; and nothing else, so that what it was silent for besides has passed on both sides. If no server runs at all it counts anew, as one that starts will. That is safe:
// while all say so no deletion can be written; what a server has said it takes off its own count, too, before it says it, so that whenever the store works again it has counted no
// more than the agent has; and a server that comes to lead later counts from then. A pod that was stopped is not started by it: nothing was heard of the node.
// Not covered is a server that leads and that the agent has not heard of: one that joined, and won, within the moment that it takes agents to be told.
// Always: a pod is deleted without its node's word only if its node has the annotation, is unreachable, and has been silent for that long; a pod that tolerates
// unreachable for ever never is.
package tainteviction

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// The agreement with agents that fence themselves.
const (
	Fences = "sampan.dev/fences" // annotation of a Node: "true"
	Kill   = 10 * time.Second    // the longest time that an agent gives a pod to end when it fences
	Margin = 4 * time.Second     // for timers that are late and processes that die slowly
)

// Config are the settings; the zero value works.
type Config struct {
	FenceMargin time.Duration // Margin, if zero
}

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Pod(key loop.Key) *corev1.Pod
	Node(name string) *corev1.Node
	PodsOn(node string) []*corev1.Pod
	// Silence is for how long the node has been silent, as far as has been seen, and the grace that it has.
	Silence(node string) (silent, grace time.Duration)
}

// API is what this controller writes. Each leaves a pod of another UID alone.
type API interface {
	UpdatePodStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error
	// EndPod deletes the pod with its own grace, DeletePod at once.
	EndPod(ctx context.Context, pod *corev1.Pod) error
	DeletePod(ctx context.Context, pod *corev1.Pod) error
	// Prove writes something and returns once all that was written before it is seen.
	Prove(ctx context.Context) error
}

// Recorder tells people.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller has one loop, whose keys are pods.
type Controller struct {
	*loop.Loop
	c      Config
	view   View
	api    API
	events Recorder
	log    *slog.Logger

	mu     sync.Mutex             // guards the fields below
	nodes  map[string]tainted     // that have taints which evict
	booked map[loop.Key]types.UID // pods whose time runs
}

// New makes the controller.
func New(cfg Config, view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.FenceMargin == 0 {
		cfg.FenceMargin = Margin
	}
	c := &Controller{c: cfg, view: view, api: api, events: events, log: log, nodes: map[string]tainted{}, booked: map[loop.Key]types.UID{}}
	c.Loop = loop.New("taint-eviction", c.Reconcile, loop.Options{Workers: 8, Metrics: metrics, Log: log})
	return c
}

// tainted is what is known of a node that has taints which evict.
type tainted struct {
	since  map[identity]time.Time // this process knows of the taint
	fences bool
}

// identity is what makes a taint the same one: a taint that was taken away and added again is another.
type identity struct {
	key, value string
	added      int64
}

func identify(t corev1.Taint) identity {
	id := identity{key: t.Key, value: t.Value}
	if t.TimeAdded != nil {
		id.added = t.TimeAdded.UnixNano()
	}
	return id
}

// NodeChanged says that a node has come, changed or gone: nil is none.
func (c *Controller) NodeChanged(name string, new *corev1.Node) {
	if !c.note(name, new) {
		return
	}
	for _, pod := range c.view.PodsOn(name) {
		c.Mark(loop.Key{Namespace: pod.Namespace, Name: pod.Name})
	}
}

// note remembers the node's taints, and reports whether anything has changed that matters to its pods.
func (c *Controller) note(name string, node *corev1.Node) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, is := c.nodes[name], tainted{since: map[identity]time.Time{}}
	if node != nil {
		is.fences = fences(node)
		for _, t := range executing(node) {
			id := identify(t)
			since, known := old.since[id]
			if !known {
				since, changed = time.Now(), true
			}
			is.since[id] = since
		}
	}
	if len(is.since) == 0 {
		delete(c.nodes, name)
		return len(old.since) > 0
	}
	c.nodes[name] = is
	return changed || len(is.since) != len(old.since) || is.fences != old.fences
}

// PodChanged says that a pod that is bound to the node has come or changed, or has gone.
func (c *Controller) PodChanged(key loop.Key, node string) {
	c.mu.Lock()
	_, taints := c.nodes[node]
	_, booked := c.booked[key]
	c.mu.Unlock()
	if taints || booked {
		c.Mark(key)
	}
}

// Reconcile looks after one pod.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	pod := c.view.Pod(key)
	if pod == nil {
		c.book(key, "", false)
		return nil
	}
	var taints []corev1.Taint
	f := Facts{Now: time.Now(), Margin: c.c.FenceMargin}
	if node := c.view.Node(pod.Spec.NodeName); node != nil {
		taints = executing(node)
		f.Fences = fences(node)
	}
	if pod.DeletionTimestamp != nil && f.Fences && len(taints) > 0 {
		f.Silent, f.Grace = c.view.Silence(pod.Spec.NodeName)
	}
	since := c.starting(pod.Spec.NodeName, taints, f.Now)
	p := Decide(pod, since, f)
	if p.Fence { // what we have seen may be old: a server that was cut off itself knows of no renewal
		if err := c.api.Prove(ctx); err != nil {
			return fmt.Errorf("write, before a pod is taken for dead: %w", err)
		}
		f.Silent, f.Grace = c.view.Silence(pod.Spec.NodeName)
		p = Decide(pod, since, f)
	}
	return c.apply(ctx, key, pod, p)
}

// starting gives each taint the time from which it counts: when it was added, or, if it does not say so or says a time that is still to come, when this
// process first saw it.
func (c *Controller) starting(node string, taints []corev1.Taint, now time.Time) []Since {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Since
	for _, t := range taints {
		s := Since{Taint: t}
		if t.TimeAdded != nil && !t.TimeAdded.After(now) {
			s.At = t.TimeAdded.Time
		} else if seen, known := c.nodes[node].since[identify(t)]; known {
			s.At = seen
		} else {
			s.At = now
		}
		all = append(all, s)
	}
	return all
}

// book notes whether the time of a pod runs, and reports whether it did before.
func (c *Controller) book(key loop.Key, pod types.UID, runs bool) (ran bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, known := c.booked[key]
	if runs {
		c.booked[key] = pod
	} else {
		delete(c.booked, key)
	}
	return known && was == pod
}

func (c *Controller) apply(ctx context.Context, key loop.Key, pod *corev1.Pod, p Plan) error {
	switch {
	case p.Fence:
		c.book(key, pod.UID, false)
		c.log.Info("pod removed: its node is lost and has fenced itself", "pod", key, "node", pod.Spec.NodeName)
		return c.fence(ctx, pod)
	case p.Evict:
		c.book(key, pod.UID, false)
		c.events.Record(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod "+key.String())
		return c.evict(ctx, pod)
	case p.Evicts:
		c.book(key, pod.UID, true)
	case c.book(key, pod.UID, false) && pod.DeletionTimestamp == nil:
		c.events.Record(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod "+key.String())
	}
	if p.Again > 0 {
		c.MarkAfter(key, p.Again)
	}
	return nil
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { target(s, pod.Generation, metav1.Now()) })
	if err == nil {
		err = c.api.EndPod(ctx, pod)
	}
	return done("evict", pod, err)
}

// fence deletes a pod that is not running any more, as its node has promised.
func (c *Controller) fence(ctx context.Context, pod *corev1.Pod) error {
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed { // whoever holds it by a finalizer waits for its end
		err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
		if err != nil {
			return done("update status of", pod, err)
		}
	}
	return done("delete", pod, c.api.DeletePod(ctx, pod))
}

func done(what string, pod *corev1.Pod, err error) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("%s pod %s/%s: %w", what, pod.Namespace, pod.Name, err)
}

// target says on the pod why it goes.
func target(s *corev1.PodStatus, generation int64, now metav1.Time) {
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: now, ObservedGeneration: generation,
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == condition.Type {
			if s.Conditions[i].Status == condition.Status {
				condition.LastTransitionTime = s.Conditions[i].LastTransitionTime
			}
			s.Conditions[i] = condition
			return
		}
	}
	s.Conditions = append(s.Conditions, condition)
}
