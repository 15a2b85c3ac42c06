package agent

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// key names a pod. A pod that is made again under the same name is another one.
type key struct {
	namespace, name string
	uid             types.UID
}

// worker drives one pod. It has a goroutine only while there is something to do.
type worker struct {
	key
	agent *Agent

	mu      sync.Mutex // guards the fields below
	active  bool       // a goroutine is in run
	dirty   bool       // something may have changed since it last looked
	timer   *time.Timer
	named   *key // the name of a worker that was made for files, of which only the uid was known
	work    Work
	giveUp  context.CancelFunc // of making and starting, once the pod is to go
	changed bool               // of volumes' content or spec: prepare again
	guarded string             // id of the sandbox for which network policies are in force
	running []Container        // as last seen, for those who serve and rotate logs

	// Owned by the goroutine.
	memory  memory
	pod     *corev1.Pod       // as last seen
	stored  *corev1.Pod       // as last written, while the view is behind
	said    map[string]string // reason of waiting last told as an event, by container
	grace   time.Duration     // that DownSince belongs to
	behind  bool              // connections to some Service went to the pod until its deletion
	left    time.Time         // since when they do not any more; zero: they do
	retries int
	ports   string // id of the sandbox that the host ports lead to
}

// mark has the pod looked at, now or once its worker is done with what it does.
func (a *Agent) mark(k key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.markLocked(k)
}

func (a *Agent) markLocked(k key) {
	if a.running == nil {
		return // begin will mark everything
	}
	w := a.workers[k.uid]
	if w == nil {
		w = &worker{key: k, agent: a}
		a.workers[k.uid] = w
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true
	if w.name == "" && k.name != "" {
		w.named = &k
	}
	if !w.active {
		w.active = true
		a.idle.Add(1)
		go w.run(a.running)
	}
}

// again marks the worker from its own asynchronous parts and timers.
func (w *worker) again() {
	w.mu.Lock()
	k := w.key
	w.mu.Unlock()
	w.agent.mark(k)
}

// begin answers all marks so far, and takes the name that one of them brought. Others read the name under either lock.
func (w *worker) begin() {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = false
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if w.named != nil {
		w.key, w.named = *w.named, nil
	}
}

func (w *worker) run(ctx context.Context) {
	defer w.agent.idle.Done()
	for {
		w.begin()
		more := ctx.Err() == nil && w.pass(ctx)
		if more {
			continue
		}
		if w.rest(ctx) {
			return
		}
	}
}

// rest ends the goroutine, unless it was marked meanwhile.
func (w *worker) rest(ctx context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirty && ctx.Err() == nil {
		return false
	}
	w.active = false
	return true
}

// wakeAfter has the worker look again after a while, if nothing happens before.
func (w *worker) wakeAfter(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(max(d, time.Millisecond), w.again)
}

// retry has a pass that failed repeated, later each time.
func (w *worker) retry(what string, err error) {
	delay := min(100*time.Millisecond<<min(w.retries, 7), 10*time.Second)
	w.retries++
	w.agent.log.Warn("pod: "+what, "pod", w.namespace+"/"+w.name, "uid", w.uid, "attempt", w.retries, "again", delay, "error", err)
	w.wakeAfter(delay)
}

// pass observes, decides and applies once. It says whether to do so again at once.
func (w *worker) pass(ctx context.Context) bool {
	a := w.agent
	pod := w.newest(a.cfg.View.Pod(w.namespace, w.name))
	if pod != nil {
		w.pod = pod
	}
	w.mu.Lock()
	stopping := maps.Collect(maps.All(w.work.Stopping)) // before looking: what has been stopped since may still be seen running
	w.mu.Unlock()
	seen, err := a.observe(ctx, w.uid, &w.memory)
	if err != nil {
		if ctx.Err() == nil {
			w.retry("observe", err)
		}
		return false
	}
	if pod != nil && !a.admit(w, pod, seen) {
		a.log.Info("pod is not admitted", "pod", w.namespace+"/"+w.name)
	}
	if err := w.publish(ctx, pod, seen); err != nil {
		w.retry("publish host ports", err)
		return false
	}
	a.prober.follow(ctx, w, pod, seen)
	in := w.input(pod, seen)
	maps.Copy(stopping, in.Work.Stopping)
	in.Work.Stopping = stopping
	plan := Decide(in)
	w.down(in, plan)
	w.tell(plan)
	if plan.Idle() {
		return w.finish(ctx, in, plan)
	}
	if err := w.apply(ctx, in, plan); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errGone) {
			w.retry("apply", err)
		}
		return false
	}
	w.retries = 0
	return true
}

