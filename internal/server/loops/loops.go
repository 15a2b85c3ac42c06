// Package loops builds and runs the server's control loops, the scheduler among them, on one cache and one registry.
//
// It watches all kinds and marks with each loop what concerns it; the loops read snapshots of the cache and write through
// the registry, each in a name of its own. Always: handlers only mark keys; what a loop reads is no older than what it
// has written.
package loops

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/csr"
	"sampan.dev/internal/controller/event"
	"sampan.dev/internal/controller/garbage"
	"sampan.dev/internal/controller/kubeservice"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/controller/namespace"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/controller/podgc"
	"sampan.dev/internal/controller/rootca"
	"sampan.dev/internal/controller/serviceaccount"
	"sampan.dev/internal/controller/tainteviction"
	"sampan.dev/internal/events"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/scheduler"
	"sampan.dev/internal/scheduler/profile"
)

// Config is what the loops work on. Table, Cache, Registry and Revision must be there.
type Config struct {
	Table    *resource.Table
	Cache    *cache.Cache
	Registry *registry.Registry
	Revision func() int64       // the store's: what the cache has to reach to show what has been written
	Events   *events.Recorder   // run by its owner
	CA       []byte             // PEM: the cluster's authority, to be published
	Signer   csr.Authority      // makes certificates that are asked for; nil: nobody does
	Usage    Usage              // what pods use; nil: nobody knows
	Own      kubeservice.Config // of the Services that the cluster itself has; without ranges it has none
	// LoadBalancer says what addresses Services of that type get.
	LoadBalancer loadbalancer.Config
	Pods         []netip.Prefix // ranges of the pods of all nodes, one of each family; none: nodes bring their own
	Nodes        nodelifecycle.Config
	Eviction     tainteviction.Config
	Queues       *loop.Metrics // nil counts nothing
	Schedule     *scheduler.Metrics
	Profiles     profile.Config // of the scheduler; without any: Kubernetes' default one
	Log          *slog.Logger
}

// Loops are all control loops of the server. They run once: whoever stops them makes new ones.
type Loops struct {
	c     Config
	world *world

	scheduler *scheduler.Scheduler
	namespace *namespace.Controller
	accounts  *serviceaccount.Controller
	rootca    *rootca.Controller
	events    *event.Controller
	podgc     *podgc.Controller
	garbage   *garbage.Controller
	parts     []part
}

// New makes all loops. Nothing is watched before Run.
func New(c Config) *Loops {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := newWorld(c)
	ls := &Loops{
		c: c, world: w,
		scheduler: scheduler.New(scheduler.Config{
			Source: w, API: w, Storage: w.storage, Profiles: c.Profiles, Metrics: c.Schedule, Log: c.Log,
			Recorder: func(component string) scheduler.Recorder { return c.Events.As(component, "") },
		}),
		namespace: namespace.New(w, namespaces{w}, c.Queues, c.Log),
		accounts:  serviceaccount.New(w, w, c.Queues, c.Log),
		rootca:    rootca.New(w, w, string(c.CA), c.Queues, c.Log),
		events:    event.New(w, w, c.Queues, c.Log),
		podgc:     podgc.New(w, w, c.Queues, c.Log),
		garbage:   garbage.New(w, things{w}, c.Queues, c.Log),
	}
	ls.parts = parts(w)
	return ls
}

