package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/events"
	"sampan.dev/internal/probe"
)

// prober keeps a watch for each running container that has probes.
type prober struct {
	agent   *Agent
	metrics *probeMetrics

	mu      sync.Mutex                      // guards the fields below
	watches map[types.UID]map[string]probed // by container's name
	closed  bool
}

type probed struct {
	id string // of the container
	*probe.Watch
}

func newProber(a *Agent) *prober {
	return &prober{agent: a, metrics: newProbeMetrics(), watches: map[types.UID]map[string]probed{}}
}

// follow has the probes of a pod's running containers watched, and no others. A pod that has gone has none.
func (p *prober) follow(ctx context.Context, w *worker, pod *corev1.Pod, seen Observed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	running := map[string]*Container{}
	if pod != nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		for _, c := range probedContainers(pod) {
			if have := seen.Newest(c.Name); have != nil && have.State == Running {
				running[c.Name] = have
			}
		}
	}
	for name, old := range p.watches[w.uid] {
		if have := running[name]; have == nil || have.ID != old.id {
			old.Stop()
			delete(p.watches[w.uid], name)
		}
	}
	for name, have := range running {
		if p.watches[w.uid] == nil {
			p.watches[w.uid] = map[string]probed{}
		}
		if _, watched := p.watches[w.uid][name]; !watched {
			p.watches[w.uid][name] = probed{have.ID, p.watch(ctx, w, pod, seen, have)}
		}
		if pod.DeletionTimestamp != nil {
			p.watches[w.uid][name].Terminating()
		}
	}
	if len(p.watches[w.uid]) == 0 {
		delete(p.watches, w.uid)
		if pod == nil {
			p.metrics.forget(w.uid)
		}
	}
}

// probedContainers are those that are probed: not the init containers that end, which have no probes.
func probedContainers(pod *corev1.Pod) (all []*corev1.Container) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if probe.Has(&list[i]) {
				all = append(all, &list[i])
			}
		}
	}
	return all
}

// watch begins to watch one container. The caller holds mu.
func (p *prober) watch(ctx context.Context, w *worker, pod *corev1.Pod, seen Observed, have *Container) *probe.Watch {
	pod = withAddresses(pod, seen, p.agent.address().String())
	c, id := containerOf(pod, have.Name), have.ID
	target := probe.Target{IP: pod.Status.PodIP, Container: c, Exec: func(ctx context.Context, command []string, timeout time.Duration) (int32, string, error) {
		return p.agent.probeExec(ctx, id, command, timeout)
	}}
	return probe.Begin(probe.Options{
		Container: c, Began: have.Started, Before: reported(pod, have),
		Run: func(pr *corev1.Probe) (probe.Result, string, error) {
			if !p.enter() {
				return probe.Unknown, "", context.Canceled
			}
			defer p.agent.idle.Done()
			return probe.Run(ctx, pr, target)
		},
		Tell: func(reason, message string) {
			p.agent.cfg.Events.Record(events.Container(pod, c.Name), corev1.EventTypeWarning, reason, message)
		},
		Count:   func(kind string, r probe.Result, took time.Duration) { p.metrics.count(pod, c.Name, kind, r, took) },
		Changed: w.again,
	})
}

// enter counts a probe among what the agent waits for at its end; not any more if that has come.
func (p *prober) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.agent.idle.Add(1)
	}
	return !p.closed
}

// reported is what the API knows of this very container, from an agent before this one; nil if it knows nothing.
func reported(pod *corev1.Pod, have *Container) *probe.Verdict {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Name == have.Name && s.State.Running != nil && strings.HasSuffix(s.ContainerID, "://"+have.ID) {
				return &probe.Verdict{Started: s.Started != nil && *s.Started, Ready: s.Ready}
			}
		}
	}
	return nil
}

// verdicts are what is known of a pod's containers that have probes, by container ID.
func (p *prober) verdicts(uid types.UID) map[string]probe.Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.watches[uid]) == 0 {
		return nil
	}
	all := make(map[string]probe.Verdict, len(p.watches[uid]))
	for _, w := range p.watches[uid] {
		all[w.id] = w.Verdict()
	}
	return all
}

