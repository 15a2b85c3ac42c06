package simulate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/events"
	"sampan.dev/internal/loop"
)

// heartbeat is how often a node's status is written that does not change.
const heartbeat = 5 * time.Minute

// Kinds of failure, as FailureAnnotation names them.
const (
	failCrash     = "crash"     // it is dead: silent, and what ran is lost
	failPartition = "partition" // it reaches no server: silent, and its pods run on for as long as they tolerate that
	failNotReady  = "notready"  // it says that it is not ready, and does nothing for its pods
)

// node is what is kept of a simulated node besides its object.
type node struct {
	name   string
	number int

	mu    sync.Mutex // guards the fields below
	fails string
	boot  string    // a new one with each start after a crash
	gone  bool      // somebody has deleted it
	since time.Time // it is silent, if it is
	away  Away
	uid   types.UID
	lease *coordinationv1.Lease // as it was last written; nil: it is to be read

	// Of the loop that keeps the node's status, which has one worker for a node:
	heard  bool // it has been looked at
	ranged bool // it has a range for its pods
	wrote  time.Time
}

// acts says whether the node does anything for its pods, and when it last could not.
func (n *node) acts() (bool, Away) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fails == "" && !n.gone, n.away
}

// silent says whether nobody hears of the node.
func (n *node) silent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone || n.fails == failCrash || n.fails == failPartition
}

// fail makes the node fail in a way, or no more, and says whether that is news. A failure that turns into another goes on.
func (n *node) fail(how string, grace time.Duration, now time.Time) (changed, rebooted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.fails
	if was == how {
		return false, false
	}
	n.fails = how
	quiet := func(s string) bool { return s == failCrash || s == failPartition }
	if quiet(how) && !quiet(was) {
		n.since, n.away = now, Away{}
	}
	if how == failCrash {
		n.away.Crash = true
	}
	if quiet(was) && !quiet(how) {
		n.away = Away{From: n.since, Until: now, Crash: n.away.Crash, Grace: grace}
		n.lease = nil
		if n.away.Crash {
			n.boot, rebooted = randomID(), true
		}
	}
	return true, rebooted
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// register adds the nodes, and takes those on that an earlier run has left.
func (f *Fleet) register(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, n := range f.nodes {
		g.Go(func() error {
			if err := f.add(ctx, n); err != nil {
				return fmt.Errorf("add node %s: %w", n.name, err)
			}
			return f.renew(ctx, n)
		})
	}
	return g.Wait()
}

func (f *Fleet) add(ctx context.Context, n *node) error {
	n.boot = randomID()
	want := f.object(n)
	f.fillStatus(n, want, time.Now())
	made, err := client.Create(ctx, f.cfg.Client, want)
	for apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		if made, err = client.Get[*corev1.Node](ctx, f.cfg.Client, "", n.name); err != nil {
			break
		}
		if made.Labels[Label] != "true" {
			return errors.New("there is one of that name which is not simulated: choose other names by --name-prefix")
		}
		if id := made.Status.NodeInfo.BootID; id != "" {
			n.boot = id // its pods go on
		}
		n.fail(made.Annotations[FailureAnnotation], f.cfg.Lease, time.Now())
		maps.Copy(made.Labels, want.Labels)
		metav1.SetMetaDataAnnotation(&made.ObjectMeta, fencesAnnotation, "true")
		made, err = client.Update(ctx, f.cfg.Client, made, "")
	}
	if err == nil {
		n.uid = made.UID
	}
	return err
}

// object is a new node, without its status.
func (f *Fleet) object(n *node) *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH, Label: "true",
	}
	if z := f.cfg.Zones; len(z) > 0 {
		labels[corev1.LabelTopologyZone] = z[n.number%len(z)]
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels, Annotations: map[string]string{fencesAnnotation: "true"}}}
}

