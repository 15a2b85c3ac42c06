package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/cgroup"
	"sampan.dev/internal/events"
	"sampan.dev/internal/nft"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/volume"
)

// shareOut gives the burstable pods together what they ask for each.
func (a *Agent) shareOut() error {
	a.sharing.Lock()
	defer a.sharing.Unlock()
	var sum uint64
	a.mu.Lock()
	for _, pod := range a.admitted {
		if qosOf(pod) == corev1.PodQOSBurstable {
			sum += podLimits(pod).Shares
		}
	}
	a.mu.Unlock()
	return a.cgroups.Set("burstable", cgroup.Limits{Shares: sum})
}

// begin starts the pods' workers: for what the API has, what the runtime has, and what files there are.
func (a *Agent) begin(ctx context.Context) error {
	// All pods together weigh as much against the rest of the machine as the cores that they may have; those without requests take what others leave.
	cores := a.node.allocatable()[corev1.ResourceCPU]
	if err := a.cgroups.Set("", cgroup.Limits{Shares: sharesOf(cores.MilliValue())}); err != nil {
		return err
	}
	if err := a.cgroups.Set("besteffort", cgroup.Limits{}); err != nil {
		return err
	}
	if err := a.shareOut(); err != nil {
		return err
	}
	if a.cgroups.Parent() != "" {
		a.enforced.Store(true)
		a.node.again()
	}
	a.mu.Lock()
	a.running = ctx
	a.mu.Unlock()
	a.markAll(ctx)
	a.markFiles()
	return nil
}

// life is the context of what outlives one pass: Run's.
func (a *Agent) life() context.Context {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}
	return a.running
}

// markAll marks every pod of the view and of the runtime. It says whether the runtime answered.
func (a *Agent) markAll(ctx context.Context) bool {
	for _, pod := range a.cfg.View.Pods() {
		a.mark(key{pod.Namespace, pod.Name, pod.UID})
	}
	r, err := a.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("list sandboxes", "error", err)
		}
		return false
	}
	for _, s := range r.Items {
		if uid := s.Labels[labelPodUID]; uid != "" {
			a.mark(key{s.Labels[labelPodNamespace], s.Labels[labelPodName], types.UID(uid)})
		}
	}
	return true
}

// markFiles marks pods of which only files are left: a crash came between the runtime's part of cleaning up and theirs.
func (a *Agent) markFiles() {
	uids, err := a.volumes.Pods()
	if err != nil {
		a.log.Warn("look for files of pods", "error", err)
	}
	for _, uid := range uids {
		a.mu.Lock()
		known := a.workers[uid] != nil
		a.mu.Unlock()
		if !known {
			a.mark(key{uid: uid})
		}
	}
	dirs, _ := os.ReadDir(filepath.Join(a.cfg.DataDir, "logs", "pods"))
	for _, d := range dirs {
		part := strings.SplitN(d.Name(), "_", 3)
		if len(part) == 3 {
			a.mark(key{part[0], part[1], types.UID(part[2])})
		}
	}
	groups, _ := a.cgroups.Pods()
	for _, g := range groups {
		uid := types.UID(strings.TrimPrefix(filepath.Base(g), "pod"))
		a.mu.Lock()
		known := a.workers[uid] != nil
		a.mu.Unlock()
		if !known {
			a.mark(key{uid: uid})
		}
	}
}

// podChanged is called by the view, in order. It only marks.
func (a *Agent) podChanged(old, new *corev1.Pod) {
	a.unnoted.Store(true)
	if old != nil && (new == nil || new.UID != old.UID) {
		a.mu.Lock()
		if w := a.workers[old.UID]; w != nil { // else this agent finished it, and the API says so
			w.abandon()
			a.markLocked(key{old.Namespace, old.Name, old.UID})
		}
		a.mu.Unlock()
	}
	if new == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[new.UID]; w != nil {
		if new.DeletionTimestamp != nil {
			w.abandon()
		}
		if old != nil && (!equality.Semantic.DeepEqual(old.Labels, new.Labels) || !equality.Semantic.DeepEqual(old.Annotations, new.Annotations)) {
			w.refresh()
		}
	}
	a.markLocked(key{new.Namespace, new.Name, new.UID})
}

