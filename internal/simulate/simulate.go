// Package simulate adds nodes to a cluster whose pods run nowhere but behave as if they did.
//
// It watches Nodes and the pods that are bound to any, over one connection each; it writes the Nodes that it was told to add, their Leases, and the
// status of their pods, and deletes those pods that have ended. Always: it touches no node that does not carry Label, and no other node's pods; what it
// decides about a pod rests on the pod's own status and on numbers drawn from the seed, so that nothing is kept of a pod that is at rest; a node that is
// to be silent writes nothing.
package simulate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/events"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/mirror"
	"sampan.dev/internal/resource"
)

const (
	// Label marks each simulated node.
	Label = "sampan.dev/simulated"
	// FailureAnnotation on a simulated node says how it fails: crash, partition or notready.
	FailureAnnotation = "sampan.dev/simulated-failure"
	fencesAnnotation  = "sampan.dev/fences"
)

// Config says which nodes there are to be, and how they behave.
type Config struct {
	Client   *client.Client
	Table    *resource.Table
	Profiles *Profiles
	Seed     uint64

	Nodes    int
	Prefix   string              // of their names: a number follows, from 0
	Capacity corev1.ResourceList // of each
	Zones    []string            // that the nodes take in turn; none: they are in no zone
	Address  netip.Addr          // of this machine, reported as each node's own
	Port     int32               // that answers for the nodes there; zero: none does
	Version  string              // of what the nodes say to run
	Quiet    bool                // no events are written

	Lease   time.Duration // how long a lease is good for; 9 s if zero
	Renew   time.Duration // it is renewed this often; 5/9 of Lease if zero
	Writes  int           // requests under way at once about pods; 32 if zero
	Log     *slog.Logger
	Started func() // called once all nodes have been added and are heard of; may be nil
}

// Fleet is the simulated nodes.
type Fleet struct {
	cfg       Config
	log       *slog.Logger
	kinds     struct{ pods, nodes *resource.Kind }
	mirror    *mirror.Mirror
	cache     *cache.Cache
	pods      *loop.Loop
	keeping   *loop.Loop // of the nodes' own status
	events    *events.Recorder
	nodes     []*node
	byName    map[string]*node // all of nodes; never changes
	moments   moments
	addresses addressBook
}

// New makes a fleet. Nothing is asked or written before Run.
func New(cfg Config) *Fleet {
	cfg.Lease = cmp.Or(cfg.Lease, 9*time.Second)
	cfg.Renew = cmp.Or(cfg.Renew, cfg.Lease*5/9)
	cfg.Writes = cmp.Or(cfg.Writes, 32)
	if cfg.Profiles == nil {
		cfg.Profiles = DefaultProfiles()
	}
	f := &Fleet{cfg: cfg, log: cfg.Log, byName: map[string]*node{}, moments: moments{at: map[loop.Key]time.Time{}}}
	f.addresses.nodes, f.addresses.given = map[string]*used{}, map[loop.Key]grant{}
	f.kinds.pods, _ = cfg.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	f.kinds.nodes, _ = cfg.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	f.mirror = mirror.New(cfg.Client, []mirror.Source{
		{Kind: f.kinds.nodes, Select: client.Selection{Labels: Label + "=true"}},
		{Kind: f.kinds.pods, Select: client.Selection{Fields: "spec.nodeName!="}},
	}, f.log)
	f.cache = cache.New(cfg.Table, f.mirror, f.log)
	f.events = events.New(eventWriter{cfg.Client}, "kubelet", "", events.Options{Scheme: cfg.Table.Scheme(), Log: f.log})
	f.pods = loop.New("simulated-pods", f.reconcilePod, loop.Options{Workers: cfg.Writes, BackoffFirst: 100 * time.Millisecond, BackoffMost: 30 * time.Second, Jitter: 0.5, Log: f.log})
	f.keeping = loop.New("simulated-nodes", f.reconcileNode, loop.Options{Workers: 4, BackoffFirst: 100 * time.Millisecond, BackoffMost: 10 * time.Second, Jitter: 0.5, Log: f.log})
	for i := range cfg.Nodes {
		n := &node{name: fmt.Sprintf("%s%d", cfg.Prefix, i), number: i}
		f.nodes = append(f.nodes, n)
		f.byName[n.name] = n
	}
	f.cache.OnChange(f.kinds.pods, f.podChanged)
	f.cache.OnChange(f.kinds.nodes, f.nodeChanged)
	return f
}

