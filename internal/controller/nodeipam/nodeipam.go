// Package nodeipam gives each node its own part of the cluster's ranges for pods.
//
// It watches Nodes; it writes spec.podCIDR and spec.podCIDRs of those that have none: of each range the lowest block that no node has, a /24 of IPv4 and a /64
// of IPv6. A node that brings its own keeps it. What a node had is free once the node is gone.
// Always: no block that overlaps what another node has in the snapshot is given, and it is written only if the node has not changed since.
package nodeipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// Config says what there is to give.
type Config struct {
	Ranges       []netip.Prefix // of pods, one of each family, the default first
	Size4, Size6 int            // bits of a node's block; 24 and 64 if zero
}

// View shows all nodes of one snapshot, which are shared.
type View interface{ Nodes() []*corev1.Node }

// API is what this controller writes.
type API interface {
	// UpdateNode writes a changed copy, unless the node has changed since it was read.
	UpdateNode(ctx context.Context, node *corev1.Node) error
}

// Recorder tells people.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller has one loop with one key: all nodes are looked at together, by one worker.
type Controller struct {
	*loop.Loop
	c      Config
	view   View
	api    API
	events Recorder
	told   map[types.UID]bool // that there was nothing for them; only Reconcile knows it
}

// New makes the controller.
func New(c Config, view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	if c.Size4 == 0 {
		c.Size4 = 24
	}
	if c.Size6 == 0 {
		c.Size6 = 64
	}
	ctl := &Controller{c: c, view: view, api: api, events: events, told: map[types.UID]bool{}}
	ctl.Loop = loop.New("node-ipam", ctl.Reconcile, loop.Options{Workers: 1, Metrics: metrics, Log: log})
	return ctl
}

// NodeChanged says that a node has come or gone, or has other ranges.
func (c *Controller) NodeChanged() { c.Mark(loop.Key{Name: "nodes"}) }

// Reconcile gives all nodes what they lack.
func (c *Controller) Reconcile(ctx context.Context, _ loop.Key) error {
	plan := Decide(c.view.Nodes(), c.c)
	var errs []error
	for _, gift := range plan.Give {
		next := gift.Node.DeepCopy()
		for _, p := range gift.Blocks {
			next.Spec.PodCIDRs = append(next.Spec.PodCIDRs, p.String())
		}
		next.Spec.PodCIDR = next.Spec.PodCIDRs[0]
		err := c.api.UpdateNode(ctx, next)
		switch {
		case apierrors.IsConflict(err):
			c.NodeChanged() // somebody else has changed it: look at all again
		case err != nil && !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("give node %s the range %s: %w", next.Name, next.Spec.PodCIDR, err))
		}
	}
	told := map[types.UID]bool{}
	for _, node := range plan.Without {
		if !c.told[node.UID] {
			c.events.Record(node, corev1.EventTypeNormal, "CIDRNotAvailable", fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name))
		}
		told[node.UID] = true
	}
	c.told = told
	return errors.Join(errs...)
}
