package clustertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// A simulated node's lease lasts so long that no slow machine lets it run out; that of a node that is cut off ends at once, and what is left is the grace of
// the control plane.
const (
	leaseEvery  = 10 * time.Second
	leaseLasts  = 120 * time.Second
	silentGrace = 4 * time.Second
)

// renew renews the leases of all nodes that are not cut off, until ctx ends.
func (f *fleet) renew(ctx context.Context) error {
	t := time.NewTicker(leaseEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for o := range f.c.Cache.Snapshot().List(f.nodes, cache.Selection{}) {
			if f.isSilent(o.Name()) {
				continue
			}
			if err := f.lease(ctx, o.Name(), leaseLasts); err != nil && ctx.Err() == nil {
				return fmt.Errorf("renew lease of node %s: %w", o.Name(), err)
			}
		}
	}
}

func (f *fleet) lease(ctx context.Context, node string, lasts time.Duration) error {
	kind, _ := f.c.Table.ByKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	now := metav1.NowMicro()
	spec := coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: new(int32(lasts / time.Second)), RenewTime: &now}
	_, _, err := f.c.Registry.Update(ctx, kind, "", corev1.NamespaceNodeLease, node, func(current resource.Object) (resource.Object, error) {
		l, ok := current.(*coordinationv1.Lease)
		if !ok {
			return nil, apierrors.NewNotFound(kind.GroupResource(), node)
		}
		l.ResourceVersion, l.Spec = "", spec
		return l, nil
	}, metav1.UpdateOptions{})
	for apierrors.IsNotFound(err) {
		seen := f.c.Cache.Snapshot().Revision()
		_, err = f.c.Registry.Create(ctx, kind, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node}, Spec: spec}, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) { // a cluster that has only just begun makes the namespace in a moment
			if waited := f.c.Cache.Wait(ctx, seen+1); waited != nil {
				return errors.Join(err, waited)
			}
		}
	}
	return err
}

func (f *fleet) isSilent(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.silent[node]
}

func (f *fleet) setSilent(node string, silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[node] = silent
}

// hear lets a node act that was cut off: it finds its pods as they are now.
func (f *fleet) hear(ctx context.Context, node string) error {
	f.setSilent(node, false)
	for o := range f.c.Cache.Snapshot().List(f.pods, cache.Selection{}) {
		if o.Field("spec.nodeName") == node {
			f.Mark(loop.Key{Namespace: o.Namespace(), Name: o.Name()})
		}
	}
	return f.lease(ctx, node, leaseLasts)
}

// cut is the end of all signs of life of a node.
func (f *fleet) cut(ctx context.Context, node string) error {
	f.setSilent(node, true)
	return f.lease(ctx, node, time.Second)
}

func cmdSilence(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: silence NODE")
	}
	p := checked(ts)
	if p.cluster == nil {
		ts.Fatalf("silence: this cluster's nodes are real")
	}
	ts.Check(p.cluster.fleet.cut(p.ctx, args[0]))
}

// status is that of the pod's condition, or nothing.
func status(pod *corev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}