// abandon has the worker stop making a pod that is to go.
func (w *worker) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.giveUp != nil {
		w.giveUp()
	}
}

// refresh has the worker bring volumes up to date, and try again what failed.
func (w *worker) refresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = true
}

// configChanged is called by the view when a ConfigMap or Secret may have changed.
func (a *Agent) configChanged(namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		if w.namespace != namespace {
			continue
		}
		if pod := a.cfg.View.Pod(w.namespace, w.name); pod != nil && pod.UID == w.uid && volume.Refers(pod, name) {
			w.refresh()
			a.markLocked(w.key)
		}
	}
}

// followRuntime marks the pods of containers that something happens to, until ctx ends. After each gap it marks all pods.
func (a *Agent) followRuntime(ctx context.Context) {
	delay := 50 * time.Millisecond
	for ctx.Err() == nil {
		stream, err := a.runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
		if err == nil && a.markAll(ctx) {
			a.node.runtimeIs(true)
			delay = 50 * time.Millisecond
			// The runtime may begin to tell a moment after the call was made: what came between is looked for once more.
			again := time.AfterFunc(time.Second, func() { a.markAll(ctx) })
			err = a.follow(stream)
			again.Stop()
		}
		if ctx.Err() != nil {
			return
		}
		a.node.runtimeIs(false)
		a.log.Warn("container runtime does not answer", "again", delay, "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		delay = min(2*delay, time.Second)
		if conn, ok := a.cfg.CRI.(interface{ ResetConnectBackoff() }); ok {
			conn.ResetConnectBackoff()
		}
	}
}

func (a *Agent) follow(stream cri.RuntimeService_GetContainerEventsClient) error {
	for {
		event, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("follow container events: %w", err)
		}
		m := event.GetPodSandboxStatus().GetMetadata()
		if m.GetUid() == "" {
			a.markAll(stream.Context())
			continue
		}
		a.mark(key{m.Namespace, m.Name, types.UID(m.Uid)})
	}
}

// tell says by events why containers wait, once for each time they begin to.
func (w *worker) tell(plan Plan) {
	if w.pod == nil {
		return
	}
	said := map[string]string{}
	for name, waiting := range plan.Waiting {
		said[name] = waiting.Reason
		if w.said[name] == waiting.Reason {
			continue
		}
		ref := events.Container(w.pod, name)
		switch waiting.Reason {
		case reasonCrashLoop:
			w.agent.cfg.Events.Record(ref, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", name, describe(w.pod)))
		case reasonPullBackOff:
			c := containerOf(w.pod, name)
			w.agent.cfg.Events.Record(ref, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image))
			w.agent.cfg.Events.Record(ref, corev1.EventTypeWarning, "Failed", "Error: "+reasonPullBackOff)
		}
	}
	w.said = said
}

// publishPorts makes the pod's host ports lead to it.
func (a *Agent) publishPorts(ctx context.Context, pod *corev1.Pod, sandbox *Sandbox) error {
	if a.cfg.Ports == nil || pod.Spec.HostNetwork || sandbox == nil || len(sandbox.IPs) == 0 {
		return nil
	}
	to, err := netip.ParseAddr(sandbox.IPs[0])
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	var ports []podnet.HostPort
	for _, p := range hostPorts(pod) {
		port := podnet.HostPort{Proto: protoOf(p.Protocol), HostPort: uint16(p.HostPort), Pod: to, PodPort: uint16(p.ContainerPort)}
		if p.HostIP != "" {
			if port.HostIP, err = netip.ParseAddr(p.HostIP); err != nil {
				return fmt.Errorf("host ports: %w", err)
			}
		}
		ports = append(ports, port)
	}
	if len(ports) == 0 {
		return nil
	}
	return a.cfg.Ports.SetHostPorts(ctx, string(pod.UID), ports)
}

func protoOf(p corev1.Protocol) nft.Proto {
	switch p {
	case corev1.ProtocolUDP:
		return nft.UDP
	case corev1.ProtocolSCTP:
		return nft.SCTP
	}
	return nft.TCP
}
