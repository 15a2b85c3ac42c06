package local

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"sampan.dev/internal/store"
)

// BenchmarkDurableCreates is the issue of a cluster under load: each operation is one durable create of 1 KB.
func BenchmarkDurableCreates(b *testing.B) {
	for _, writers := range []int{1, 64} {
		for _, watched := range []bool{false, true} {
			b.Run(fmt.Sprintf("writers=%d/watched=%v", writers, watched), func(b *testing.B) {
				s := open(b, b.TempDir(), Options{})
				if watched {
					batches, _, err := s.Watch(b.Context(), "", s.Revision())
					if err != nil {
						b.Fatal(err)
					}
					go func() {
						for range batches {
						}
					}()
				}
				value := make([]byte, 1024)
				var n atomic.Int64
				var group sync.WaitGroup
				b.ResetTimer()
				for range writers {
					group.Go(func() {
						for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
							w := store.Write{Key: fmt.Sprintf("/registry/configmaps/default/c-%d", i), Value: value}
							if _, err := s.Apply(b.Context(), w); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
				b.ReportMetric(float64(s.writes.Load())/float64(s.syncs.Load()), "writes/sync")
			})
		}
	}
}
