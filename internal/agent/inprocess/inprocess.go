// Package inprocess lets an agent work on the cache and the registry of the same process.
//
// It reads the cache's snapshots and writes through the registry in the node's own name: no connection, no second copy, no
// second decode. Always: the agent sees the pods of its own node only.
package inprocess

import (
	"context"
	"errors"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
)

// Reader shows what a cache has of one node's pods, wherever the cache is fed from.
type Reader struct {
	cache          *cache.Cache
	node           string
	pods, services *resource.Kind
}

// NewReader makes the view of the agent of one node. It must be given to agent.New before the cache runs.
func NewReader(table *resource.Table, c *cache.Cache, node string) *Reader {
	pods, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	services, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Service"))
	return &Reader{cache: c, node: node, pods: pods, services: services}
}

// Access is an agent's view of the API and its writer.
type Access struct {
	*Reader
	registry *registry.Registry
	who      *auth.Identity
	tokens   *tokens.Issuer // nil: pods get no tokens

	nodes, leases, configs, secrets, classes, claims, volumes *resource.Kind
}

var (
	_ agent.View = (*Access)(nil)
	_ agent.API  = (*Access)(nil)
)

// New makes the access of the agent of one node. It must be made, and given to agent.New, before the cache runs.
func New(table *resource.Table, c *cache.Cache, r *registry.Registry, node string) *Access {
	kind := func(group, resource string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource})
		return k
	}
	return &Access{
		Reader: NewReader(table, c, node), registry: r,
		who:   &auth.Identity{Name: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated"}},
		nodes: kind("", "nodes"), configs: kind("", "configmaps"), secrets: kind("", "secrets"), leases: kind("coordination.k8s.io", "leases"), classes: kind("node.k8s.io", "runtimeclasses"),
		claims: kind("", "persistentvolumeclaims"), volumes: kind("", "persistentvolumes"),
	}
}

// Ready implements agent.View.
func (r *Reader) Ready() <-chan struct{} { return r.cache.Ready() }

const nodeField = "spec.nodeName"

// Pods implements agent.View.
func (r *Reader) Pods() []*corev1.Pod {
	var pods []*corev1.Pod
	for o := range r.cache.Snapshot().List(r.pods, cache.Selection{Fields: fields.OneTermEqualSelector(nodeField, r.node)}) {
		pods = append(pods, cache.Typed[*corev1.Pod](o))
	}
	return pods
}

func (r *Reader) mine(o *cache.Object) *corev1.Pod {
	if o == nil || o.Field(nodeField) != r.node {
		return nil
	}
	return cache.Typed[*corev1.Pod](o)
}

// Pod implements agent.View.
func (r *Reader) Pod(namespace, name string) *corev1.Pod {
	return r.mine(r.cache.Snapshot().Get(r.pods, namespace, name))
}

// Services implements agent.View.
func (r *Reader) Services(namespace string) (all []*corev1.Service) {
	for o := range r.cache.Snapshot().List(r.services, cache.Selection{Namespace: namespace}) {
		all = append(all, cache.Typed[*corev1.Service](o))
	}
	return all
}

// ConfigMap implements agent.View.
func (a *Access) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o := a.cache.Snapshot().Get(a.configs, namespace, name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.configs.GroupResource(), name)
	}
	return cache.Typed[*corev1.ConfigMap](o), nil
}

// Secret implements agent.View.
func (a *Access) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	o := a.cache.Snapshot().Get(a.secrets, namespace, name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.secrets.GroupResource(), name)
	}
	return cache.Typed[*corev1.Secret](o), nil
}

// Claim implements agent.View.
func (a *Access) Claim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	o := a.cache.Snapshot().Get(a.claims, namespace, name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.claims.GroupResource(), name)
	}
	return cache.Typed[*corev1.PersistentVolumeClaim](o), nil
}

// PersistentVolume implements agent.View.
func (a *Access) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	o := a.cache.Snapshot().Get(a.volumes, "", name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.volumes.GroupResource(), name)
	}
	return cache.Typed[*corev1.PersistentVolume](o), nil
}

