package server

import (
	"context"
	"fmt"
	"strconv"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// NodeSide is what the agent of a node in this process reads and writes: the shared cache and the registry, in the node's own name.
// It is the agent's View and its API.
type NodeSide struct {
	server *Server
	node   string

	pods, nodes, leases, configs, secrets *resource.Kind
}

// NodeSide makes the side of one node. Its OnPod and OnConfig must be called before the server runs.
func (s *Server) NodeSide(node string) *NodeSide {
	kind := func(name string) *resource.Kind {
		k, _ := s.Table.ByKind(corev1.SchemeGroupVersion.WithKind(name))
		return k
	}
	leases, _ := s.Table.ByKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	return &NodeSide{server: s, node: node, pods: kind("Pod"), nodes: kind("Node"), configs: kind("ConfigMap"), secrets: kind("Secret"), leases: leases}
}

func (n *NodeSide) as(ctx context.Context) context.Context {
	return auth.WithUser(ctx, &auth.Identity{Name: auth.NodePrefix + n.node, Groups: []string{auth.Nodes, auth.Authenticated}})
}

// Ready is closed once the cache holds what the store holds.
func (n *NodeSide) Ready() <-chan struct{} { return n.server.Cache.Ready() }

// Pods lists the pods bound to the node.
func (n *NodeSide) Pods() []*corev1.Pod {
	var list []*corev1.Pod
	for o := range n.server.Cache.Snapshot().List(n.pods, cache.Selection{Fields: fields.OneTermEqualSelector("spec.nodeName", n.node)}) {
		list = append(list, cache.Typed[*corev1.Pod](o))
	}
	return list
}

// Pod returns a pod bound to the node, or nil.
func (n *NodeSide) Pod(namespace, name string) *corev1.Pod {
	return n.own(n.server.Cache.Snapshot().Get(n.pods, namespace, name))
}

func (n *NodeSide) own(o *cache.Object) *corev1.Pod {
	if o == nil || o.Field("spec.nodeName") != n.node {
		return nil
	}
	return cache.Typed[*corev1.Pod](o)
}

// OnPod calls f with each change of the node's pods.
func (n *NodeSide) OnPod(f func(old, new *corev1.Pod)) {
	n.server.Cache.OnChange(n.pods, func(old, new *cache.Object) {
		if before, now := n.own(old), n.own(new); before != nil || now != nil {
			f(before, now)
		}
	})
}

// OnConfig calls f when a ConfigMap or Secret has changed.
func (n *NodeSide) OnConfig(f func(namespace, name string)) {
	changed := func(old, new *cache.Object) {
		if new == nil {
			new = old
		}
		f(new.Namespace(), new.Name())
	}
	n.server.Cache.OnChange(n.configs, changed)
	n.server.Cache.OnChange(n.secrets, changed)
}

// ConfigMap returns a config map, or the API's NotFound.
func (n *NodeSide) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return find[*corev1.ConfigMap](n, n.configs, namespace, name)
}

// Secret returns a secret, or the API's NotFound.
func (n *NodeSide) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](n, n.secrets, namespace, name)
}

func find[T any](n *NodeSide, kind *resource.Kind, namespace, name string) (T, error) {
	o := n.server.Cache.Snapshot().Get(kind, namespace, name)
	if o == nil {
		var none T
		return none, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	return cache.Typed[T](o), nil
}

// Node reads the node's own object, or gives the API's NotFound.
func (n *NodeSide) Node(_ context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](n, n.nodes, "", name)
}

// CreateNode adds the node to the cluster.
func (n *NodeSide) CreateNode(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	created, err := n.server.Registry.Create(n.as(ctx), n.nodes, node.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return created.(*corev1.Node), n.shown(ctx, created)
}

// UpdateNode changes everything but the node's status.
func (n *NodeSide) UpdateNode(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return n.updateNode(ctx, "", name, change)
}

// UpdateNodeStatus changes the node's status alone.
func (n *NodeSide) UpdateNodeStatus(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return n.updateNode(ctx, "status", name, change)
}

func (n *NodeSide) updateNode(ctx context.Context, sub, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	obj, _, err := n.server.Registry.Update(n.as(ctx), n.nodes, sub, "", name, func(o resource.Object) (resource.Object, error) {
		change(o.(*corev1.Node))
		o.SetResourceVersion("")
		return o, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), n.shown(ctx, obj)
}

// RenewLease changes the node's lease, and creates it if need be.
func (n *NodeSide) RenewLease(ctx context.Context, name string, change func(*coordinationv1.Lease)) error {
	_, _, err := n.server.Registry.Update(n.as(ctx), n.leases, "", corev1.NamespaceNodeLease, name, func(o resource.Object) (resource.Object, error) {
		change(o.(*coordinationv1.Lease)) // on the version that it was read at: a lease takes no update without one
		return o, nil
	}, metav1.UpdateOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}}
	change(lease)
	_, err = n.server.Registry.Create(n.as(ctx), n.leases, lease, metav1.CreateOptions{})
	return err
}

// UpdatePodStatus changes the status of the pod of that uid; a pod of another uid is a conflict.
func (n *NodeSide) UpdatePodStatus(ctx context.Context, namespace, name string, uid types.UID, change func(*corev1.Pod)) (*corev1.Pod, error) {
	obj, _, err := n.server.Registry.Update(n.as(ctx), n.pods, "status", namespace, name, func(o resource.Object) (resource.Object, error) {
		if o.GetUID() != uid {
			return nil, apierrors.NewConflict(n.pods.GroupResource(), name, fmt.Errorf("it is another pod of that name: uid %s, not %s", o.GetUID(), uid))
		}
		change(o.(*corev1.Pod))
		o.SetResourceVersion("")
		return o, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), n.shown(ctx, obj)
}

// DeletePod removes the pod of that uid at once. A pod that is gone, or another's, is no error.
func (n *NodeSide) DeletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	now := int64(0)
	obj, _, err := n.server.Registry.Delete(n.as(ctx), n.pods, namespace, name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.shown(ctx, obj)
}

// shown waits until the cache shows a write, so that whoever wrote never sees an older state.
func (n *NodeSide) shown(ctx context.Context, obj resource.Object) error {
	revision, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return fmt.Errorf("resourceVersion %q of %s: %w", obj.GetResourceVersion(), obj.GetName(), err)
	}
	return n.server.Cache.Wait(ctx, revision)
}
