// Package proxy makes Services reachable on one node: it turns Services and their EndpointSlices into one nftables table.
//
// It watches Services and EndpointSlices and writes the table, and only that. Each change goes to the kernel by itself, at once, and as nothing but
// what it changes: its cost does not grow with the number of Services. What arrives while a step is under way goes together in the next one.
// Always: the table is what the Services and slices ask for, whoever else writes into it; connections that exist are not touched, but those of UDP whose end has
// gone, since they have no other end than being forgotten.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// View is what the proxy reads. Objects are shared and never changed.
type View interface {
	// Ready is closed once the view holds what the API holds.
	Ready() <-chan struct{}
	// Services names all Services.
	Services() []loop.Key
	// Service returns a Service with its EndpointSlices; nil if it is not there.
	Service(namespace, name string) (*corev1.Service, []*discovery.EndpointSlice)
	// Zone is the node's topology.kubernetes.io/zone.
	Zone() string
	// OnService calls when a Service or one of its EndpointSlices has changed, and OnZone when the node's zone has. What they call only marks. They are
	// called once, before the view is run.
	OnService(func(namespace, name string))
	OnZone(func())
}

// Connections is the kernel's memory of connections.
type Connections interface {
	// Forget drops what is remembered of UDP to a front: of the connections that were sent to an end or, if that is not valid, of those that were not
	// translated.
	Forget(front Front, end netip.Addr) error
}

// Config is what a proxy works with. Fields without a default named are required.
type Config struct {
	Node        string
	Network     Network
	View        View
	Kernel      nft.Kernel
	Connections Connections // nil: nothing is forgotten
	Health      Health      // nil: nobody can ask
	Log         *slog.Logger
}

// Health answers load balancers that ask on a port whether a Service has ends on this node.
type Health interface {
	// Set says it for one Service; port 0 ends it.
	Set(service loop.Key, port uint16, ends int)
}

// Proxy keeps the table.
type Proxy struct {
	cfg Config
	log *slog.Logger

	keeper nft.Keeper

	mu    sync.Mutex // guards the fields below
	dirty map[loop.Key]bool
	to    map[netip.Addr]bool
	calls map[netip.Addr][]func()  // of OnLeft
	left  map[netip.Addr]time.Time // since when nothing goes to addresses that something went to until not long ago

	program *program // of Run alone
}

// New returns a proxy that does nothing yet.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, log: cfg.Log, dirty: map[loop.Key]bool{}, to: map[netip.Addr]bool{}, calls: map[netip.Addr][]func(){}, left: map[netip.Addr]time.Time{}, program: newProgram(cfg.Network)}
	p.keeper = nft.Keeper{Kernel: cfg.Kernel, Table: cfg.Network.Table, What: "Services", Log: cfg.Log, Step: p.step}
	p.keeper.Init()
	cfg.View.OnService(func(namespace, name string) { p.mark(loop.Key{Namespace: namespace, Name: name}) })
	cfg.View.OnZone(p.markAll)
	return p
}

func (p *Proxy) mark(keys ...loop.Key) {
	p.mu.Lock()
	for _, k := range keys {
		p.dirty[k] = true
	}
	p.mu.Unlock()
	p.keeper.Poke()
}

func (p *Proxy) markAll() { p.mark(p.cfg.View.Services()...) }

// Sends reports whether connections to some Service may go to that address. Of one that is ending and gets them since nobody else is ready it says no.
// If they went there until a few seconds ago, it says when that ended.
func (p *Proxy) Sends(to netip.Addr) (sends bool, left time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to[to], p.left[to]
}

// OnLeft calls f once, as soon as connections to no Service go to that address any more: at once if none do. f only marks.
func (p *Proxy) OnLeft(to netip.Addr, f func()) {
	p.mu.Lock()
	sends := p.to[to]
	if sends {
		p.calls[to] = append(p.calls[to], f)
	}
	p.mu.Unlock()
	if !sends {
		f()
	}
}

// remembered is for how long it is known that an address was left: those who ask learn of a pod's deletion at about the same time as the proxy.
const remembered = 5 * time.Second

// Run keeps the table until ctx ends, and leaves it as it is then: pods and their connections go on.
func (p *Proxy) Run(ctx context.Context) error {
	select {
	case <-p.cfg.View.Ready():
	case <-ctx.Done():
		return nil
	}
	p.markAll()
	return p.keeper.Run(ctx)
}

// mostServices bounds one step, so that what comes in a flood does not make others wait for all of it.
const mostServices = 1000

// take is what is to be done next. All of it when the table is made anew, so that it is whole from the first moment.
func (p *Proxy) take(all bool) (keys []loop.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.dirty {
		if len(keys) == mostServices && !all {
			break
		}
		keys = append(keys, k)
		delete(p.dirty, k)
	}
	return keys
}

// step is nft.Keeper's.
func (p *Proxy) step(ctx context.Context, all bool) (did bool, err error) {
	keys := p.take(all)
	if len(keys) == 0 && !all {
		return false, nil
	}
	at := Where{Node: p.cfg.Node, Zone: p.cfg.View.Zone()}
	plans := make(map[loop.Key]Plan, len(keys))
	for _, k := range keys {
		service, slices := p.cfg.View.Service(k.Namespace, k.Name)
		plans[k] = Decide(service, slices, at)
	}
	change, again, stale := p.program.set(plans)
	if len(again) > 0 {
		p.mark(again...)
	}
	if err := p.send(ctx, change, all); err != nil {
		return true, err
	}
	p.publish()
	for k, plan := range plans {
		if p.cfg.Health != nil {
			p.cfg.Health.Set(k, plan.HealthPort, plan.Healthy)
		}
	}
	p.forget(stale)
	return true, nil
}

func (p *Proxy) send(ctx context.Context, change nft.Change, all bool) error {
	if !all {
		return p.cfg.Kernel.Change(ctx, change)
	}
	table, err := p.program.table()
	if err != nil {
		return fmt.Errorf("make the table of Services: %w", err)
	}
	return p.cfg.Kernel.Replace(ctx, table)
}

// publish tells others where packets go now.
func (p *Proxy) publish() {
	var left []func()
	p.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(p.left, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > remembered })
	for a := range p.program.changed {
		if p.program.to[a] > 0 {
			p.to[a] = true
			delete(p.left, a)
			continue
		}
		if p.to[a] {
			p.left[a] = now
		}
		left = append(left, p.calls[a]...)
		delete(p.calls, a)
		delete(p.to, a)
	}
	clear(p.program.changed)
	p.mu.Unlock()
	for _, f := range left {
		f()
	}
}

func (p *Proxy) forget(stale []gone) {
	if p.cfg.Connections == nil {
		return
	}
	for _, s := range stale {
		if err := p.cfg.Connections.Forget(s.front, s.end); err != nil {
			p.log.Warn("forget connections of an endpoint that has gone", "front", s.front.String(), "endpoint", s.end, "error", err)
		}
	}
}
