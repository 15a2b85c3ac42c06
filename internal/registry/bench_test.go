package registry_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

// clients is how many callers a benchmark has for each processor.
const clients = 32

func load(b *testing.B, f func(n int64) error) {
	var n atomic.Int64
	b.SetParallelism(clients)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := f(n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// BenchmarkCreate is durable creates of 1 KB.
func BenchmarkCreate(b *testing.B) {
	w := newWorld(b)
	k := w.kind("ConfigMap")
	load(b, func(n int64) error {
		c := configMap(fmt.Sprintf("c%d", n))
		c.Data = map[string]string{"a": strings.Repeat("x", 1<<10)}
		_, err := w.Create(context.Background(), k, c, metav1.CreateOptions{})
		return err
	})
}

// BenchmarkUpdate is durable changes of a label of 500 pods in turn.
func BenchmarkUpdate(b *testing.B) {
	w := newWorld(b)
	for i := range 500 {
		w.create(pod(fmt.Sprintf("p%d", i)))
	}
	k := w.kind("Pod")
	b.ResetTimer()
	load(b, func(n int64) error {
		_, _, err := w.Update(context.Background(), k, "", "default", fmt.Sprintf("p%d", n%500), func(o resource.Object) (resource.Object, error) {
			o.SetLabels(map[string]string{"n": fmt.Sprint(n)})
			o.SetResourceVersion("")
			return o, nil
		}, metav1.UpdateOptions{})
		return err
	})
}
