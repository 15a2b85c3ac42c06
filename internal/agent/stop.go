package agent

import (
	"context"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/events"
)

// stop begins to stop a container, and has the worker look again once it has ended. A container that is being stopped already is
// asked again with the shorter time: the runtime heeds whichever ends first.
func (w *worker) stop(ctx context.Context, in Input, s Stop) {
	a := w.agent
	w.mu.Lock()
	if w.work.Stopping == nil {
		w.work.Stopping = map[string]time.Time{}
	}
	_, again := w.work.Stopping[s.ID]
	w.work.Stopping[s.ID] = s.Kill
	w.mu.Unlock()
	pod := w.pod
	if !again && pod != nil {
		a.cfg.Events.Record(events.Container(pod, s.Name), corev1.EventTypeNormal, "Killing", s.Message)
	}
	a.idle.Add(1)
	go func() {
		defer a.idle.Done()
		if !again {
			w.preStop(ctx, pod, in.Seen, s)
		}
		timeout := int64(math.Ceil(time.Until(s.Kill).Seconds()))
		_, err := a.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: s.ID, Timeout: max(timeout, 0)})
		if status.Code(err) == codes.NotFound {
			err = nil
		}
		if ctx.Err() != nil {
			return // the agent stops; whoever comes next goes on
		}
		w.mu.Lock()
		if w.work.Stopping[s.ID].Equal(s.Kill) {
			delete(w.work.Stopping, s.ID)
		}
		w.mu.Unlock()
		if err != nil {
			a.log.Warn("stop container", "pod", w.namespace+"/"+w.name, "container", s.Name, "error", err)
			if pod != nil {
				a.cfg.Events.Record(pod, corev1.EventTypeWarning, "FailedKillPod", fmt.Sprintf("error killing pod: failed to \"KillContainer\" for %q with KillContainerError: %q", s.Name, err.Error()))
			}
			w.wakeAfter(time.Second)
			return
		}
		w.again()
	}()
}

// preStop runs the container's hook, at most until it is to be killed.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, seen Observed, s Stop) {
	c := containerOf(pod, s.Name)
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil || !time.Now().Before(s.Kill) {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, s.Kill)
	defer cancel()
	if err := w.agent.hook(ctx, withAddresses(pod, seen, w.agent.address().String()), c, c.Lifecycle.PreStop, s.ID); err != nil {
		w.agent.log.Info("preStop hook failed", "pod", w.namespace+"/"+w.name, "container", s.Name, "error", err)
		w.agent.cfg.Events.Record(events.Container(pod, s.Name), corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

// containerOf finds a container of any sort by name, or nil.
func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	if pod == nil {
		return nil
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
