package podgc

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

type fleet struct {
	mu      sync.Mutex
	nodes   map[string]bool
	pods    map[loop.Key]*corev1.Pod
	deleted []string
}

func (f *fleet) Pod(key loop.Key) *corev1.Pod { f.mu.Lock(); defer f.mu.Unlock(); return f.pods[key] }

func (f *fleet) NodeExists(name string) bool { f.mu.Lock(); defer f.mu.Unlock(); return f.nodes[name] }

func (f *fleet) setNode(name string, there bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[name] = there
}

func (f *fleet) PodsOn(node string) (list []*corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.Spec.NodeName == node {
			list = append(list, p)
		}
	}
	return list
}

func (f *fleet) UpdatePodStatus(_ context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := pod.DeepCopy()
	change(&p.Status)
	f.pods[loop.Key{Namespace: pod.Namespace, Name: pod.Name}] = p
	return nil
}

func (f *fleet) DeletePod(_ context.Context, pod *corev1.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := loop.Key{Namespace: pod.Namespace, Name: pod.Name}
	f.deleted = append(f.deleted, pod.Name+" "+string(f.pods[key].Status.Phase))
	delete(f.pods, key)
	return nil
}

func TestPodsOfAMissingNodeGoAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{nodes: map[string]bool{"n1": true, "n2": true}, pods: map[loop.Key]*corev1.Pod{}}
		c := New(f, f, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = c.Run(ctx) }()
		pod := func(name, node string, change ...func(*corev1.Pod)) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
			p.Status.Phase = corev1.PodRunning
			for _, ch := range change {
				ch(p)
			}
			f.mu.Lock()
			f.pods[loop.Key{Namespace: "shop", Name: name}] = p
			f.mu.Unlock()
			c.PodChanged(loop.Key{Namespace: "shop", Name: name}, node, p.DeletionTimestamp != nil)
		}
		deleting := func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now }
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			slices.Sort(f.deleted)
			if !slices.Equal(f.deleted, want) {
				t.Errorf("%s: deleted %q, want %q", what, f.deleted, want)
			}
			f.deleted = nil
		}
		pod("a", "n1")
		pod("done", "n1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		pod("b", "n2")
		pod("new", "")
		pod("never-bound", "", deleting)
		pod("ending", "n2", deleting)
		expect("a deleted pod without a node goes at once", "never-bound Failed")

		f.setNode("n1", false)
		c.NodeChanged("n1")
		time.Sleep(Quarantine - time.Second)
		f.setNode("n1", true)
		c.NodeChanged("n1")
		time.Sleep(time.Hour)
		expect("a node that comes back keeps its pods")

		f.setNode("n1", false)
		c.NodeChanged("n1")
		time.Sleep(Quarantine - time.Second)
		expect("not yet")
		time.Sleep(2 * time.Second)
		expect("the node's pods go, and say that they have failed", "a Failed", "done Succeeded")

		pod("lost", "nowhere")
		time.Sleep(Quarantine + time.Second)
		expect("a node that never was is missing too", "lost Failed")
	})
}
