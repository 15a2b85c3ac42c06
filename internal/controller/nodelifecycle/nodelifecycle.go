// Package nodelifecycle says which nodes nobody hears of any more, and keeps the taints that follow from what a node says of itself.
//
// It watches Nodes, their Leases and their Pods; it writes conditions and taints of nodes, and makes the pods of a silent node not ready.
// A node is silent when neither its lease nor its heartbeat has changed for the grace period: ours, or the time for which the lease says that it is
// good, if that is longer. The clock is this process's own: what counts is when it has seen a change, never what time another machine wrote. And it stands while the store
// does: only time in which the store took writes counts, since nobody can renew a lease in the other. So that stalls are known of when they matter, four writes a second are
// made while a node is late; tainteviction counts by the same clock until it takes a node's pods for dead.
// Before a node is called silent, something is written and read again, so that a store or a process that stood still is not taken for a dead node:
// if that took long, or this process has not run for a while, the watch over all nodes begins anew.
//
// Taints with NoExecute, for which pods are evicted, come at one node a second in each zone (Kubernetes: one in ten seconds; pods could not be elsewhere
// in time). They go, and none comes, while all nodes of the cluster are not ready, or most of those of a zone, or of the cluster, of up to 50 nodes: 55 % and two
// nodes at the least (Kubernetes: three). In a larger zone that has lost most nodes one comes in 100 seconds. A zone that is lost as a whole is evicted
// if most of the cluster is well.
// Always: a node that is heard of is never called silent; what a node says of itself is not changed while it is heard of.
package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// The times that fit together: a node that dies is noticed within 10 s of its last sign of life.
const (
	// Grace is how long a node may be silent, and what agents write as the duration of their leases.
	Grace = 9 * time.Second
	// Renew is how often agents renew their leases.
	Renew = Grace * 5 / 9
	// StartupGrace is how long a node that has never said how it is may be silent.
	StartupGrace = 60 * time.Second
)

// pulse is how often the controller looks whether it runs itself.
const pulse = time.Second

// Config are the settings; the zero value works.
type Config struct {
	Grace        time.Duration // Grace, if zero
	StartupGrace time.Duration // StartupGrace, if zero
	// Stalled is for how much of the time the store has stood still, from the beginning until now; it never becomes less. Nil: it never does.
	Stalled func() time.Duration
	// Connections knows which agents watch through this process. One that breaks off and is not heard of again is in doubt sooner; if it broke off before the
	// watch over all nodes began anew, its grace counts from then. Nil: nothing is known of that.
	Connections *Connections
}

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Node(name string) *corev1.Node
	PodsOn(node string) []*corev1.Pod
}

// API is what this controller writes.
type API interface {
	// UpdateNode and UpdateNodeStatus write a changed copy, unless the node has changed since it was read.
	UpdateNode(ctx context.Context, node *corev1.Node) error
	UpdateNodeStatus(ctx context.Context, node *corev1.Node) error
	// UpdatePodStatus changes the status, unless the pod is gone or has another UID.
	UpdatePodStatus(ctx context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error
	// Prove writes something and returns once all that was written before it is seen.
	Prove(ctx context.Context) error
}

// Recorder tells people.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller has one loop, whose keys are names of nodes.
type Controller struct {
	*loop.Loop
	view   View
	api    API
	events Recorder
	log    *slog.Logger
	watch  watch
	zones  zones
	trying sync.Mutex // held by the worker that sees how long a write takes
}

// New makes the controller.
func New(c Config, view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if c.Grace == 0 {
		c.Grace = Grace
	}
	if c.StartupGrace == 0 {
		c.StartupGrace = StartupGrace
	}
	ctl := &Controller{view: view, api: api, events: events, log: log, watch: newWatch(c), zones: newZones()}
	ctl.Loop = loop.New("node-lifecycle", ctl.Reconcile, loop.Options{Workers: 8, Metrics: metrics, Log: log})
	return ctl
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	c.watch.begin(time.Now())
	defer c.watch.c.Connections.follow(c)()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(pulse)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				c.checkSelf()
			}
		}
	}()
	err := c.Loop.Run(ctx)
	<-done
	return err
}

