package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/pressure"
)

const (
	// pressureHold is how long the node says that it is short of something after it was the last time.
	pressureHold = 5 * time.Minute
	// evictionGrace is how long the containers of a pod may take that is evicted since the node is at its end, in seconds.
	evictionGrace = 1
	// evictionWait is how long one evicted pod may take before another is evicted.
	evictionWait = 30 * time.Second
	// diskShare bounds what measuring files costs: it is begun again after so many times what it took the last time.
	diskShare = 20
)

// relief measures what of the node can run short, each time the node's own timer ticks, and makes room: it removes images that nobody uses and dead containers, and evicts
// pods, one at a time. It has a goroutine of its own since removing takes long, and the node's lease must be renewed meanwhile.
type relief struct {
	agent *Agent
	meter meter
	wake  chan struct{}

	mu     sync.Mutex // guards the fields below
	dir    string     // on the file system of images; "" until the runtime has said it
	own    bool       // images have a file system of their own
	seen   pressure.Seen
	plan   pressure.Plan
	images imageList

	// Owned by the goroutine.
	evicted   *worker   // whose room is waited for
	since     time.Time // when it was evicted
	files     time.Time // when files are measured again, of pods that have limits
	collected time.Time // when images were collected in vain
	said      time.Time // when it was told that nobody can go
}

func newRelief(a *Agent) *relief {
	pids := slices.ContainsFunc(a.cfg.EvictionHard, func(t pressure.Threshold) bool { return t.Signal == pressure.PIDAvailable })
	return &relief{agent: a, meter: kernel{proc: "/proc", files: a.cfg.DataDir, pids: pids}, wake: make(chan struct{}, 1)}
}

// again has everything looked at now.
func (r *relief) again() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run looks each time it is woken, until ctx ends.
func (r *relief) run(ctx context.Context) error {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil
		}
		news := r.askRuntime(ctx)
		if r.look() || news {
			r.agent.node.again()
		}
		if r.agent.isDraining() || r.agent.ending().on {
			continue
		}
		r.act(ctx, time.Now())
	}
}

// askRuntime learns which images there are, and where. It says whether that is news.
func (r *relief) askRuntime(ctx context.Context) (news bool) {
	a := r.agent
	if !a.node.runtimeUp() {
		return false
	}
	r.mu.Lock()
	known := r.dir != ""
	r.mu.Unlock()
	if !known {
		info, err := a.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
		if err == nil && len(info.ImageFilesystems) > 0 {
			r.mu.Lock()
			r.dir = info.ImageFilesystems[0].GetFsId().GetMountpoint()
			r.mu.Unlock()
		}
	}
	r.mu.Lock()
	mark := markOf(r.dir, a.node.runtimeName())
	same := mark != nil && slices.Equal(mark, r.images.mark)
	r.mu.Unlock()
	if same {
		return false
	}
	list, err := a.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images.mark = mark
	return r.images.update(list.Images, time.Now())
}

// look measures, and says whether the node's conditions have changed.
func (r *relief) look() (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen, r.own = r.meter.measure(r.dir)
	before := r.plan.Conditions
	r.plan = pressure.Decide(r.agent.cfg.EvictionHard, r.seen, r.plan.State, r.agent.cfg.PressureHold, time.Now())
	return !slices.Equal(before, r.plan.Conditions)
}

// conditions are what the node is short of.
func (r *relief) conditions() []corev1.NodeConditionType {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Conditions
}

// known are the images as the node's status has them.
func (r *relief) known() []corev1.ContainerImage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images.status
}

// now is what was measured last, and what follows.
func (r *relief) now() (seen pressure.Seen, plan pressure.Plan, own bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen, r.plan, r.own
}

