package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The lease is renewed on the agent's only timer; on every tick of these, logs are looked at for their size, and the node's status for
// changes. An unchanged status is written every heartbeat.
const (
	tick          = 10 * time.Second
	leaseDuration = 40 * time.Second
	heartbeat     = 5 * time.Minute
	quiet         = time.Minute      // between two words about the same trouble
	downAfter     = 10 * time.Second // a runtime that only restarts does not make the node unready
)

// nodeKeeper keeps the Node object and its Lease.
type nodeKeeper struct {
	agent *Agent
	wake  chan struct{}
	told  told // by the goroutine that runs it

	mu      sync.Mutex // guards the fields below; nothing else is locked while it is held
	node    *corev1.Node
	name    string // of the runtime
	version string
	down    time.Time // since when the runtime does not answer; zero: it does
	wrote   time.Time
	system  corev1.NodeSystemInfo
	cap     corev1.ResourceList
	alloc   corev1.ResourceList
}

func newNodeKeeper(a *Agent) *nodeKeeper {
	k := &nodeKeeper{agent: a, wake: make(chan struct{}, 1), name: "sampan", down: time.Now()}
	k.cap, k.alloc = capacity(a.cfg.DataDir, a.cfg.MaxPods, a.cfg.EvictionHard)
	k.system = nodeInfo(a.cfg.Version)
	a.volumes.Allocatable = k.allocatable
	a.volumes.Labels = k.seenLabels
	return k
}

// seenLabels are those of the node as it was last seen.
func (k *nodeKeeper) seenLabels() map[string]string {
	if node := k.last(); node != nil {
		return node.Labels
	}
	return nil
}

func (k *nodeKeeper) runtimeName() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.name
}

func (k *nodeKeeper) allocatable() corev1.ResourceList { return k.alloc }
func (k *nodeKeeper) memory() int64                    { return k.cap.Memory().Value() }

// last is the node as it was last read or written.
func (k *nodeKeeper) last() *corev1.Node {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.node
}

// runtimeIs notes whether the runtime answers.
func (k *nodeKeeper) runtimeIs(up bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case up && !k.down.IsZero():
		k.down = time.Time{}
		k.again()
		k.agent.relief.again()
	case !up && k.down.IsZero():
		k.down = time.Now()
	}
}

// runtimeUp says whether the runtime is known, and answers.
func (k *nodeKeeper) runtimeUp() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.down.IsZero()
}

// again has the node's status looked at now.
func (k *nodeKeeper) again() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run registers the node and keeps its status and lease, until ctx ends.
func (k *nodeKeeper) run(ctx context.Context) error {
	a := k.agent
	ticker := time.NewTicker(min(tick, a.cfg.Lease*5/9))
	defer ticker.Stop()
	registered, configured := false, false
	var looked, measured, said time.Time
	a.relief.look() // so that the node is not registered as better than it is
	retry, woken := 100*time.Millisecond, true
	for {
		var failed error
		if !configured {
			configured = k.askRuntime(ctx)
		}
		if !registered {
			if failed = k.register(ctx); failed == nil {
				registered = true
			} else {
				a.unheard(ctx)
			}
		}
		if registered {
			if err := k.renew(ctx); err != nil {
				failed = err
			}
		}
		if now := time.Now(); failed == nil && (woken || now.Sub(looked) >= tick) {
			if registered {
				if err := k.update(ctx); err != nil {
					failed = err
				}
			}
			a.rotateLogs(ctx)
			looked, woken = now, failed != nil
		}
		if now := time.Now(); now.Sub(measured) > tick*9/10 { // a tick that comes a little early is one
			a.relief.again()
			measured = now
		}
		var soon <-chan time.Time
		a.noteGuarded()
		if left := a.enforce(); failed != nil && left > 0 {
			retry = min(retry, left)
		}
		if failed != nil || !configured {
			if failed != nil && ctx.Err() == nil && time.Since(said) >= quiet {
				a.log.Warn("node", "again", retry, "error", failed)
				said = time.Now()
			}
			soon = time.After(retry)
			retry = min(2*retry, tick, a.cfg.Lease/4)
		} else {
			retry = 100 * time.Millisecond
		}
		select {
		case <-ticker.C:
		case <-k.wake:
			woken = true
		case <-soon:
		case <-ctx.Done():
			return nil
		}
	}
}