// checkSelf begins the watch anew if this process has not run for a while.
func (c *Controller) checkSelf() {
	if slept := c.watch.pulse(time.Now()); slept > 0 {
		c.log.Warn("this process stood still: the watch over all nodes begins anew", "for", slept)
	}
}

// NodeChanged says that a node has come, changed or gone: nil is none.
func (c *Controller) NodeChanged(name string, old, new *corev1.Node) {
	switch {
	case old == nil && new != nil:
		c.events.Record(new, corev1.EventTypeNormal, "RegisteredNode", fmt.Sprintf("Node %s event: Registered Node %s in Controller", name, name))
	case old != nil && new == nil:
		c.events.Record(old, corev1.EventTypeNormal, "RemovingNode", fmt.Sprintf("Node %s event: Removing Node %s from Controller", name, name))
	}
	if new == nil {
		c.watch.forget(name)
	} else {
		c.watch.heartbeat(name, beat(old), beat(new), time.Now())
	}
	for _, other := range c.zones.set(name, new) {
		c.again(other)
	}
	if new != nil {
		c.again(name)
	}
}

// again has a node looked at whole.
func (c *Controller) again(name string) {
	c.watch.changed(name)
	c.Mark(loop.Key{Name: name})
}

// LeaseChanged says that the node's lease has been renewed, and how long it is good.
func (c *Controller) LeaseChanged(name string, lasts time.Duration) {
	if c.watch.renewed(name, lasts, time.Now()) {
		c.again(name)
	}
}

// Silence is for how long at the least nothing has been seen of the node while the store worked, and the grace that it has.
func (c *Controller) Silence(node string) (silent, grace time.Duration) {
	return c.watch.silence(node, time.Now())
}

// Reconcile looks after one node.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	c.checkSelf()
	if left := c.watch.settledFor(key.Name, time.Now()); left > 0 {
		c.MarkAfter(key, left)
		return nil
	}
	changes := c.watch.changes(key.Name)
	node := c.view.Node(key.Name)
	if node == nil {
		c.watch.forget(key.Name)
		return nil
	}
	var err error
	left := c.watch.left(node, time.Now())
	next := c.watch.doubtful(node, left, time.Now())
	if left <= 0 && !evicting(node) || next <= 0 && !lost(node) {
		if err = c.prove(ctx, pulse); err != nil {
			return err
		}
		if node = c.view.Node(key.Name); node == nil {
			return nil
		}
		left = c.watch.left(node, time.Now())
		next = c.watch.doubtful(node, left, time.Now())
	}
	if next <= 0 {
		if err = c.silent(ctx, node); err != nil {
			return err
		}
		if node = c.view.Node(key.Name); node == nil { // with its new conditions
			return nil
		}
		next = left
	} else if !lost(node) {
		if next, err = c.doubt(ctx, node, next); err != nil {
			return err
		}
	}
	if next > 0 {
		c.MarkAfter(key, next)
	}
	if err := c.taint(ctx, node, left <= 0); err != nil {
		return err
	}
	if left > 0 && !lost(node) && executing(node) == "" && condition(node.Status.Conditions, corev1.NodeReady) != nil {
		c.watch.settle(key.Name, changes)
	}
	return nil
}

// late is how much of its grace a node has left when its renewal is late; closely is how often something is written then.
const (
	late    = Grace - Renew - pulse/4
	closely = pulse / 10
)

