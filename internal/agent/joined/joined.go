// Package joined lets an agent work for a cluster whose servers are on other machines.
//
// It reads its node's pods from a cache that mirrors the servers, follows each ConfigMap and Secret that these pods name, asks for their claims and volumes once, and writes over HTTPS in the node's own
// name. Always: what was last known stays while no server answers; an object that no pod of the node names any more is followed no longer, since the
// node may not read it; a write is tried again on a conflict, from what is current.
package joined

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/agent/inprocess"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/events"
	"sampan.dev/internal/resource"
)

// A request that takes longer than this is given up, so that the next one goes to another server.
const (
	patience      = 15 * time.Second
	leasePatience = 3 * time.Second
	conflicts     = 8 // times that a write is tried again
)

// Access is an agent's view of the API and its writer. It is run beside the cache.
type Access struct {
	*inprocess.Reader
	c        *client.Client
	mirrored *cache.Cache
	nodes    *resource.Kind
	configs  *configs

	mu    sync.Mutex // guards lease
	lease *coordinationv1.Lease
}

var (
	_ agent.View    = (*Access)(nil)
	_ agent.API     = (*Access)(nil)
	_ events.Writer = Events{}
)

// New makes the access of the agent of one node. It must be made, and given to agent.New, before the cache runs.
func New(table *resource.Table, mirrored *cache.Cache, c *client.Client, node string) *Access {
	a := &Access{Reader: inprocess.NewReader(table, mirrored, node), c: c, mirrored: mirrored}
	a.nodes, _ = table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	a.configs = newConfigs(c, table, a.Pods)
	return a
}

// Run follows ConfigMaps and Secrets until ctx ends.
func (a *Access) Run(ctx context.Context) error { return a.configs.run(ctx) }

// OnPod implements agent.View.
func (a *Access) OnPod(changed func(old, new *corev1.Pod)) {
	a.Reader.OnPod(func(old, new *corev1.Pod) {
		changed(old, new)
		if new == nil {
			a.configs.letGo(old.Namespace)
		}
	})
}

// OnConfig implements agent.View.
func (a *Access) OnConfig(changed func(namespace, name string)) { a.configs.changed = changed }

// ConfigMap implements agent.View.
func (a *Access) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return get[*corev1.ConfigMap](ctx, a.configs, ref{a.configs.maps, namespace, name})
}

// Secret implements agent.View.
func (a *Access) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get[*corev1.Secret](ctx, a.configs, ref{a.configs.secrets, namespace, name})
}

// Claim implements agent.View. It is asked for when a pod's volumes are made: what it is bound to does not change after that.
func (a *Access) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Get[*corev1.PersistentVolumeClaim](ctx, a.c, namespace, name)
}

// PersistentVolume implements agent.View, likewise.
func (a *Access) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Get[*corev1.PersistentVolume](ctx, a.c, "", name)
}

// RuntimeClass implements agent.View. It is asked for with each sandbox of such a pod: there are few, and one that has changed is to be seen.
func (a *Access) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Get[*nodev1.RuntimeClass](ctx, a.c, "", name)
}

// Node implements agent.API.
func (a *Access) Node(ctx context.Context, name string) (*corev1.Node, error) {
	if o := a.mirrored.Snapshot().Get(a.nodes, "", name); o != nil {
		return cache.Typed[*corev1.Node](o), nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Get[*corev1.Node](ctx, a.c, "", name)
}

// CreateNode implements agent.API.
func (a *Access) CreateNode(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Create(ctx, a.c, node)
}

// UpdateNode implements agent.API.
func (a *Access) UpdateNode(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return update(ctx, a.c, nil, "", "", name, "", change)
}

// UpdateNodeStatus implements agent.API.
func (a *Access) UpdateNodeStatus(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return update(ctx, a.c, nil, "status", "", name, "", change)
}

// RenewLease implements agent.API.
func (a *Access) RenewLease(ctx context.Context, name string, change func(*coordinationv1.Lease)) error {
	ctx, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	a.mu.Lock()
	known := a.lease
	a.mu.Unlock()
	lease, err := update(ctx, a.c, known, "", corev1.NamespaceNodeLease, name, "", change)
	if apierrors.IsNotFound(err) {
		fresh := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
		change(fresh)
		lease, err = client.Create(ctx, a.c, fresh)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lease = lease; err != nil {
		a.lease = nil
	}
	return err
}

// UpdatePodStatus implements agent.API.
func (a *Access) UpdatePodStatus(ctx context.Context, namespace, name string, uid types.UID, change func(*corev1.Pod)) (*corev1.Pod, error) {
	return update(ctx, a.c, a.Pod(namespace, name), "status", namespace, name, uid, change)
}

// DeletePod implements agent.API.
func (a *Access) DeletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	grace := int64(0)
	err := client.Delete[*corev1.Pod](ctx, a.c, namespace, name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if apierrors.IsForbidden(err) && a.Pod(namespace, name) == nil {
		return nil // a pod that is gone is nobody's
	}
	return err
}

// CurrentPod implements agent.API.
func (a *Access) CurrentPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.Get[*corev1.Pod](ctx, a.c, namespace, name)
}

// CreateToken implements agent.API.
func (a *Access) CreateToken(ctx context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return client.CreateToken(ctx, a.c, namespace, account, asked)
}

// update changes what is known, and on a conflict, or where nothing is known, what is current; another uid than the one that is meant is a conflict that stays.
func update[T interface {
	resource.Object
	comparable
}](ctx context.Context, c *client.Client, known T, sub, namespace, name string, uid types.UID, change func(T)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var none T
	for try := 0; ; try++ {
		if known == none {
			var err error
			if known, err = client.Get[T](ctx, c, namespace, name); err != nil {
				return none, err
			}
		}
		if uid != "" && known.GetUID() != uid {
			return none, apierrors.NewConflict(schemaOf(known), name, errors.New("it is another object of the same name"))
		}
		next := known.DeepCopyObject().(T)
		change(next)
		done, err := client.Update(ctx, c, next, sub)
		if !apierrors.IsConflict(err) || try == conflicts {
			return done, err
		}
		known = none
	}
}

// Events writes events over HTTPS.
type Events struct{ Client *client.Client }

// Create implements events.Writer.
func (e Events) Create(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	return client.Create(ctx, e.Client, event)
}

// Patch implements events.Writer.
func (e Events) Patch(ctx context.Context, event *corev1.Event) (*corev1.Event, error) {
	patch, err := json.Marshal(map[string]any{"message": event.Message, "count": event.Count, "lastTimestamp": event.LastTimestamp})
	if err != nil {
		return nil, fmt.Errorf("patch event %s/%s: %w", event.Namespace, event.Name, err)
	}
	return client.Patch[*corev1.Event](ctx, e.Client, event.Namespace, event.Name, "", types.MergePatchType, patch)
}
