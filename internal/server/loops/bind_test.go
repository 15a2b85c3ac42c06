package loops

import (
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkBind creates 3,000 pods and waits until they are bound to 500 nodes.
func BenchmarkBind(b *testing.B) {
	const nodes, pods, clients = 500, 3000, 32
	for b.Loop() {
		b.StopTimer()
		p, stop := start(b, b.TempDir())
		for i := range nodes {
			p.addNode(fmt.Sprintf("n%d", i))
		}
		b.StartTimer()
		begun := time.Now()
		var group sync.WaitGroup
		for client := range clients {
			group.Go(func() {
				for i := client; i < pods; i += clients {
					pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%d", i)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}
					if _, err := p.Registry.Create(p.ctx, p.pods, pod, metav1.CreateOptions{}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		group.Wait()
		created := time.Since(begun)
		bound := 0
		p.until("all pods are bound", func() bool {
			bound = 0
			for o := range p.Cache.Snapshot().List(p.pods, all) {
				if o.Field("spec.nodeName") != "" {
					bound++
				}
			}
			return bound == pods
		})
		b.ReportMetric(pods/created.Seconds(), "created/s")
		b.ReportMetric(pods/time.Since(begun).Seconds(), "bound/s")
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}