// act makes room if there is need.
func (r *relief) act(ctx context.Context, now time.Time) {
	a := r.agent
	if r.limits(ctx, now) {
		return
	}
	_, plan, own := r.now()
	if len(plan.Short) == 0 {
		r.collect(ctx, now)
		return
	}
	if r.waiting(now) {
		return
	}
	because := plan.Short[0]
	a.cfg.Events.Record(a.node.ref(), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim "+string(because.Signal.Resource()))
	images := because.Signal == pressure.ImageFsAvailable || because.Signal == pressure.ImageFsInodes
	if because.Signal.Condition() == corev1.NodeDiskPressure && (images || !own) {
		a.removeDead(ctx)
		if _, err := r.removeImages(ctx, everything, now); err != nil && ctx.Err() == nil {
			a.log.Warn("remove images that nobody uses", "error", err)
		}
		if r.askRuntime(ctx) {
			a.node.again()
		}
		r.look()
	}
	seen, plan, own := r.now()
	if len(plan.Short) == 0 || ctx.Err() != nil {
		return
	}
	because = plan.Short[0]
	pods, err := a.usageOf(ctx, a.evictable(), because.Signal.Condition() == corev1.NodeDiskPressure)
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("measure pods", "error", err)
		}
		return
	}
	victims := pressure.Victims(pods, because, own)
	if len(victims) == 0 {
		if now.Sub(r.said) >= quiet {
			a.log.Warn("the node is short, and no pod can be evicted", "resource", because.Signal.Resource())
			r.said = now
		}
		return
	}
	r.evict(victims[0].Pod, pressure.Why(victims[0], because, plan.Short, seen), true, now)
}

// waiting says whether room is about to be made by a pod that has just been evicted.
func (r *relief) waiting(now time.Time) bool {
	w := r.evicted
	if w == nil {
		return false
	}
	w.mu.Lock()
	gone := w.work.Cleaned == CleanAll
	w.mu.Unlock()
	if gone || now.Sub(r.since) >= evictionWait {
		r.evicted = nil
	}
	return r.evicted != nil
}

// limits evicts pods that exceed a limit of their own for what they write to the node's disk. Only such pods are measured that have one.
func (r *relief) limits(ctx context.Context, now time.Time) (any bool) {
	a := r.agent
	if now.Before(r.files) {
		return false
	}
	var limited []*corev1.Pod
	for _, pod := range a.evictable() {
		if volumes, containers := pressure.Limited(pod); volumes || containers {
			limited = append(limited, pod)
		}
	}
	if len(limited) == 0 {
		return false
	}
	_, _, own := r.now()
	for _, pod := range limited {
		pods := []pressure.Pod{{Pod: pod, Usage: &pressure.Usage{}}}
		if _, containers := pressure.Limited(pod); containers {
			var err error
			if pods, err = a.usageOf(ctx, []*corev1.Pod{pod}, true); err != nil {
				continue // the runtime will be asked again
			}
		} else {
			a.measureFiles(pod, pods[0].Usage)
		}
		if why := pressure.Exceeds(pods[0], own); why != "" && !pressure.Kept(pod) {
			r.evict(pod, why, false, now)
			any = true
		}
	}
	r.files = now.Add(diskShare * time.Since(now))
	return any
}

// evictable are the pods that run here, or are about to.
func (a *Agent) evictable() (pods []*corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, pod := range a.admitted {
		w := a.workers[uid]
		if w == nil {
			continue
		}
		if now := a.cfg.View.Pod(pod.Namespace, pod.Name); now == nil || now.UID != uid || terminal(now.Status.Phase) {
			continue
		}
		w.mu.Lock()
		if w.work.Evicted == nil {
			pods = append(pods, pod)
		}
		w.mu.Unlock()
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return pods
}

// evict ends a pod for the node's sake, or because it exceeds a limit.
func (r *relief) evict(pod *corev1.Pod, why string, disrupted bool, now time.Time) {
	a := r.agent
	w := a.workerOf(pod.UID)
	if w == nil {
		return
	}
	a.log.Warn("pod is evicted", "pod", pod.Namespace+"/"+pod.Name, "because", why)
	a.cfg.Events.Record(pod, corev1.EventTypeWarning, pressure.Reason, why)
	w.mu.Lock()
	w.work.Evicted = &Failure{Reason: pressure.Reason, Message: why, At: now, Disrupted: disrupted}
	w.mu.Unlock()
	w.abandon()
	r.evicted, r.since = w, now
	a.mark(key{pod.Namespace, pod.Name, pod.UID})
}

func (a *Agent) workerOf(uid types.UID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}
