package scheduler

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// quick is an API that takes no time: what is measured on it is the scheduler's own share.
type quick struct {
	s     *Scheduler
	mu    sync.Mutex
	pods  map[loop.Key]*corev1.Pod
	nodes map[string]*corev1.Node
	bound chan struct{}
}

func (q *quick) Pod(key loop.Key) *corev1.Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pods[key]
}

func (q *quick) Node(name string) *corev1.Node                               { return q.nodes[name] }
func (q *quick) NamespaceLabels(string) map[string]string                    { return nil }
func (q *quick) Budgets(string) []Budget                                     { return nil }
func (q *quick) Services(string) []labels.Selector                           { return nil }
func (q *quick) Record(runtime.Object, string, string, string)               {}
func (q *quick) Nominate(context.Context, loop.Key, types.UID, string) error { return nil }

func (q *quick) SetCondition(context.Context, loop.Key, types.UID, corev1.PodCondition) error {
	return nil
}

func (q *quick) Evict(context.Context, loop.Key, types.UID, corev1.PodCondition) error { return nil }

func (q *quick) Bind(_ context.Context, b *corev1.Binding) error {
	key := loop.Key{Namespace: b.Namespace, Name: b.Name}
	q.mu.Lock()
	was := q.pods[key]
	pod := *was // shallow: nobody changes what is below
	pod.Spec.NodeName = b.Target.Name
	q.pods[key] = &pod
	q.mu.Unlock()
	q.s.PodChanged(key)
	q.bound <- struct{}{}
	return nil
}

func (q *quick) put(pod *corev1.Pod) {
	key := keyOf(pod)
	q.mu.Lock()
	q.pods[key] = pod
	q.mu.Unlock()
	q.s.PodChanged(key)
}

// hasty runs a scheduler over so many nodes, on which so many pods are.
func hasty(b *testing.B, nodes, pods int) *quick {
	q := &quick{pods: map[loop.Key]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, bound: make(chan struct{}, 1<<16)}
	q.s = New(Config{Source: q, API: q, Recorder: func(string) Recorder { return q }, Metrics: NewMetrics()})
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		q.nodes[name] = aNode(name, "cpu=32 memory=64Gi")
		q.s.NodeChanged(name)
	}
	for i := range pods {
		q.put(webPod(fmt.Sprintf("old-%d", i), on(fmt.Sprintf("n%d", i%nodes))))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	q.put(webPod("first")) // once it is bound, all that was there has been looked at
	<-q.bound
	return q
}

// webPod is one as a Deployment makes them.
func webPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	return aPod(name, "cpu=100m memory=100Mi", append([]func(*corev1.Pod){label("app", "web"), func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "rs", Controller: new(true)}}
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
		}
	}}, change...)...)
}

// The time of one pod, of 3,000 that come at once to 500 nodes.
func BenchmarkThreeThousandPodsOn500Nodes(b *testing.B) {
	const pods = 3000
	for b.Loop() {
		b.StopTimer()
		q := hasty(b, 500, 0)
		list := make([]*corev1.Pod, pods)
		for i := range list {
			list[i] = webPod(fmt.Sprintf("p%d", i))
		}
		b.StartTimer()
		for _, p := range list {
			q.put(p)
		}
		for range pods {
			<-q.bound
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/pods, "ns/pod")
}

// From a pod's coming to its binding, with nothing else to do.
func BenchmarkOnePodMoreAmong30000On1000Nodes(b *testing.B) {
	q := hasty(b, 1000, 30000)
	i := 0
	for b.Loop() {
		i++
		q.put(webPod(fmt.Sprintf("p%d", i)))
		<-q.bound
	}
}
