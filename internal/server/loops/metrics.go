package loops

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/autoscale"
	"sampan.dev/internal/usage"
)

// Usage knows what nodes and their pods use. usage.Collector is one.
type Usage interface {
	Node(ctx context.Context, name string) (usage.Node, []usage.Pod, error)
}

// measured tells autoscalers what pods use, as their nodes say. Of custom and external metrics there are none.
type measured struct {
	autoscale.None
	w *world
}

// Resource implements autoscale.Metrics.
func (m measured) Resource(ctx context.Context, name corev1.ResourceName, namespace string, pods labels.Selector, container string) (map[string]autoscale.PodMetric, error) {
	if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
		return nil, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", name)
	}
	byNode := map[string]map[string]bool{}
	for o := range m.w.Cache.Snapshot().List(m.w.pods, cache.Selection{Namespace: namespace, Labels: pods}) {
		node := cache.Typed[*corev1.Pod](o).Spec.NodeName
		if node == "" {
			continue
		}
		if byNode[node] == nil {
			byNode[node] = map[string]bool{}
		}
		byNode[node][o.Name()] = true
	}
	var mu sync.Mutex
	var first error
	all := map[string]autoscale.PodMetric{}
	var asking sync.WaitGroup
	for node, wanted := range byNode {
		asking.Go(func() {
			_, found, err := m.w.Usage.Node(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = err
			}
			for _, p := range found {
				if p.Namespace != namespace || !wanted[p.Name] {
					continue
				}
				if value, known := amount(p, name, container); known {
					all[p.Name] = autoscale.PodMetric{At: p.At, Window: p.Window, Value: value}
				}
			}
		})
	}
	asking.Wait()
	if len(all) == 0 {
		if first != nil {
			return nil, fmt.Errorf("unable to get metrics for resource %s: %w", name, first)
		}
		return nil, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", name)
	}
	return all, nil
}

// amount is what a pod, or one container of it, uses, in thousandths.
func amount(p usage.Pod, name corev1.ResourceName, container string) (sum int64, known bool) {
	for _, c := range p.Containers {
		if container != "" && c.Name != container {
			continue
		}
		known = true
		if name == corev1.ResourceCPU {
			sum += (c.CPU + 999_999) / 1_000_000 // of thousand-millionths
		} else {
			sum += c.Memory * 1000
		}
	}
	return sum, known
}