// askRuntime learns the runtime's name, and tells it the addresses of its pods.
func (k *nodeKeeper) askRuntime(ctx context.Context) bool {
	a := k.agent
	v, err := a.runtime.Version(ctx, &cri.VersionRequest{Version: "v1"})
	if err != nil {
		return false
	}
	if ranges := k.podCIDRs(); len(ranges) > 0 {
		_, err := a.runtime.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{
			RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: strings.Join(ranges, ",")}},
		})
		if err != nil {
			a.log.Warn("tell the runtime its pod range", "error", err)
			return false
		}
	}
	k.mu.Lock()
	k.name, k.version = v.RuntimeName, v.RuntimeVersion
	k.mu.Unlock()
	k.runtimeIs(true)
	a.relief.askRuntime(ctx) // so that the first status has the images
	return true
}

func (k *nodeKeeper) podCIDRs() (ranges []string) {
	for _, p := range k.agent.cfg.PodCIDRs {
		ranges = append(ranges, p.String())
	}
	if node := k.last(); len(ranges) == 0 && node != nil {
		return node.Spec.PodCIDRs
	}
	return ranges
}

// ref is how events name the node: its uid is its name, as Kubernetes' clients expect.
func (k *nodeKeeper) ref() *corev1.ObjectReference {
	name := k.agent.cfg.NodeName
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// fillStatus brings a node's status up to date, heartbeats included.
func (k *nodeKeeper) fillStatus(node *corev1.Node, now time.Time) {
	a := k.agent
	going := a.ending().on
	short, images := a.relief.conditions(), a.relief.known()
	v4, v6 := a.address(), a.address6()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &node.Status
	s.Capacity, s.Allocatable = k.cap.DeepCopy(), k.alloc.DeepCopy()
	if images != nil {
		s.Images = images
	}
	hostname := a.cfg.NodeName
	s.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: v4.String()}}
	if v6.IsValid() {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: v6.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: hostname})
	s.NodeInfo = k.system
	s.NodeInfo.ContainerRuntimeVersion = runtimeVersion(k.name, k.version)
	if a.cfg.Listener != nil {
		if at, err := netip.ParseAddrPort(a.cfg.Listener.Addr().String()); err == nil {
			s.DaemonEndpoints.KubeletEndpoint.Port = int32(at.Port())
		}
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if !k.down.IsZero() && (k.version == "" || now.Sub(k.down) >= downAfter) {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"
	}
	if going {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", shutdownNode
	}
	for _, c := range append(shortages(short), ready) {
		c.LastHeartbeatTime = metav1.NewTime(now).Rfc3339Copy()
		c.LastTransitionTime = c.LastHeartbeatTime
		i := slices.IndexFunc(s.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
		if i < 0 {
			s.Conditions = append(s.Conditions, c)
			continue
		}
		if s.Conditions[i].Status == c.Status {
			c.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
		s.Conditions[i] = c
	}
}

// update writes the status if it changed, or if it was last written a heartbeat ago.
func (k *nodeKeeper) update(ctx context.Context) error {
	a, now := k.agent, time.Now()
	before := k.last()
	if current, err := a.cfg.API.Node(ctx, a.cfg.NodeName); err == nil { // others write it, too: who took it for dead
		before = current
	}
	want := before.DeepCopy()
	k.fillStatus(want, now)
	if equality.Semantic.DeepEqual(timeless(want.Status), timeless(before.Status)) && now.Sub(k.wrote) < heartbeat {
		k.tell(before, before)
		return nil
	}
	stored, err := a.cfg.API.UpdateNodeStatus(ctx, a.cfg.NodeName, func(n *corev1.Node) { k.fillStatus(n, now) })
	if err != nil {
		return fmt.Errorf("write status of node %s: %w", a.cfg.NodeName, err)
	}
	k.tell(before, stored)
	k.mu.Lock()
	k.node, k.wrote = stored, now
	k.mu.Unlock()
	return nil
}

func readiness(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// timeless is a status without its heartbeats.
func timeless(s corev1.NodeStatus) *corev1.NodeStatus {
	s.Conditions = slices.Clone(s.Conditions)
	for i := range s.Conditions {
		s.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return &s
}

func (k *nodeKeeper) renew(ctx context.Context) error {
	name := k.agent.cfg.NodeName
	var uid types.UID
	if node := k.last(); node != nil {
		uid = node.UID
	}
	asking := ctx
	if k.agent.cfg.Unserved != nil { // what has to be stopped meanwhile does not wait for a store that stands still
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, k.agent.cfg.Lease*2/9)
		defer cancel()
	}
	began := k.agent.clock()
	err := k.agent.cfg.API.RenewLease(ctx, name, func(l *coordinationv1.Lease) {
		now, duration := metav1.NowMicro(), int32(k.agent.cfg.Lease/time.Second)
		l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &name, &duration, &now
		if len(l.OwnerReferences) == 0 && uid != "" {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}}
		}
	})
	if err == nil {
		k.agent.heard(asking, began)
	} else {
		k.agent.unheard(asking)
		return fmt.Errorf("renew lease of node %s: %w", name, err)
	}
	return nil
}
