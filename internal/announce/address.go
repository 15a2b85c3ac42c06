package announce

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/loop"
)

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