// doubt says when to look at a node again that has so much of its grace left. While the node is late it is soon, and something is written, so that a store that stands still
// shows in Stalled also where nobody else writes through this server.
func (c *Controller) doubt(ctx context.Context, node *corev1.Node, left time.Duration) (next time.Duration, err error) {
	switch {
	case c.watch.c.Stalled == nil:
		return left, nil
	case left > late:
		return left - late, nil
	}
	if !c.trying.TryLock() {
		return closely, nil // another node's worker is about it
	}
	defer c.trying.Unlock()
	if err := c.prove(ctx, closely); err != nil {
		return 0, err
	}
	now := time.Now()
	left = c.watch.doubtful(node, c.watch.left(node, now), now)
	return max(min(left, c.watch.proofDue(now, closely)), time.Millisecond), nil
}

// prove makes sure that it is not us who stand still, unless that was made sure of so short a time ago.
func (c *Controller) prove(ctx context.Context, every time.Duration) error {
	from := time.Now()
	if c.watch.proofDue(from, every) > 0 {
		return nil
	}
	err := c.api.Prove(ctx)
	if err != nil {
		c.watch.begin(time.Now())
		return fmt.Errorf("write, before a node is called silent: %w", err)
	}
	if took := c.watch.proved(from, time.Now()); took > 0 {
		c.log.Warn("the store is slow: the watch over all nodes begins anew", "took", took)
	}
	return nil
}

// silent says of a node, and of its pods, that nobody hears of it.
func (c *Controller) silent(ctx context.Context, node *corev1.Node) error {
	was := condition(node.Status.Conditions, corev1.NodeReady)
	if !lost(node) {
		next := node.DeepCopy()
		next.Status.Conditions = Unknown(node.Status.Conditions, node.CreationTimestamp, time.Now())
		if err := c.api.UpdateNodeStatus(ctx, next); err != nil {
			return c.written(node, fmt.Errorf("update conditions of node %s: %w", node.Name, err))
		}
		c.log.Warn("nothing is heard of a node", "node", node.Name)
		if was != nil && was.Status == corev1.ConditionTrue {
			c.events.Record(node, corev1.EventTypeNormal, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", node.Name))
		}
	}
	var errs []error
	for _, pod := range c.view.PodsOn(node.Name) {
		if !ready(pod) {
			continue
		}
		now := time.Now()
		if err := c.api.UpdatePodStatus(ctx, pod, func(s *corev1.PodStatus) { unready(s, pod.Generation, now) }); err != nil {
			errs = append(errs, gone(fmt.Errorf("update status of pod %s/%s: %w", pod.Namespace, pod.Name, err)))
			continue
		}
		c.events.Record(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errors.Join(errs...)
}

// taint brings the node's taints in line with its conditions. A node that is unreachable but not silent for all of its grace gets none by which pods are evicted:
// its agent would not have stopped them by the time that they are made elsewhere.
func (c *Controller) taint(ctx context.Context, node *corev1.Node, silent bool) error {
	now := time.Now()
	rule := Keep
	key := executing(node)
	switch {
	case key == "":
	case c.zones.halted(node):
		rule = Spare
	case !evicting(node) && (silent || key != corev1.TaintNodeUnreachable):
		may, wait := c.zones.take(node, now)
		if may {
			rule = Evict
		} else if wait > 0 {
			c.MarkAfter(loop.Key{Name: node.Name}, wait)
		}
	}
	want := Taints(node, rule, now)
	if sameTaints(want, node.Spec.Taints) {
		return nil
	}
	next := node.DeepCopy()
	next.Spec.Taints = want
	if err := c.api.UpdateNode(ctx, next); err != nil {
		if rule == Evict {
			c.zones.giveBack(node)
		}
		return c.written(node, fmt.Errorf("taint node %s: %w", node.Name, err))
	}
	return nil
}

// written looks at a node again that somebody else has changed meanwhile.
func (c *Controller) written(node *corev1.Node, err error) error {
	if apierrors.IsConflict(err) {
		c.again(node.Name)
		return nil
	}
	return gone(err)
}

// gone makes nothing of an error about what is no longer there.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
