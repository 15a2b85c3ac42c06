package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/cgroup"
	"sampan.dev/internal/volume"
)

// slow is how long making a pod may take before its status says that it is being made.
const slow = 200 * time.Millisecond

// retryAfter is when something that failed is tried again, if nothing that it needs changes before.
const retryAfter = 10 * time.Second

// apply does what the plan says. What fails by the pod's own fault is noted for the next decision; other errors are returned.
func (w *worker) apply(ctx context.Context, in Input, plan Plan) error {
	for _, s := range plan.Stop {
		w.stop(ctx, in, s)
	}
	if err := w.clear(ctx, plan); err != nil {
		return err
	}
	switch {
	case plan.Clean != CleanNothing:
		return w.cleanUp(ctx, in, plan)
	case plan.Delete:
		if err := w.agent.cfg.API.DeletePod(ctx, w.namespace, w.name, w.uid); err != nil {
			return fmt.Errorf("delete pod: %w", err)
		}
		return w.leave(ctx)
	}
	return w.make(ctx, in, plan)
}

// leave waits for the next mark: the view will say that the pod is gone.
func (w *worker) leave(context.Context) error {
	w.agent.forget(w)
	return errGone
}

var errGone = errors.New("the pod is gone")

// clear removes what nobody needs any more.
func (w *worker) clear(ctx context.Context, plan Plan) error {
	a := w.agent
	g, ctx := errgroup.WithContext(ctx)
	for _, id := range plan.StopSandboxes {
		g.Go(func() error {
			if _, err := a.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil && status.Code(err) != codes.NotFound {
				return fmt.Errorf("stop sandbox %s: %w", id, err)
			}
			return nil
		})
	}
	for _, c := range plan.Remove {
		g.Go(func() error { return w.remove(ctx, c) })
	}
	for _, id := range plan.RemoveSandboxes {
		g.Go(func() error { return a.removeSandbox(ctx, id) })
	}
	return g.Wait()
}

func (a *Agent) removeSandbox(ctx context.Context, id string) error {
	if _, err := a.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// remove removes a dead container, its logs and its last words.
func (w *worker) remove(ctx context.Context, c Container) error {
	a := w.agent
	if _, err := a.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.ID}); err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	names, _ := filepath.Glob(filepath.Join(a.logDir(w.namespace, w.name, w.uid), logFile(c.Name, c.Attempt)) + "*")
	for _, name := range append(names, a.lastWordsFile(w.uid, c.Name, c.Attempt)) {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove container %s: %w", c.ID, err)
		}
	}
	return nil
}

// cleanUp removes what is left of a pod that is down, while its last status is written.
func (w *worker) cleanUp(ctx context.Context, in Input, plan Plan) error {
	a := w.agent
	var errs [2]error
	g := errgroup.Group{}
	if in.Pod != nil {
		g.Go(func() error { errs[0] = w.report(ctx, in, plan); return nil })
	}
	g.Go(func() error {
		if a.cfg.Ports != nil {
			errs[1] = a.cfg.Ports.SetHostPorts(ctx, string(w.uid), nil)
		}
		if plan.Clean == CleanVolumes {
			errs[1] = errors.Join(errs[1], a.volumes.RemoveVolumes(w.uid), a.removeCgroup(w.key, w.pod))
			return nil
		}
		for _, s := range in.Seen.Sandboxes {
			errs[1] = errors.Join(errs[1], a.removeSandbox(ctx, s.ID))
		}
		errs[1] = errors.Join(errs[1], a.volumes.Teardown(w.uid), a.removeCgroup(w.key, w.pod))
		if w.name != "" {
			errs[1] = errors.Join(errs[1], os.RemoveAll(a.logDir(w.namespace, w.name, w.uid)))
		}
		return nil
	})
	_ = g.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	a.release(w.uid)
	w.mu.Lock()
	w.work.Cleaned, w.work.Prepared = plan.Clean, false
	evicted := w.work.Evicted != nil
	w.mu.Unlock()
	if evicted {
		a.relief.again() // is it enough?
	}
	return nil
}

// make prepares, makes and starts. What does not depend on one another is done at the same time. A pod that is to go meanwhile
// stops it.
func (w *worker) make(parent context.Context, in Input, plan Plan) error {
	if in.Pod == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	w.mu.Lock()
	w.giveUp = cancel
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.giveUp = nil
		w.mu.Unlock()
	}()
	done := make(chan error, 1)
	go func() { done <- w.doMake(ctx, in, plan) }()
	select {
	case err := <-done:
		return err
	case <-time.After(slow):
		if err := w.report(parent, in, plan); err != nil && parent.Err() == nil {
			w.agent.log.Warn("pod: write status", "pod", w.namespace+"/"+w.name, "error", err)
		}
		return <-done
	}
}