// fillStatus brings a node's status up to date, heartbeats included.
func (f *Fleet) fillStatus(n *node, o *corev1.Node, now time.Time) {
	s := &o.Status
	s.Capacity, s.Allocatable = f.cfg.Capacity, f.cfg.Capacity
	s.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: f.cfg.Address.String()}, {Type: corev1.NodeHostName, Address: n.name}}
	s.DaemonEndpoints.KubeletEndpoint.Port = f.cfg.Port
	n.mu.Lock()
	fails, boot := n.fails, n.boot
	n.mu.Unlock()
	id := fmt.Sprintf("%x", uint64(lot(f.cfg.Seed, n.name)*(1<<53)))
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: id, SystemUUID: id, BootID: boot, KernelVersion: "simulated", OSImage: "simulated", OperatingSystem: "linux", Architecture: runtime.GOARCH,
		ContainerRuntimeVersion: "simulated://" + f.cfg.Version, KubeletVersion: f.cfg.Version,
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if fails == failNotReady {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"
	}
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		ready,
	} {
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

// reconcileNode has a node fail as its annotation says, and its status as it ought to be.
func (f *Fleet) reconcileNode(ctx context.Context, key loop.Key) error {
	n := f.byName[key.Name]
	o := f.cache.Snapshot().Get(f.kinds.nodes, "", key.Name)
	if o == nil {
		n.mu.Lock()
		n.gone = true // whoever has deleted it wants it no more
		n.mu.Unlock()
		return nil
	}
	current := cache.Typed[*corev1.Node](o)
	now := time.Now()
	how := current.Annotations[FailureAnnotation]
	n.mu.Lock()
	back := n.gone
	n.gone, n.uid = false, current.UID
	n.mu.Unlock()
	first := !n.heard
	n.heard = true
	if how != "" && how != failCrash && how != failPartition && how != failNotReady {
		f.log.Warn("what failure is that? It is none of crash, partition and notready", "node", n.name, "failure", how)
		how = ""
	}
	changed, rebooted := n.fail(how, f.cfg.Lease, now)
	if changed && how != "" {
		f.log.Info("a node fails", "node", n.name, "failure", how)
	}
	if n.silent() {
		return nil
	}
	if changed || back || first || len(current.Spec.PodCIDRs) > 0 && !n.ranged {
		n.ranged = len(current.Spec.PodCIDRs) > 0
		f.markPods(n.name)
	}
	if changed {
		if err := f.renew(ctx, n); err != nil {
			return err
		}
	}
	if rebooted {
		f.record(n, nodeRef(n.name), corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", n.name, n.boot))
	}
	want := current.DeepCopy()
	f.fillStatus(n, want, now)
	due := n.wrote.Add(heartbeat).Sub(now)
	if due > 0 && equality.Semantic.DeepEqual(timeless(want.Status), timeless(current.Status)) {
		f.keeping.MarkAfter(key, due)
		return nil
	}
	if _, err := client.Update(ctx, f.cfg.Client, want, "status"); err != nil {
		return settled(err)
	}
	if was, is := isReady(current), isReady(want); was != is {
		reason := "NodeNotReady"
		if is {
			reason = "NodeReady"
		}
		f.record(n, nodeRef(n.name), corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", n.name, reason))
	}
	n.wrote = now
	f.keeping.MarkAfter(key, heartbeat)
	return nil
}

func isReady(n *corev1.Node) bool {
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

// nodeRef is how events name a node: its uid is its name, as Kubernetes' clients expect.
func nodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// record tells an event in a node's name.
func (f *Fleet) record(n *node, about *corev1.ObjectReference, kind, reason, message string) {
	if !f.cfg.Quiet {
		f.events.As("kubelet", n.name).Record(about, kind, reason, message)
	}
}

func (f *Fleet) tell(n *node, pod *corev1.Pod, words []Word) {
	for _, w := range words {
		f.record(n, events.Container(pod, w.Container), w.Type, w.Reason, w.Message)
	}
}
