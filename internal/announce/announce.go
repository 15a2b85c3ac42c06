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
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
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

// mine says on which link this node announces an address; nil: on none.
func (a *Announcer) mine(ip netip.Addr) *Link {
	users := a.users[ip]
	link, network, found := linkOf(a.links, ip)
	if len(users) == 0 || !found {
		return nil
	}
	if _, own := has(a.links, ip); own {
		return nil // its kernel answers
	}
	nodes := map[string][]netip.Addr{}
	for name, n := range a.nodes {
		if slices.Contains(n.Addresses, ip) {
			return nil
		}
		if n.alive {
			nodes[name] = n.Addresses
		}
	}
	for key := range users {
		if on := a.services[key].Nodes; on != nil {
			maps.DeleteFunc(nodes, func(name string, _ []netip.Addr) bool { return !on[name] })
		}
	}
	if Elect(ip, network, nodes) != a.cfg.Node {
		return nil
	}
	return &link
}

// address does what is next for one address.
func (a *Announcer) address(key loop.Key, ip netip.Addr) error {
	link := a.mine(ip)
	a.mu.RLock()
	h := a.turns[ip]
	a.mu.RUnlock()
	if h != nil && (link == nil || !h.port.link.same(*link)) {
		a.drop(ip, h)
		h = nil
	}
	if link == nil {
		if len(a.users[ip]) == 0 {
			delete(a.users, ip)
		}
		return nil
	}
	if h == nil {
		var err error
		if h, err = a.take(ip, *link); err != nil {
			return fmt.Errorf("announce %s on link %s: %w", ip, link.Name, err)
		}
	}
	a.mu.Lock()
	before := h.turn
	do, after := h.next(time.Now())
	h.turn = after
	a.mu.Unlock()
	if !after.due.IsZero() {
		a.loop.MarkAfter(key, time.Until(after.due))
	}
	if err := a.do(do, ip, h, before.rival); err != nil {
		return fmt.Errorf("announce %s on link %s: %w", ip, link.Name, err)
	}
	return nil
}

func (a *Announcer) do(do deed, ip netip.Addr, h *held, rival *MAC) error {
	switch do {
	case probe:
		return h.port.Probe(ip)
	case announceIt:
		if h.sent == 1 {
			a.cfg.Log.Info("packets for an address are taken by this node", "address", ip, "link", h.port.link.Name)
		}
		return h.port.Announce(ip)
	case complain:
		a.complain(ip, h, *rival, "it is not announced")
	case defend:
		a.complain(ip, h, *rival, "packets go to one of the two")
		return h.port.Announce(ip)
	}
	return nil
}

// complain tells all Services of the address that another machine has it.
func (a *Announcer) complain(ip netip.Addr, h *held, rival MAC, so string) {
	a.cfg.Log.Warn("another machine has the address of a load balancer", "address", ip, "link", h.port.link.Name, "machine", rival)
	for key := range a.users[ip] {
		ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: key.Namespace, Name: key.Name, UID: a.services[key].UID}
		a.cfg.Events.Record(ref, corev1.EventTypeWarning, "AddressConflict", fmt.Sprintf("Address %s is in use by another machine, %s, on link %s of node %s: %s", ip, rival, h.port.link.Name, a.cfg.Node, so))
	}
}

// take opens the link for an address, if it is not open already.
func (a *Announcer) take(ip netip.Addr, link Link) (*held, error) {
	at := place{link.Index, ip.Is6()}
	p := a.ports[at]
	if p == nil {
		port, err := a.cfg.Wire.Open(link, at.v6, func(h Heard) { a.heard(at, h) })
		if err != nil {
			return nil, err
		}
		p = &open{Port: port, link: link, users: map[netip.Addr]bool{}}
		a.ports[at] = p
	}
	p.users[ip] = true
	h := &held{at: at, port: p}
	if err := p.Join(ip); err != nil {
		a.drop(ip, h)
		return nil, err
	}
	a.mu.Lock()
	a.turns[ip] = h
	a.mu.Unlock()
	return h, nil
}

// drop ends announcing an address, and closes the link if it was the last.
func (a *Announcer) drop(ip netip.Addr, h *held) {
	var err error
	a.mu.Lock()
	taken := a.turns[ip] == h
	if taken {
		delete(a.turns, ip)
	}
	a.mu.Unlock()
	if taken {
		err = h.port.Leave(ip)
	}
	if delete(h.port.users, ip); len(h.port.users) == 0 {
		delete(a.ports, h.at)
		err = errors.Join(err, h.port.Close())
	}
	if err != nil {
		a.cfg.Log.Debug("stop announcing an address", "address", ip, "error", err) // its link may have gone
	}
}

// heard answers a question, or notes a rival.
func (a *Announcer) heard(at place, what Heard) {
	a.mu.RLock()
	var asked *open
	if h := a.turns[what.Asked]; h != nil && h.at == at && h.answers() && what.MAC != h.port.link.MAC {
		asked = h.port
	}
	rival := a.turns[what.Claimed]
	a.mu.RUnlock()
	if asked != nil {
		if err := asked.Answer(what); err != nil {
			a.cfg.Log.Debug("answer a neighbour", "address", what.Asked, "neighbour", what.From, "error", err)
		}
	}
	if rival == nil || rival.at != at || what.MAC == rival.port.link.MAC {
		return
	}
	a.mu.Lock()
	first := rival.rival == nil
	rival.turn = rival.turn.heard(what.MAC, time.Now())
	a.mu.Unlock()
	if first {
		a.loop.Mark(keyOf(what.Claimed))
	}
}