// Run adds the nodes and behaves as their agents until ctx ends. The nodes stay.
func (f *Fleet) Run(ctx context.Context) error {
	if err := f.register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.mirror.Run(ctx) })
	g.Go(func() error { return f.cache.Run(ctx) })
	g.Go(func() error { return f.events.Run(ctx) })
	g.Go(func() error {
		select {
		case <-f.cache.Ready():
		case <-ctx.Done():
			return nil
		}
		g.Go(func() error { return f.keeping.Run(ctx) })
		g.Go(func() error { return f.pods.Run(ctx) })
		g.Go(func() error { return f.heart(ctx) })
		if f.cfg.Started != nil {
			f.cfg.Started()
		}
		return nil
	})
	return g.Wait()
}

func (f *Fleet) podChanged(old, new *cache.Object) {
	o := cmp.Or(new, old)
	n := f.byName[o.Field("spec.nodeName")]
	if n == nil {
		return
	}
	f.addresses.follow(n.name, old, new)
	if new == nil {
		f.moments.forget(loop.Key{Namespace: old.Namespace(), Name: old.Name()})
		return
	}
	f.pods.Mark(loop.Key{Namespace: new.Namespace(), Name: new.Name()})
}

func (f *Fleet) nodeChanged(old, new *cache.Object) {
	if name := cmp.Or(new, old).Name(); f.byName[name] != nil {
		f.keeping.Mark(loop.Key{Name: name})
	}
}

// markPods has all pods of a node looked at.
func (f *Fleet) markPods(node string) {
	for o := range f.podsOf(node) {
		f.pods.Mark(loop.Key{Namespace: o.Namespace(), Name: o.Name()})
	}
}

// reconcilePod brings one pod a step on, if its node is there and can act.
func (f *Fleet) reconcilePod(ctx context.Context, key loop.Key) error {
	o := f.cache.Snapshot().Get(f.kinds.pods, key.Namespace, key.Name)
	if o == nil {
		return nil
	}
	n := f.byName[o.Field("spec.nodeName")]
	home := f.cache.Snapshot().Get(f.kinds.nodes, "", o.Field("spec.nodeName"))
	if n == nil || home == nil {
		return nil // nobody runs it
	}
	acts, away := n.acts()
	if !acts {
		return nil // it is marked when the node is back
	}
	pod := cache.Typed[*corev1.Pod](o)
	now := time.Now()
	in := Input{Pod: pod, Profile: f.cfg.Profiles.For(pod), Seed: f.cfg.Seed, HostIP: f.cfg.Address.String(), Away: away, Moment: f.moments.of(key), Now: now}
	step := Decide(in)
	if step.NeedsAddress {
		addresses, err := f.addresses.give(cache.Typed[*corev1.Node](home), key, pod.UID)
		if err != nil || addresses == nil {
			return err // without a range it is marked when the node has one
		}
		in.PodIPs = addresses
		step = Decide(in)
	}
	if !step.Wake.IsZero() {
		f.pods.MarkAfter(key, step.Wake.Sub(now))
	}
	switch {
	case step.Delete:
		return f.deletePod(ctx, n, pod, step)
	case step.Status == nil:
		if step.Wake.IsZero() {
			f.moments.forget(key)
		}
		return nil
	}
	want := *pod // its metadata and spec are shared: nothing in them is changed
	want.Status = *step.Status
	f.moments.note(key, now) // before anybody can see it
	if _, err := client.Update(ctx, f.cfg.Client, &want, "status"); err != nil {
		return settled(err)
	}
	f.tell(n, pod, step.Events)
	return nil
}

func (f *Fleet) deletePod(ctx context.Context, n *node, pod *corev1.Pod, step Step) error {
	f.tell(n, pod, step.Events)
	return settled(client.Delete[*corev1.Pod](ctx, f.cfg.Client, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	}))
}

// settled passes over errors after which the object's next state, which is on its way, is decided about anew.
func settled(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// moments are when pods were last written, more exactly than their status tells: it has whole seconds. Only pods with something before them have one.
type moments struct {
	mu sync.Mutex
	at map[loop.Key]time.Time
}

func (m *moments) note(key loop.Key, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[key] = at
}

func (m *moments) of(key loop.Key) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[key]
}

func (m *moments) forget(key loop.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.at, key)
}
