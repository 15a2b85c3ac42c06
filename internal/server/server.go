// Package server is the control plane: store, cache, registry, API and control loops in one process.
//
// It opens the store and the cluster's keys, and runs the rest on them; see server/loops for what the loops watch and write. One of several servers on one datastore
// runs the loops, all of them the rest, and each keeps a Lease that says where it is. Always: the store outlives everything that writes to it, and the first part that
// fails stops all.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/allocate"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/kubeservice"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/events"
	"sampan.dev/internal/leader"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/scheduler"
	"sampan.dev/internal/scheduler/profile"
	"sampan.dev/internal/server/loops"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
	"sampan.dev/internal/token"
	"sampan.dev/internal/usage"
)

// Config says where a server keeps its data and what it is known by.
type Config struct {
	StoreDir string // of the store of a server that is alone; not used if Store is there
	// Store is a datastore that other servers may use, too, with whom this one shares the work as Self; the server closes it. Nil: there is none.
	Store    store.Store
	Self     Self
	PKI      *pki.PKI
	Names    []string       // that its certificate answers to, besides its addresses
	Address  netip.AddrPort // where clients reach it
	Services []netip.Prefix // ranges of cluster IPs, one of each family, the default first
	Pods     []netip.Prefix // ranges of pods, of which each node that brings none gets a part; likewise
	// TolerationSeconds is how long a pod that says nothing else stays on a node that is lost or not ready; nil: 30.
	TolerationSeconds *int64
	// NodePorts is where node ports are from, and DNS the cluster IP of the DNS server, if there is one.
	NodePorts allocate.PortRange
	DNS       netip.Addr
	// LoadBalancer says what addresses Services of that type get; zero: the nodes' own.
	LoadBalancer loadbalancer.Config
	// Scheduling is the scheduler's profiles, and SchedulingText the KubeSchedulerConfiguration that they are from, for others to read; neither: Kubernetes' default one.
	Scheduling     profile.Config
	SchedulingText string
	Metrics        []prometheus.Collector // of others in this process, served with the server's own
	Log            *slog.Logger
}

// Server is a control plane. Its parts are there for those who run in the same process.
type Server struct {
	Table    *resource.Table
	Cache    *cache.Cache
	Registry *registry.Registry
	Events   *events.Recorder
	Tokens   *tokens.Issuer

	store  store.Store
	shared bool
	self   Self
	at     netip.AddrPort
	alloc  *allocate.Services
	api    *apiserver.Server
	loops  loops.Config
	gate   gate // of the loops, where there is no other server
	log    *slog.Logger
}

// Open opens the store and puts the parts together. Nothing is served before Run; whoever does not call Run calls Close.
func Open(cfg Config) (*Server, error) {
	st := cfg.Store
	if st == nil {
		if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		var err error
		if st, err = local.Open(cfg.StoreDir, local.Options{Log: cfg.Log}); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	s := &Server{Table: kinds.Table(), store: st, shared: cfg.Store != nil, self: cfg.Self, at: cfg.Address, log: cfg.Log}
	s.Cache = cache.New(s.Table, st, cfg.Log)
	serviceKind, _ := s.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Service"))
	s.alloc = allocate.New(allocate.Config{Table: s.Table, Cache: s.Cache, Store: st, Ranges: cfg.Services, NodePorts: cfg.NodePorts})
	s.Registry = registry.New(registry.Config{
		Table: s.Table, Store: st, Cache: s.Cache, Admission: admission.Steps(s.Table, s.Cache, admission.DefaultTolerationSeconds{Seconds: cfg.TolerationSeconds}), Log: cfg.Log,
		Allocate: map[*resource.Kind]registry.Allocator{serviceKind: s.alloc},
	})
	eventKind, _ := s.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Event"))
	s.Events = events.New(events.Through(s.Registry, eventKind), "sampan", "", events.Options{Scheme: s.Table.Scheme(), Log: cfg.Log})
	agents := &nodelifecycle.Connections{}
	queues, schedule := loop.NewMetrics(), scheduler.NewMetrics()
	ways := nodes{s, cfg.PKI.ClientTLS(apiUser, []string{auth.Masters})}
	uses := usage.New(ways.Dial)
	s.loops = loops.Config{
		Table: s.Table, Cache: s.Cache, Registry: s.Registry, Revision: st.Revision, Events: s.Events, CA: cfg.PKI.CA(), Signer: cfg.PKI, Usage: uses,
		Own:   kubeservice.Config{Server: cfg.Address, Ranges: cfg.Services, DNS: cfg.DNS, CA: cfg.PKI.CA(), Pods: cfg.Pods},
		Nodes: nodelifecycle.Config{Stalled: stalled(st), Connections: agents}, LoadBalancer: cfg.LoadBalancer, Pods: cfg.Pods, Queues: queues, Schedule: schedule, Profiles: cfg.Scheduling, Log: cfg.Log,
	}
	var err error
	if s.Tokens, err = issuer(s.Table, cfg.PKI); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	names := append([]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}, cfg.Names...)
	s.api = apiserver.New(apiserver.Config{
		Registry: s.Registry, Cache: s.Cache, Table: s.Table, Store: st,
		TLS: cfg.PKI.ServerTLS(names, kubernetesIPs(cfg.Services)...), Tokens: s.Tokens,
		Nodes: ways, Agents: agents, Usage: uses, Address: cfg.Address,
		Ready: map[string]func() error{"store": s.storeWorks},
		Slow:  slow(st), Silence: silence(st), Standstill: standstill(st), Members: members(st), Snapshots: &snapshots{Server: s}, Scheduling: cfg.SchedulingText,
		Metrics: append([]prometheus.Collector{queues, schedule}, cfg.Metrics...),
		Log:     cfg.Log,
	})
	return s, nil
}

