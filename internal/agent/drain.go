package agent

import (
	"context"
	"fmt"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (a *Agent) isDraining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}

// StopPods stops all pods of the node gracefully, each within its own grace, while Run runs; it returns when none runs any more,
// or ctx ends. The API is not told: the pods are still meant to run here, and do after the next start, as after a reboot.
func (a *Agent) StopPods(ctx context.Context) error {
	a.mu.Lock()
	a.draining = true
	changed := make(chan struct{}, 1)
	a.drained = changed
	a.mu.Unlock()
	a.markAll(ctx)
	for {
		r, err := a.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
			Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
		})
		if err != nil {
			return fmt.Errorf("stop pods: %w", err)
		}
		left := 0
		for _, s := range r.Items {
			if s.Labels[labelPodUID] != "" {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("stop pods: %d still run: %w", left, ctx.Err())
		}
	}
}

// stopped tells StopPods that a worker has come to rest.
func (a *Agent) stopped(*worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.drained != nil {
		select {
		case a.drained <- struct{}{}:
		default:
		}
	}
}
