package loops

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/controller/nodeipam"
)

// TestWritesOfNodes has the controllers of nodes write through the real registry.
func TestWritesOfNodes(t *testing.T) {
	p, _ := start(t, t.TempDir())
	w := nodeWrites{p.world}
	p.addNode("n1")
	read := p.Node("n1")
	next := read.DeepCopy()
	next.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}}
	next.Spec.PodCIDR, next.Spec.PodCIDRs = "10.42.0.0/24", []string{"10.42.0.0/24"}
	if err := w.UpdateNode(p.ctx, next); err != nil {
		t.Fatal(err)
	}
	if n := p.Node("n1"); !slices.Equal(nodeipam.Of(n), []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}) {
		t.Errorf("what was written is seen at once: %+v", n.Spec)
	}
	late := read.DeepCopy()
	late.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	if err := w.UpdateNodeStatus(p.ctx, late); !apierrors.IsConflict(err) {
		t.Errorf("a change of what was read before somebody else has changed it: %v", err)
	}
	p.drop(p.nodes, "", "n1", metav1.DeleteOptions{})
	if err := w.UpdateNode(p.ctx, next); !apierrors.IsNotFound(err) {
		t.Errorf("a change of a node that has gone: %v", err)
	}
}

func TestProofThatTheStoreWorks(t *testing.T) {
	p, _ := start(t, t.TempDir())
	n := &nodeWatch{nodeWrites: nodeWrites{p.world}, leases: p.kindOf(coordinationv1.SchemeGroupVersion.WithKind("Lease"))}
	var last time.Time
	for range 3 {
		before := p.Revision()
		if err := n.Prove(p.ctx); err != nil {
			t.Fatal(err)
		}
		lease := get[*coordinationv1.Lease](p.world, n.leases, metav1.NamespaceSystem, proof)
		if lease == nil || p.Revision() == before || !lease.Spec.RenewTime.After(last) {
			t.Fatalf("nothing was written: %+v", lease)
		}
		last = lease.Spec.RenewTime.Time
	}
}
