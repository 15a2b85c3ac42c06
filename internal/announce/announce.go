// Package announce tells the local network which node packets for the addresses of load balancers are to be sent to: by ARP, and by IPv6 neighbour advertisements.
//
// It watches Services that have addresses of pools, nodes and their leases, and this node's links; it writes packets, and events of addresses that another
// machine has. Of the nodes that could, one is elected for each address, by each node in the same way and without a word between them.
// Always: only the elected node answers, and it asks first whether anybody has the address; a link is listened to only while something is announced there; an
// address that a node has itself is left to its kernel; one that is of no network of this node is left to routers.
package announce

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Config is what an announcer works with. All but Log and Metrics are required.
type Config struct {
	Node    string // this one
	View    View
	Wire    Wire
	Events  Recorder
	Metrics *loop.Metrics
	Log     *slog.Logger
}

// Announcer announces what this node is elected for. One worker does all but answering.
type Announcer struct {
	cfg  Config
	loop *loop.Loop

	// Of the worker alone.
	services map[loop.Key]Wanted
	users    map[netip.Addr]map[loop.Key]bool // Services by address
	nodes    map[string]seen
	links    []Link
	ports    map[place]*open

	mu    sync.RWMutex // guards the field below
	turns map[netip.Addr]*held
}

// seen is a node as it was last looked at.
type seen struct {
	Node
	at    time.Time // of its last renewal, by this node's clock
	alive bool
}

// place is one family's protocol on one link.
type place struct {
	index int
	v6    bool
}

// open is a port, and what uses it.
type open struct {
	Port
	link  Link
	users map[netip.Addr]bool
}

// held is an address that this node is elected for.
type held struct {
	turn
	at   place
	port *open
}

// New makes an announcer that does nothing yet.
func New(cfg Config) *Announcer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Announcer{
		cfg: cfg, services: map[loop.Key]Wanted{}, users: map[netip.Addr]map[loop.Key]bool{}, nodes: map[string]seen{}, ports: map[place]*open{}, turns: map[netip.Addr]*held{},
	}
	a.loop = loop.New("announce", a.reconcile, loop.Options{Workers: 1, BackoffMost: mostPause, Metrics: cfg.Metrics, Log: cfg.Log})
	cfg.View.OnService(a.loop.Mark)
	cfg.View.OnNode(func(name string) { a.loop.Mark(loop.Key{Name: nodeKey + name}) })
	return a
}

// Keys of the loop besides Services, whose keys have namespaces.
const (
	nodeKey    = "node/"
	addressKey = "address/"
	linksKey   = "links"
)

func keyOf(ip netip.Addr) loop.Key { return loop.Key{Name: addressKey + ip.String()} }

// Run announces until ctx ends. Then nobody is answered any more.
func (a *Announcer) Run(ctx context.Context) error {
	select {
	case <-a.cfg.View.Ready():
	case <-ctx.Done():
		return nil
	}
	for _, name := range a.cfg.View.Nodes() {
		a.loop.Mark(loop.Key{Name: nodeKey + name})
	}
	a.loop.Mark(loop.Key{Name: linksKey})
	for _, key := range a.cfg.View.Services() {
		a.loop.Mark(key)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.loop.Run(ctx) })
	err := g.Wait()
	for _, p := range a.ports {
		err = errors.Join(err, p.Close())
	}
	return err
}

// watch marks the links when they change.
func (a *Announcer) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		err := a.cfg.Wire.Watch(ctx, func() { a.loop.Mark(loop.Key{Name: linksKey}) })
		if err == nil || ctx.Err() != nil {
			continue
		}
		a.cfg.Log.Warn("watch links", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

func (a *Announcer) reconcile(_ context.Context, key loop.Key) error {
	if key.Namespace != "" {
		a.service(key)
		return nil
	}
	if name, ok := strings.CutPrefix(key.Name, nodeKey); ok {
		a.node(key, name)
		return nil
	}
	if text, ok := strings.CutPrefix(key.Name, addressKey); ok {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		return a.address(key, ip)
	}
	if len(a.users) == 0 {
		a.links = nil // links of pods come and go often, and concern nobody here
		return nil
	}
	links, err := a.cfg.Wire.Links()
	if err != nil || slices.EqualFunc(links, a.links, Link.equal) {
		return err
	}
	a.links = links
	a.dropChanged()
	a.markAll()
	return nil
}

// dropChanged closes links that have gone or have another card, so that those that use them are taken anew.
func (a *Announcer) dropChanged() {
	for ip, h := range a.all() {
		if !slices.ContainsFunc(a.links, h.port.link.same) {
			a.drop(ip, h)
		}
	}
}

// all are the addresses that this node is elected for.
func (a *Announcer) all() map[netip.Addr]*held {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return maps.Clone(a.turns)
}

func (a *Announcer) markAll() {
	for ip := range a.users {
		a.loop.Mark(keyOf(ip))
	}
}

// service looks at one Service.
func (a *Announcer) service(key loop.Key) {
	for _, ip := range a.services[key].Addresses {
		delete(a.users[ip], key)
		a.loop.Mark(keyOf(ip))
	}
	w := a.cfg.View.Service(key)
	if len(w.Addresses) == 0 {
		delete(a.services, key)
		return
	}
	a.services[key] = w
	if len(a.users) == 0 {
		a.loop.Mark(loop.Key{Name: linksKey}) // nobody has looked at them
	}
	for _, ip := range w.Addresses {
		if a.users[ip] == nil {
			a.users[ip] = map[loop.Key]bool{}
		}
		a.users[ip][key] = true
		a.loop.Mark(keyOf(ip))
	}
}

// node looks at one node, and again when its lease ends. Its renewals are timed by this node's clock: clocks differ.
func (a *Announcer) node(key loop.Key, name string) {
	was, known := a.nodes[name]
	n, there := a.cfg.View.Node(name)
	if !there {
		if delete(a.nodes, name); known {
			a.markAll()
		}
		return
	}
	now := time.Now()
	is := seen{Node: n, at: was.at, alive: n.Serves}
	if !known || !was.Renewed.Equal(n.Renewed) {
		is.at = now
	}
	if n.Serves && n.Lease > 0 {
		left := is.at.Add(n.Lease).Sub(now)
		if is.alive = left > 0; is.alive {
			a.loop.MarkAfter(key, left)
		}
	}
	a.nodes[name] = is
	if !known || was.alive != is.alive || !slices.Equal(was.Addresses, is.Addresses) {
		a.markAll()
	}
}
