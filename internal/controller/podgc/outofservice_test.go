package podgc

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// machines is a fleet of which a person can say things.
type machines struct {
	fleet
	said map[string]*corev1.Node
}

func (m *machines) Node(name string) *corev1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said[name]
}

// say makes a node: ready or not, with a taint or none.
func (m *machines) say(name string, ready corev1.ConditionStatus, taint string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if taint != "" {
		n.Spec.Taints = []corev1.Taint{{Key: taint, Effect: corev1.TaintEffectNoExecute}}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said[name] = n
	return n
}

func TestPodsOfANodeThatIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machines{fleet: fleet{pods: map[loop.Key]*corev1.Pod{}}, said: map[string]*corev1.Node{}}
		o := NewOutOfService(m, m, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.Run(ctx) }()
		pod := func(name, node string, deleting bool) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
			p.Status.Phase = corev1.PodRunning
			if deleting {
				now := metav1.Now()
				p.DeletionTimestamp = &now
			}
			key := loop.Key{Namespace: "shop", Name: name}
			m.mu.Lock()
			m.pods[key] = p
			m.mu.Unlock()
			o.PodChanged(key, node, deleting)
		}
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			slices.Sort(m.deleted)
			if !slices.Equal(m.deleted, want) {
				t.Errorf("%s: deleted %q, want %q", what, m.deleted, want)
			}
			m.deleted = nil
		}
		for _, node := range []string{"n1", "n2"} {
			m.say(node, corev1.ConditionUnknown, corev1.TaintNodeUnreachable)
			pod("going-"+node, node, true)
			pod("staying-"+node, node, false)
		}
		expect("nobody knows that the nodes are off")
		o.NodeChanged(m.say("n1", corev1.ConditionTrue, corev1.TaintNodeOutOfService))
		expect("one that is ready is not off, whatever a person says")
		o.NodeChanged(m.say("n1", corev1.ConditionUnknown, corev1.TaintNodeOutOfService))
		expect("what is being deleted goes", "going-n1 Failed")
		pod("late", "n1", true)
		pod("staying-n1", "n1", true)
		expect("and what is deleted later", "late Failed", "staying-n1 Failed")
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
