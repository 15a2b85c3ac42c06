package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/client"
)

const (
	turn   = 50 * time.Millisecond // of the wheel: leases are renewed in as many portions as there are of these in Config.Renew
	hearts = 512                   // renewals under way at once: each may wait for others to be written with
	quiet  = 30 * time.Second      // between two words about leases that cannot be renewed
)

// wheel says which of so many nodes have their turn: each once in every period, evenly over it.
type wheel struct {
	nodes  int
	period time.Duration
	done   int64 // turns given, since the wheel began
}

// next gives the nodes whose turn has come by a time since the wheel began, as a start and a number. A wheel that was held up gives nobody two turns.
func (w *wheel) next(since time.Duration) (from, count int) {
	want := int64(float64(w.nodes) * float64(since) / float64(w.period))
	w.done = max(w.done, want-int64(w.nodes))
	from, count = int(w.done%int64(max(w.nodes, 1))), int(max(0, want-w.done))
	w.done += int64(count)
	return from, count
}

// heart renews the leases of all nodes that are heard of, until ctx ends. While no server answers, renewals wait for one another, and the wheel for them.
func (f *Fleet) heart(ctx context.Context) error {
	ticker := time.NewTicker(turn)
	defer ticker.Stop()
	began := time.Now()
	w := wheel{nodes: len(f.nodes), period: f.cfg.Renew}
	var said time.Time
	failed := make(chan error, 1)
	var g errgroup.Group
	g.SetLimit(hearts)
	defer func() { _ = g.Wait() }()
	for {
		select {
		case <-ticker.C:
		case err := <-failed:
			if now := time.Now(); now.Sub(said) >= quiet && ctx.Err() == nil {
				f.log.Warn("leases are not renewed", "error", err)
				said = now
			}
			continue
		case <-ctx.Done():
			return nil
		}
		from, count := w.next(time.Since(began))
		for i := range count {
			n := f.nodes[(from+i)%len(f.nodes)]
			if n.silent() {
				continue
			}
			g.Go(func() error {
				if err := f.renew(ctx, n); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
				return nil
			})
		}
	}
}

// renew renews a node's lease.
func (f *Fleet) renew(ctx context.Context, n *node) error {
	if n.silent() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Lease)
	defer cancel()
	n.mu.Lock()
	known, uid := n.lease, n.uid
	n.mu.Unlock()
	var lease *coordinationv1.Lease
	var err error
	if known != nil {
		next := *known
		f.fillLease(n, &next, uid)
		lease, err = client.Update(ctx, f.cfg.Client, &next, "")
	}
	if known == nil || apierrors.IsConflict(err) {
		lease, err = client.Get[*coordinationv1.Lease](ctx, f.cfg.Client, corev1.NamespaceNodeLease, n.name)
		if err == nil {
			f.fillLease(n, lease, uid)
			lease, err = client.Update(ctx, f.cfg.Client, lease, "")
		}
	}
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: n.name}}
		f.fillLease(n, lease, uid)
		lease, err = client.Create(ctx, f.cfg.Client, lease)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lease = lease; err != nil {
		n.lease = nil
		return fmt.Errorf("renew lease of node %s: %w", n.name, err)
	}
	return nil
}

func (f *Fleet) fillLease(n *node, l *coordinationv1.Lease, uid types.UID) {
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: new(int32(f.cfg.Lease / time.Second)), RenewTime: new(metav1.NowMicro())}
	l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.name, UID: uid}}
}

// Delete removes all simulated nodes whose names begin so, and says how many there were. Their leases and pods go with them.
func Delete(ctx context.Context, c *client.Client, prefix string) (count int, err error) {
	nodes, _, err := client.List[*corev1.Node](ctx, c, client.Selection{Labels: Label + "=true"})
	if err != nil {
		return 0, fmt.Errorf("delete simulated nodes: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hearts)
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, prefix) {
			count++
			g.Go(func() error { return settled(client.Delete[*corev1.Node](ctx, c, "", n.Name, metav1.DeleteOptions{})) })
		}
	}
	return count, g.Wait()
}

// eventWriter writes events over HTTPS.
type eventWriter struct{ c *client.Client }

func (w eventWriter) Create(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return client.Create(ctx, w.c, e)
}

func (w eventWriter) Patch(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	patch, err := json.Marshal(map[string]any{"message": e.Message, "count": e.Count, "lastTimestamp": e.LastTimestamp})
	if err != nil {
		return nil, fmt.Errorf("count event %s: %w", e.Name, err)
	}
	return client.Patch[*corev1.Event](ctx, w.c, e.Namespace, e.Name, "", types.MergePatchType, patch)
}