// close ends all watches.
func (p *prober) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, pod := range p.watches {
		for _, w := range pod {
			w.Stop()
		}
	}
}

// probeExec runs a probe's command in a container.
func (a *Agent) probeExec(ctx context.Context, id string, command []string, timeout time.Duration) (int32, string, error) {
	r, err := a.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(math.Ceil(timeout.Seconds()))})
	if status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return 0, "", probe.ErrTimeout
	}
	if err != nil {
		return 0, "", err
	}
	return r.ExitCode, string(slices.Concat(r.Stdout, r.Stderr)), nil
}

// probed is what the probes of a container have found; one without probes is started and ready as long as it runs.
func (in Input) probed(c *Container) probe.Verdict {
	if v, ok := in.Probed[c.ID]; ok {
		return v
	}
	return probe.Verdict{Started: true, Ready: true}
}

// unwell plans to stop a container that a probe has given up.
func (k *keeper) unwell(c *corev1.Container, have *Container) {
	v := k.probed(have)
	if v.Failed == "" {
		return
	}
	p := c.LivenessProbe
	if v.Failed == probe.Startup {
		p = c.StartupProbe
	}
	grace := graceOf(k.Input)
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	k.plan.stop(k.Input, *have, k.Now.Add(grace), fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, v.Failed))
}

// annotationStopDelay says how long a pod's containers are left to serve after its deletion has begun, before they are asked to stop: "0s", "2s".
const annotationStopDelay = "sampan.dev/stop-delay"

// stopDelay is that for pods that say nothing, if they are ready by a probe or behind a Service: those who send requests learn of the deletion at the same
// time as the agent, and are spared a connection that is refused. Behind a Service it begins when this node's own proxy has left the pod, which shows that
// the news has gone all the way, and is as long for those of other nodes; after mostLeaving it is not waited for any more.
const (
	stopDelay     = 100 * time.Millisecond
	mostLeaving   = 2 * time.Second
	mostStopDelay = 10 * time.Second
)

// servesUntil says until when a pod that is being deleted goes on serving; zero: it has no reason to.
func servesUntil(in Input) time.Time {
	d, told := stopDelay, false
	if text, ok := in.Pod.Annotations[annotationStopDelay]; ok {
		if asked, err := time.ParseDuration(text); err == nil {
			d, told = min(asked, mostStopDelay), true
		}
	} else if !in.Behind && !slices.ContainsFunc(in.Pod.Spec.Containers, func(c corev1.Container) bool { return c.ReadinessProbe != nil }) {
		return time.Time{}
	}
	ready := slices.ContainsFunc(in.Pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	running := slices.ContainsFunc(in.Seen.Containers, func(c Container) bool { return c.State == Running })
	if !ready || !running || len(in.Work.Stopping) > 0 || graceOf(in) <= d {
		return time.Time{}
	}
	since := in.Work.DownSince
	if since.IsZero() {
		since = in.Now
	}
	until := since.Add(d)
	if !in.Behind || told {
		return until
	}
	most := since.Add(min(mostLeaving, graceOf(in)/2))
	if in.Left.IsZero() {
		return most
	}
	if until = in.Left.Add(d); until.After(most) {
		return most
	}
	return until
}

// servedAt are the pod's addresses that connections to some Service go to, and when those ended that went there until not long ago.
func (a *Agent) servedAt(pod *corev1.Pod) (all []netip.Addr, left time.Time) {
	if a.cfg.Proxy == nil || pod.Spec.HostNetwork {
		return nil, left
	}
	for _, p := range pod.Status.PodIPs {
		ip, err := netip.ParseAddr(p.IP)
		if err != nil {
			continue
		}
		sends, until := a.cfg.Proxy.Sends(ip.Unmap())
		if sends {
			all = append(all, ip.Unmap())
		}
		if until.After(left) {
			left = until
		}
	}
	return all, left
}