// Run waits for the cache, looks at all that is there, and then runs all loops until ctx ends or one fails.
func (ls *Loops) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-ls.c.Cache.Ready():
	}
	defer ls.c.Cache.OnChanges(ls.c.Table.All(), ls.changed)()
	ls.world.found.Store(true)
	g, ctx := errgroup.WithContext(ctx)
	start := func(name string, run func(context.Context) error) {
		ctx := auth.WithUser(ctx, auth.System(name))
		g.Go(func() error { return run(ctx) })
	}
	start("system:kube-scheduler", ls.scheduler.Run)
	start("system:serviceaccount:kube-system:namespace-controller", ls.namespace.Run)
	start("system:serviceaccount:kube-system:service-account-controller", ls.accounts.Run)
	start("system:serviceaccount:kube-system:root-ca-cert-publisher", ls.rootca.Run)
	start("system:serviceaccount:kube-system:event-controller", ls.events.Run)
	start("system:serviceaccount:kube-system:pod-garbage-collector", ls.podgc.Run)
	start("system:serviceaccount:kube-system:generic-garbage-collector", ls.garbage.Run)
	for _, p := range ls.parts {
		start("system:serviceaccount:kube-system:"+p.account, p.run)
	}
	return g.Wait()
}

// changed tells the loops of one change. The cache calls it, in order; it only marks.
func (ls *Loops) changed(kind *resource.Kind, old, new *cache.Object) {
	o := new
	if o == nil {
		o = old
	}
	key := keyOf(o)
	if kind.Namespaced && ls.world.isEnding(key.Namespace) {
		ls.namespace.ContentChanged(key.Namespace)
	}
	if kind == ls.world.events {
		switch {
		case new == nil:
		case ls.world.started():
			ls.events.Changed(key)
		default:
			ls.events.Mark(key) // it was there before, and may have expired while nobody looked
		}
		return // events own nothing and are owned by nobody
	}
	was, is := metasOf(old, new)
	ch := change{key: key, old: old, new: new, was: was, is: is}
	ls.garbage.Changed(garbage.Ref{Kind: kind, Namespace: key.Namespace, Name: key.Name}, ch.was, ch.is)
	ls.world.storage.changed(kind, ch)
	for _, p := range ls.parts {
		if mark := p.on[kind]; mark != nil {
			mark(ch)
		}
	}
	switch kind {
	case ls.world.namespaces:
		ls.world.setEnding(key.Name, new != nil && new.Field("status.phase") == "Terminating")
		ls.namespace.Mark(key)
		ls.accounts.Mark(key)
		ls.rootca.Mark(key)
	case ls.world.accounts:
		if key.Name == serviceaccount.Name {
			ls.accounts.Mark(loop.Key{Name: key.Namespace})
		}
	case ls.world.configs:
		if key.Name == rootca.Name {
			ls.rootca.Mark(loop.Key{Name: key.Namespace})
		}
	case ls.world.nodes:
		ls.scheduler.NodeChanged(key.Name)
		if old == nil || new == nil {
			ls.podgc.NodeChanged(key.Name)
		}
	case ls.world.storage.volumes:
		ls.scheduler.VolumeChanged(key.Name)
	case ls.world.storage.claims:
		ls.scheduler.ClaimChanged(key)
	case ls.world.storage.classes:
		ls.scheduler.ClassChanged()
	case ls.world.pods:
		ls.podChanged(ch)
	}
}

func (ls *Loops) podChanged(c change) {
	key, old, new := c.key, c.old, c.new
	if new == nil {
		ls.scheduler.PodChanged(key)
		return
	}
	node := new.Field("spec.nodeName")
	if old != nil && node != "" && old.Field("spec.nodeName") == node {
		// Its neighbours are counted by its labels, and whoever makes room waits for it to go.
		if ended(old) != ended(new) || c.was.Deleting != c.is.Deleting || !slices.Equal(old.LabelSet(), new.LabelSet()) {
			ls.scheduler.PodChanged(key)
		}
		return // a bound pod that reports its status concerns nobody here
	}
	ls.scheduler.PodChanged(key)
	ls.podgc.PodChanged(key, node, node == "" && c.is.Deleting)
}

func ended(pod *cache.Object) bool {
	phase := pod.Field("status.phase")
	return phase == "Succeeded" || phase == "Failed"
}

func keyOf(o *cache.Object) loop.Key { return loop.Key{Namespace: o.Namespace(), Name: o.Name()} }