func (w *worker) doMake(ctx context.Context, in Input, plan Plan) error {
	g := errgroup.Group{}
	if plan.Prepare {
		g.Go(func() error { return w.prepare(ctx, in) })
	}
	if plan.NewSandbox != nil {
		g.Go(func() error { return w.newSandbox(ctx, in, *plan.NewSandbox) })
	}
	for _, name := range plan.Images {
		g.Go(func() error { return w.findImage(ctx, in.Pod, name) })
	}
	for _, s := range plan.Start {
		g.Go(func() error { return w.start(ctx, in, s) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil // the next pass takes it down
	}
	return err
}

// prepare makes the pod's directories, its cgroup and its volumes.
func (w *worker) prepare(ctx context.Context, in Input) error {
	a, pod := w.agent, in.Pod
	err := os.MkdirAll(a.logDir(pod.Namespace, pod.Name, pod.UID), 0o755)
	if err == nil {
		err = a.makeCgroup(pod)
	}
	if err == nil {
		shown := withAddresses(pod, in.Seen, a.address().String())
		_, err = a.volumes.Setup(ctx, shown)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.work.Prepared, w.work.Unready = true, nil
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	now := time.Now()
	w.work.Unready = &Failure{Reason: "FailedMount", Message: err.Error(), At: now, Retry: now.Add(retryAfter)}
	var failed *volume.Error
	if errors.As(err, &failed) {
		a.cfg.Events.Record(pod, corev1.EventTypeWarning, "FailedMount", failed.Error())
	} else {
		a.cfg.Events.Record(pod, corev1.EventTypeWarning, "FailedSync", fmt.Sprintf("error preparing the pod: %v", err))
	}
	return nil
}

// newSandbox makes the pod's sandbox.
func (w *worker) newSandbox(ctx context.Context, in Input, s NewSandbox) error {
	a, pod := w.agent, in.Pod
	if s.Changed {
		a.cfg.Events.Record(pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	config, err := a.sandboxConfig(pod, s.Attempt)
	if err == nil {
		// The sandbox needs its cgroup, which prepare also makes: whoever comes first makes it.
		err = a.makeCgroup(pod)
	}
	handler := ""
	if err == nil {
		handler, err = a.handler(ctx, pod)
	}
	if err == nil {
		_, err = a.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.work.NoSandbox = nil
	if err == nil || ctx.Err() != nil {
		return nil
	}
	now := time.Now()
	w.work.NoSandbox = &Failure{Reason: "FailedCreatePodSandBox", Message: err.Error(), At: now, Retry: now.Add(retryAfter)}
	a.cfg.Events.Record(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
	return nil
}

// handler is which of the runtime's handlers runs the pod, by its class; empty: the usual one.
func (a *Agent) handler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, err := a.cfg.View.RuntimeClass(ctx, *name)
	if apierrors.IsNotFound(err) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("failed to lookup RuntimeClass %s: %w", *name, err)
	}
	return class.Handler, nil
}

// makeCgroup makes the pod's group, and room for it among the burstable ones.
func (a *Agent) makeCgroup(pod *corev1.Pod) error {
	if err := a.cgroups.Set(groupOf(pod), podLimits(pod)); err != nil {
		return err
	}
	if qosOf(pod) == corev1.PodQOSBurstable {
		return a.shareOut()
	}
	return nil
}

func (a *Agent) removeCgroup(k key, pod *corev1.Pod) error {
	if pod != nil {
		return a.cgroups.Remove(groupOf(pod))
	}
	var errs []error
	for _, class := range []string{"", "burstable", "besteffort"} {
		errs = append(errs, a.cgroups.Remove(filepath.Join(class, "pod"+string(k.uid))))
	}
	return errors.Join(errs...)
}

// groupOf is the pod's cgroup below the parent, in its class.
func groupOf(pod *corev1.Pod) string {
	name := "pod" + string(pod.UID)
	switch qosOf(pod) {
	case corev1.PodQOSBurstable:
		return filepath.Join("burstable", name)
	case corev1.PodQOSBestEffort:
		return filepath.Join("besteffort", name)
	}
	return name
}

func podLimits(pod *corev1.Pod) cgroup.Limits { return resourcesOf(pod).limits }

// withAddresses is the pod with the addresses that are known by now, for those who read them as fields.
func withAddresses(pod *corev1.Pod, seen Observed, hostIP string) *corev1.Pod {
	out := *pod
	s := statusOf{Input: Input{Pod: pod, Seen: seen}, HostIP: hostIP}
	out.Status.HostIP, out.Status.HostIPs = hostIP, []corev1.HostIP{{IP: hostIP}}
	s.setPodIPs(&out.Status)
	return &out
}
