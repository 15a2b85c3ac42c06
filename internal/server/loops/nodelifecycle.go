package loops

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/controller/podgc"
	"sampan.dev/internal/controller/tainteviction"
	"sampan.dev/internal/resource"
)

// lostNodes are the controllers that find out which nodes are lost, and get their pods elsewhere.
func lostNodes(w *world) []part {
	n := &nodeWatch{nodeWrites: nodeWrites{w}, leases: w.kindOf(coordinationv1.SchemeGroupVersion.WithKind("Lease"))}
	life := nodelifecycle.New(w.Nodes, n, n, w.Events.As("node-controller", ""), w.Queues, w.Log)
	n.silence = life.Silence
	evict := tainteviction.New(w.Eviction, n, n, w.Events.As("taint-eviction-controller", ""), w.Queues, w.Log)
	off := podgc.NewOutOfService(w, w, w.Queues, w.Log)
	return []part{
		{account: "node-controller", run: life.Run, on: map[*resource.Kind]func(change){
			w.nodes: func(ch change) { life.NodeChanged(ch.key.Name, nodeIn(ch.old), nodeIn(ch.new)) },
			n.leases: func(ch change) {
				if ch.key.Namespace != corev1.NamespaceNodeLease || ch.new == nil {
					return
				}
				was, _ := renewal(ch.old)
				if at, lasts := renewal(ch.new); !at.Equal(was) {
					life.LeaseChanged(ch.key.Name, lasts)
				}
			},
		}},
		{account: "taint-eviction-controller", run: evict.Run, on: map[*resource.Kind]func(change){
			w.nodes: func(ch change) { evict.NodeChanged(ch.key.Name, nodeIn(ch.new)) },
			w.pods:  func(ch change) { evict.PodChanged(ch.key, nodeOf(ch)) },
		}},
		{account: "pod-garbage-collector", run: off.Run, on: map[*resource.Kind]func(change){
			w.nodes: func(ch change) { off.NodeChanged(nodeIn(ch.new)) },
			w.pods: func(ch change) {
				if ch.new != nil && ch.is.Deleting {
					off.PodChanged(ch.key, nodeOf(ch), true)
				}
			},
		}},
	}
}

func nodeIn(o *cache.Object) *corev1.Node {
	if o == nil {
		return nil
	}
	return cache.Typed[*corev1.Node](o)
}

// nodeOf is where the pod is bound, or was.
func nodeOf(ch change) string {
	o := ch.new
	if o == nil {
		o = ch.old
	}
	return o.Field("spec.nodeName")
}

// renewal is what a lease says of when it was last renewed, in its owner's time, and of how long it is good then.
func renewal(o *cache.Object) (at time.Time, lasts time.Duration) {
	if o == nil {
		return at, 0
	}
	spec := &cache.Typed[*coordinationv1.Lease](o).Spec
	if spec.RenewTime != nil {
		at = spec.RenewTime.Time
	}
	if spec.LeaseDurationSeconds != nil {
		lasts = time.Duration(*spec.LeaseDurationSeconds) * time.Second
	}
	return at, lasts
}

// nodeWrites writes Nodes that were read before, if nobody has changed them since.
type nodeWrites struct{ *world }

func (n nodeWrites) write(ctx context.Context, sub string, node *corev1.Node) error {
	_, _, err := n.Registry.Update(ctx, n.nodes, sub, "", node.Name, func(current resource.Object) (resource.Object, error) {
		if current == nil {
			return nil, apierrors.NewNotFound(n.nodes.GroupResource(), node.Name)
		}
		return node.DeepCopy(), nil // with its resourceVersion
	}, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return n.shown(ctx)
}

func (n nodeWrites) UpdateNode(ctx context.Context, node *corev1.Node) error {
	return n.write(ctx, "", node)
}

func (n nodeWrites) UpdateNodeStatus(ctx context.Context, node *corev1.Node) error {
	return n.write(ctx, "status", node)
}

// nodeWatch shows nodes and their pods to the controllers of lost nodes.
type nodeWatch struct {
	nodeWrites
	leases  *resource.Kind
	silence func(node string) (silent, grace time.Duration)
}

// proof is the Lease that is written to see that the store works.
const proof = "sampan-node-lifecycle"

func (n *nodeWatch) Prove(ctx context.Context) error {
	renew := func(l *coordinationv1.Lease) { now := metav1.NowMicro(); l.Spec.RenewTime = &now }
	err := n.update(ctx, n.leases, "", metav1.NamespaceSystem, proof, "", func(o resource.Object) { renew(o.(*coordinationv1.Lease)) })
	if !apierrors.IsNotFound(err) {
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: proof}}
	renew(lease)
	if err := n.create(ctx, n.leases, lease); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return n.shown(ctx)
}

func (n *nodeWatch) Silence(node string) (silent, grace time.Duration) { return n.silence(node) }

func (n *nodeWatch) EndPod(ctx context.Context, pod *corev1.Pod) error {
	return n.delete(ctx, n.pods, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}