// RuntimeClass implements agent.View.
func (a *Access) RuntimeClass(_ context.Context, name string) (*nodev1.RuntimeClass, error) {
	o := a.cache.Snapshot().Get(a.classes, "", name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.classes.GroupResource(), name)
	}
	return cache.Typed[*nodev1.RuntimeClass](o), nil
}

// OnPod implements agent.View.
func (r *Reader) OnPod(changed func(old, new *corev1.Pod)) {
	r.cache.OnChange(r.pods, func(old, new *cache.Object) {
		if was, is := r.mine(old), r.mine(new); was != nil || is != nil {
			changed(was, is)
		}
	})
}

// OnConfig implements agent.View.
func (a *Access) OnConfig(changed func(namespace, name string)) {
	mark := func(old, new *cache.Object) {
		if new == nil {
			new = old
		}
		changed(new.Namespace(), new.Name())
	}
	a.cache.OnChange(a.configs, mark)
	a.cache.OnChange(a.secrets, mark)
}

func (a *Access) as(ctx context.Context) context.Context { return auth.WithUser(ctx, a.who) }

// Node implements agent.API.
func (a *Access) Node(_ context.Context, name string) (*corev1.Node, error) {
	o := a.cache.Snapshot().Get(a.nodes, "", name)
	if o == nil {
		return nil, apierrors.NewNotFound(a.nodes.GroupResource(), name)
	}
	return cache.Typed[*corev1.Node](o), nil
}

// CreateNode implements agent.API.
func (a *Access) CreateNode(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	made, err := a.registry.Create(a.as(ctx), a.nodes, node.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return made.(*corev1.Node), nil
}

// UpdateNode implements agent.API.
func (a *Access) UpdateNode(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return update(a, ctx, a.nodes, "", "", name, "", change)
}

// UpdateNodeStatus implements agent.API.
func (a *Access) UpdateNodeStatus(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return update(a, ctx, a.nodes, "status", "", name, "", change)
}

// RenewLease implements agent.API.
func (a *Access) RenewLease(ctx context.Context, name string, change func(*coordinationv1.Lease)) error {
	_, err := update(a, ctx, a.leases, "", corev1.NamespaceNodeLease, name, "", change)
	if !apierrors.IsNotFound(err) {
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	change(lease)
	_, err = a.registry.Create(a.as(ctx), a.leases, lease, metav1.CreateOptions{})
	return err
}

// UpdatePodStatus implements agent.API.
func (a *Access) UpdatePodStatus(ctx context.Context, namespace, name string, uid types.UID, change func(*corev1.Pod)) (*corev1.Pod, error) {
	return update(a, ctx, a.pods, "status", namespace, name, uid, change)
}

// CurrentPod implements agent.API.
func (a *Access) CurrentPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod := a.Pod(namespace, name); pod != nil {
		return pod, nil
	}
	return nil, apierrors.NewNotFound(a.pods.GroupResource(), name)
}

// DeletePod implements agent.API.
func (a *Access) DeletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	grace := int64(0)
	_, _, err := a.registry.Delete(a.as(ctx), a.pods, namespace, name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// update changes whatever is current, tried again on a conflict; another uid than the one that is meant is a conflict that stays.
func update[T resource.Object](a *Access, ctx context.Context, kind *resource.Kind, sub, namespace, name string, uid types.UID, change func(T)) (T, error) {
	var none T
	obj, _, err := a.registry.Update(a.as(ctx), kind, sub, namespace, name, func(current resource.Object) (resource.Object, error) {
		if current == nil {
			return nil, apierrors.NewNotFound(kind.GroupResource(), name)
		}
		if uid != "" && current.GetUID() != uid {
			return nil, apierrors.NewConflict(kind.GroupResource(), name, errors.New("it is another object of the same name"))
		}
		typed, ok := current.(T)
		if !ok {
			return nil, fmt.Errorf("update %s %s: it is a %T", kind.Plural, name, current)
		}
		change(typed)
		typed.SetResourceVersion("")
		return typed, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return none, err
	}
	return obj.(T), nil
}