// issuer makes the tokens by which pods call this server.
func issuer(table *resource.Table, keys *pki.PKI) (*tokens.Issuer, error) {
	key, err := keys.TokenKey()
	if err != nil {
		return nil, err
	}
	authority, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		return nil, err
	}
	return tokens.New(table, authority), nil
}

// kubernetesIPs are the addresses of the Service default/kubernetes, by which pods know this server: the first of each range.
func kubernetesIPs(ranges []netip.Prefix) (ips []netip.Addr) {
	for _, r := range ranges {
		ips = append(ips, r.Masked().Addr().Next())
	}
	return ips
}

// Close gives the store back, for a server that was never run.
func (s *Server) Close() error { return s.store.Close() }

// storeWorks fails when the store takes no writes any more.
func (s *Server) storeWorks() error {
	own, ok := s.store.(*local.Store)
	if !ok {
		return nil // whether a datastore answers is asked besides
	}
	if err := own.Facts().Broken; err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// slow asks the store whether it is slow, if it knows.
func slow(st store.Store) func() error {
	if s, ok := st.(interface{ Slow() error }); ok {
		return s.Slow
	}
	return nil
}

// stalled asks the store for how much of the time it has stood still, if it knows.
func stalled(st store.Store) func() time.Duration {
	if s, ok := st.(interface{ Stalled() time.Duration }); ok {
		return s.Stalled
	}
	return nil
}

// Standstill is for how long, up to now, the store has taken nothing; zero if it works, or if nothing is known of that.
func (s *Server) Standstill() time.Duration {
	if still := standstill(s.store); still != nil {
		return still()
	}
	return 0
}

// standstill asks the store whether it stands still now, if it knows.
func standstill(st store.Store) func() time.Duration {
	if s, ok := st.(interface{ Standstill() time.Duration }); ok {
		return s.Standstill
	}
	return nil
}

// silence asks the store whether it has been lost, if that can happen.
func silence(st store.Store) func() <-chan struct{} {
	if s, ok := st.(interface{ Silence() <-chan struct{} }); ok {
		return s.Silence
	}
	return nil
}

// members asks the store how its members are, if it has some.
func members(st store.Store) func(context.Context) string {
	if s, ok := st.(interface{ WhoAnswers(context.Context) string }); ok {
		return s.WhoAnswers
	}
	return nil
}

// Run serves on l until ctx ends or a part fails, and returns after every part has stopped.
func (s *Server) Run(ctx context.Context, l net.Listener) (err error) {
	defer func() { err = errors.Join(err, s.store.Close()) }() // last: its users have returned
	// The cache and the events outlive the API and the loops, which use them until their end.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	base, below := errgroup.WithContext(below)
	base.Go(func() error { return s.Cache.Run(below) })
	base.Go(func() error { return s.Events.Run(auth.WithUser(below, auth.System("system:sampan"))) })
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		select { // a part below that fails takes the others along
		case <-below.Done():
			return context.Cause(below)
		case <-ctx.Done():
			return nil
		}
	})
	parts.Go(func() error {
		select {
		case <-s.Cache.Ready():
		case <-ctx.Done():
			return l.Close()
		}
		if err := s.repair(ctx); err != nil { // before anybody can change a Service
			return errors.Join(err, l.Close())
		}
		both, ctx := errgroup.WithContext(ctx)
		both.Go(func() error { return s.api.Run(ctx, l) })
		lead := func(ctx context.Context) error { return loops.New(s.loops).Run(ctx) }
		if !s.shared {
			both.Go(func() error { return s.gate.run(ctx, lead) })
			return both.Wait()
		}
		as := auth.WithUser(ctx, auth.System("system:sampan"))
		if err := s.leaseNamespace(as); err != nil {
			return errors.Join(err, l.Close())
		}
		both.Go(func() error { return s.present(as) })
		both.Go(func() error {
			return leader.New(leader.Config{Name: leaderLease, Me: s.self.holder(), Leases: leases{s}, Log: s.log}).Run(as, lead)
		})
		return both.Wait()
	})
	err = parts.Wait()
	stop()
	return errors.Join(err, base.Wait())
}

// repair puts right what a crash or an edit by hand has left of cluster IPs and node ports.
func (s *Server) repair(ctx context.Context) error {
	mended, err := s.alloc.Repair(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	case mended > 0:
		s.log.Warn("cluster IPs and node ports that no Service had, or that Services had untaken, were put right", "count", mended)
	}
	return nil
}

// Objects counts what is stored, for the line that a person reads at a start.
func (s *Server) Objects() (revision int64, count int) {
	snap := s.Cache.Snapshot()
	for _, k := range s.Table.All() {
		count += snap.Count(k)
	}
	return snap.Revision(), count
}
