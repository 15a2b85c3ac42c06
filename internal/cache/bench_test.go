package cache_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
)

// realisticPod is what a Deployment's running pod looks like.
func realisticPod(i int) *corev1.Pod {
	yes, grace := true, int64(30)
	app := fmt.Sprintf("app-%d", i%50)
	amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			UID: types.UID(fmt.Sprintf("7b1c2a34-55d0-4c7e-9a6f-%012d", i)), CreationTimestamp: metav1.Unix(1e9, 0), GenerateName: app + "-",
			Labels:          map[string]string{"app": app, "pod-template-hash": "5d4f8c7b9", "tier": "web"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app, UID: "f0e1d2c3-55d0-4c7e-9a6f-000000000000", Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node-%d", i%500), ServiceAccountName: "default", RestartPolicy: corev1.RestartPolicyAlways,
			SchedulerName: "default-scheduler", DNSPolicy: corev1.DNSClusterFirst, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "web", Image: "nginx:1.27", Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
				Env:       []corev1.EnvVar{{Name: "A", Value: "one"}, {Name: "B", Value: "two"}},
				Resources: corev1.ResourceRequirements{Requests: amount, Limits: amount}, TerminationMessagePath: "/dev/termination-log",
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.244.%d.%d", i/250, i%250), HostIP: "192.168.0.1", QOSClass: corev1.PodQOSGuaranteed,
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue},
				{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
				{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: true, Image: "nginx:1.27", ImageID: "sha256:0123456789abcdef", ContainerID: fmt.Sprintf("cri://%064d", i)}},
		},
	}
}

const many = 10_000

func full(b *testing.B) (*memory, *cache.Cache) {
	m, k := newMemory(), kindOf(b, "pods")
	for i := range many {
		put(b, m, k, fmt.Sprintf("ns-%d", i%20), fmt.Sprintf("app-%d-5d4f8c7b9-%05d", i%50, i), realisticPod(i))
	}
	m.lose() // so that only the current state is there
	return m, run(b, m)
}

// BenchmarkListInProtobuf is what the server does for a list: the bytes of all, one after another.
func BenchmarkListInProtobuf(b *testing.B) {
	_, c := full(b)
	k := kindOf(b, "pods")
	out := make([]byte, 0, 64<<20)
	b.ReportAllocs()
	for b.Loop() {
		out = out[:0]
		for o := range c.Snapshot().List(k, cache.Selection{}) {
			body := o.ProtobufBody()
			out = append(out, 0x12)
			out = binary.AppendUvarint(out, uint64(len(body)))
			out = append(out, body...)
		}
	}
	b.ReportMetric(float64(len(out))/many, "bytes/object")
}

// BenchmarkMemoryOfAnObject tells how much one pod takes beside its encoded bytes when nobody looks at it.
func BenchmarkMemoryOfAnObject(b *testing.B) {
	m, k := newMemory(), kindOf(b, "pods")
	for i := range many {
		put(b, m, k, fmt.Sprintf("ns-%d", i%20), fmt.Sprintf("app-%d-5d4f8c7b9-%05d", i%50, i), realisticPod(i))
	}
	m.lose()
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := run(b, m)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		size := 0
		for o := range c.Snapshot().List(k, cache.Selection{}) {
			size += len(o.Protobuf())
		}
		b.ReportMetric(float64(size)/many, "encoded-B")
		b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc)-float64(size))/many, "beside-B")
	}
}

// BenchmarkEventTo200Watchers is one change on its way to everybody who watches all pods.
func BenchmarkEventTo200Watchers(b *testing.B) { fanOut(b, 200, cache.Selection{}) }

// BenchmarkEventPast200Watchers is one change that none of 200 agents wants.
func BenchmarkEventPast200Watchers(b *testing.B) { fanOut(b, 200, onNode("elsewhere")) }

func fanOut(b *testing.B, n int, sel cache.Selection) {
	m, k := newMemory(), kindOf(b, "pods")
	c := run(b, m)
	for range n {
		w, err := c.Watch(k, sel, c.Snapshot().Revision())
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			for range w.Events() {
			}
		}()
		b.Cleanup(w.Stop)
	}
	value := podWrite(b, k, "a", "p", "here")
	b.ReportAllocs()
	b.ResetTimer()
	last := int64(0)
	for range b.N {
		rec, err := m.Apply(b.Context(), value)
		if err != nil {
			b.Fatal(err)
		}
		last = rec.Revision
	}
	reach(b, c, last)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