// input is what is known now, as values that will not change under the decision.
func (w *worker) input(pod *corev1.Pod, seen Observed) Input {
	a := w.agent
	now := time.Now()
	w.unsent(pod, now)
	drain, fenced, going := a.isDraining(), a.isFenced(w.uid), a.ending() // the agent's lock comes before the worker's
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteRunning(seen)
	if w.changed {
		w.changed, w.work.Prepared, w.work.Unready, w.work.Failed = false, false, nil, nil
	}
	work := w.work
	work.Images, work.Failed, work.Stopping = maps.Clone(work.Images), maps.Clone(work.Failed), maps.Clone(work.Stopping)
	in := Input{Pod: pod, Seen: seen, Work: work, Behind: w.behind, Left: w.left, Probed: a.prober.verdicts(w.uid), Drain: drain, Fenced: fenced, Shutdown: going, Now: now, Delay: a.cfg.RestartDelay, MaxDelay: a.cfg.MaxRestartDelay}
	if pod == nil && in.Seen.Grace == 0 && w.pod != nil && w.pod.Spec.TerminationGracePeriodSeconds != nil {
		in.Seen.Grace = *w.pod.Spec.TerminationGracePeriodSeconds
	}
	if grace := graceOf(in); grace != w.grace { // another grace counts from when it was asked for
		w.work.DownSince, in.Work.DownSince, w.grace = time.Time{}, time.Time{}, grace
	}
	return in
}

// unsent follows whether a pod that is being deleted is still sent connections, and has it looked at when it is not any more.
func (w *worker) unsent(pod *corev1.Pod, now time.Time) {
	if pod == nil || pod.DeletionTimestamp == nil || !w.left.IsZero() {
		return
	}
	at, left := w.agent.servedAt(pod)
	switch {
	case len(at) > 0 && !w.behind:
		w.behind = true
		for _, a := range at {
			w.agent.cfg.Proxy.OnLeft(a, w.again)
		}
	case len(at) == 0 && !left.IsZero():
		w.behind, w.left = true, left
	case len(at) == 0 && w.behind:
		w.left = now
	}
}

// down remembers since when the pod is being taken down.
func (w *worker) down(in Input, plan Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !plan.Down:
		w.work.DownSince = time.Time{}
		w.work.Cleaned = CleanNothing
	case w.work.DownSince.IsZero():
		w.work.DownSince = in.Now
	}
}

// finish reports the status once there is nothing to do, and forgets a pod of which nothing is left.
func (w *worker) finish(ctx context.Context, in Input, plan Plan) bool {
	if in.Pod != nil && !in.Drain && !in.Fenced {
		if err := w.report(ctx, in, plan); err != nil {
			if ctx.Err() == nil {
				w.retry("write status", err)
			}
			return false
		}
	}
	w.retries = 0
	a := w.agent
	switch {
	case in.Pod == nil && in.Work.Cleaned == CleanAll && len(in.Seen.Sandboxes)+len(in.Seen.Containers) == 0:
		a.forget(w)
		if w.pod != nil && qosOf(w.pod) == corev1.PodQOSBurstable {
			if err := a.shareOut(); err != nil {
				a.log.Warn("share the processor out", "error", err)
			}
		}
	case !plan.Wake.IsZero():
		w.wakeAfter(plan.Wake.Sub(in.Now))
	}
	a.stopped(w)
	return false
}

// forget drops the worker, unless it was marked meanwhile.
func (a *Agent) forget(w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(a.admitted, w.uid)
	delete(a.fence.stopped, w.uid)
	if !w.dirty && a.workers[w.uid] == w {
		delete(a.workers, w.uid)
	}
}

// report writes the pod's status, if it is not what the API has.
func (w *worker) report(ctx context.Context, in Input, plan Plan) error {
	a := w.agent
	of := statusOf{Input: in, Plan: plan, HostIP: a.address().String(), HostIP6: text(a.address6()), Runtime: a.node.runtimeName()}
	if status := of.status(); equality.Semantic.DeepEqual(&status, &in.Pod.Status) {
		return nil
	}
	stored, err := a.cfg.API.UpdatePodStatus(ctx, w.namespace, w.name, w.uid, func(now *corev1.Pod) {
		of := of
		of.Pod = now
		now.Status = of.status()
	})
	if apierrors.IsNotFound(err) {
		return nil // gone meanwhile; the view will say so
	}
	if err != nil {
		return err
	}
	w.stored = stored
	return nil
}

// newest is the pod of the view, or what was stored since.
func (w *worker) newest(pod *corev1.Pod) *corev1.Pod {
	if pod == nil || pod.UID != w.uid {
		w.stored = nil
		return nil
	}
	if w.stored != nil && revision(w.stored) > revision(pod) {
		return w.stored
	}
	w.stored = nil
	return pod
}

func revision(pod *corev1.Pod) uint64 {
	rev, _ := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	return rev
}

// publish makes the pod's host ports lead to its sandbox, once for each.
func (w *worker) publish(ctx context.Context, pod *corev1.Pod, seen Observed) error {
	current := seen.Current()
	if pod == nil || current == nil || pod.DeletionTimestamp != nil || w.ports == current.ID {
		return nil
	}
	if err := w.agent.publishPorts(ctx, pod, current); err != nil {
		return err
	}
	w.ports = current.ID
	return nil
}

// noteRunning remembers what runs, and wakes those who follow the log of what no longer does.
func (w *worker) noteRunning(seen Observed) {
	before := w.running
	w.running = nil
	for _, c := range seen.Containers {
		if c.State == Running {
			w.running = append(w.running, c)
		}
	}
	for _, c := range before {
		if !slices.ContainsFunc(w.running, func(now Container) bool { return now.ID == c.ID }) {
			w.agent.watcher.Wake(filepath.Join(w.agent.logDir(w.namespace, w.name, w.uid), c.Name))
		}
	}
}
