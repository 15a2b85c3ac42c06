package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The words of a pod that ends with its node (https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/).
const (
	shutdownReason  = "Terminated"
	shutdownMessage = "Pod was terminated in response to imminent node shutdown."
	shutdownNode    = "node is shutting down"

	// criticalPriority is the least priority of pods that end last.
	criticalPriority = 2000000000
)

// shutdown is the machine's own end under way; its zero value is none.
type shutdown struct {
	on       bool
	critical bool          // those go now, too
	grace    time.Duration // that a pod has at the most
}

// Shutdown ends all pods because the machine goes down: those that are not critical within all of the time but what is kept for the critical ones, which follow. They are marked as
// failed for that reason, and are made again elsewhere by whoever made them; the node says that it is not ready. It returns when no pod runs, or ctx ends.
func (a *Agent) Shutdown(ctx context.Context, all, critical time.Duration) error {
	a.log.Warn("the machine goes down; pods end", "within", all)
	for _, stage := range []shutdown{{on: true, grace: max(all-critical, 0)}, {on: true, critical: true, grace: critical}} {
		a.mu.Lock()
		a.going = stage
		changed := make(chan struct{}, 1)
		a.drained = changed
		a.mu.Unlock()
		a.node.again()
		a.markAll(ctx)
		if err := a.untilStopped(ctx, stage, changed); err != nil {
			return fmt.Errorf("end pods before the machine goes down: %w", err)
		}
	}
	return nil
}

// untilStopped waits for the pods of a stage, and for as long after their grace as it takes to kill them.
func (a *Agent) untilStopped(ctx context.Context, stage shutdown, changed <-chan struct{}) error {
	const late = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, stage.grace+late)
	defer cancel()
	for {
		r, err := a.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
			Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}},
		})
		if err != nil {
			return err
		}
		goes := map[types.UID]bool{}
		for _, pod := range a.cfg.View.Pods() {
			goes[pod.UID] = stage.takes(pod)
		}
		left := 0
		for _, s := range r.Items {
			if goes[types.UID(s.Labels[labelPodUID])] {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if stage.critical {
				return fmt.Errorf("%d still run: %w", left, ctx.Err())
			}
			return nil // the critical ones have their own time
		}
	}
}

// takes says whether the pod goes by now.
func (s shutdown) takes(pod *corev1.Pod) bool {
	if !s.on || pod == nil {
		return false
	}
	return s.critical || pod.Spec.Priority == nil || *pod.Spec.Priority < criticalPriority
}

// ending is what there is of the machine's end.
func (a *Agent) ending() shutdown {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.going
}
