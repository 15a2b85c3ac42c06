package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/nft"
)

// Packets to nodes that are on no link of this one travel within UDP (VXLAN, RFC 7348): an IPv4 header, a UDP header, VXLAN's own, and an Ethernet header.
const (
	tunnelPort     = 4789
	tunnelID       = 8383 // the VNI: the same on every node
	tunnelOverhead = 20 + 8 + 8 + 14
)

// Peer is another node: its own addresses, and the parts of the pods' ranges that it has.
type Peer struct {
	Name      string
	Addresses []netip.Addr
	Ranges    []netip.Prefix
}

// Tunnel is the link's name.
func (c Config) Tunnel() string { return "spvx-" + c.ID }

// tunnelMAC is the hardware address of a node's end of the tunnel. Every node can tell it from the node's range, so that nobody has to be asked.
func tunnelMAC(r netip.Prefix) net.HardwareAddr {
	a := r.Masked().Addr().As4()
	return net.HardwareAddr{0x0a, 0x59, a[0], a[1], a[2], a[3]}
}

// path is how packets get to a range of another node.
type path struct {
	Range netip.Prefix
	Via   netip.Addr // the node, by a link that both are on; or with Tunnel an address within its range
	Link  int        // that link
	// Tunnel is the node's own address, where packets within UDP are sent to; not valid: there is no tunnel.
	Tunnel netip.Addr
	MAC    net.HardwareAddr // of the tunnel's other end
}

// plan says how to get to the peers. Direct gives the link that this machine shares with an address, or 0.
func (c Config) plan(peers []Peer, direct func(netip.Addr) int) (paths []path) {
	taken := map[netip.Prefix]bool{}
	for _, own := range c.ranges() {
		taken[own.Node.Masked()] = true
	}
	for _, p := range peers {
		outer, inner := p.outer()
		for _, r := range p.Ranges {
			r = r.Masked()
			if taken[r] || !slices.ContainsFunc(c.ranges(), func(own Ranges) bool {
				return own.Pods.Contains(r.Addr()) && r.Bits() >= own.Pods.Bits() && !r.Overlaps(own.Node)
			}) {
				continue // nobody's business to lead packets elsewhere than into the pods' range, or this node's own away
			}
			taken[r] = true
			i := slices.IndexFunc(p.Addresses, func(a netip.Addr) bool { return a.Is4() == r.Addr().Is4() && direct(a) != 0 })
			switch {
			case i >= 0:
				paths = append(paths, path{Range: r, Via: p.Addresses[i], Link: direct(p.Addresses[i])})
			case outer.IsValid() && inner.IsValid():
				paths = append(paths, path{Range: r, Via: r.Addr(), Tunnel: outer, MAC: tunnelMAC(inner)})
			}
		}
	}
	return paths
}

// outer is where packets within UDP go, and inner the range that the node's end of the tunnel is named after.
func (p Peer) outer() (outer netip.Addr, inner netip.Prefix) {
	if i := slices.IndexFunc(p.Addresses, netip.Addr.Is4); i >= 0 {
		outer = p.Addresses[i]
	}
	if i := slices.IndexFunc(p.Ranges, func(r netip.Prefix) bool { return r.Addr().Is4() }); i >= 0 {
		inner = p.Ranges[i]
	}
	return outer, inner
}

// SetPeers leads packets for pods of other nodes there, and of no others: by a route where the node is on one of this machine's links, within UDP elsewhere. What
// there is of former peers goes. Their addresses are the nodes' own word; whoever may write Nodes may lead pods' packets.
func (n *Network) SetPeers(ctx context.Context, peers []Peer) error {
	paths := n.cfg.plan(peers, n.directly)
	tunnels := slices.DeleteFunc(slices.Clone(paths), func(p path) bool { return !p.Tunnel.IsValid() })
	if err := n.admit(ctx, tunnels); err != nil {
		return fmt.Errorf("pod network: admit other nodes: %w", err)
	}
	link, err := n.tunnel(len(tunnels) > 0)
	if err != nil {
		return fmt.Errorf("pod network: tunnel to other nodes: %w", err)
	}
	for i := range paths {
		if paths[i].Tunnel.IsValid() {
			paths[i].Link = link.Attrs().Index
		}
	}
	if link != nil {
		if err := connect(link, tunnels); err != nil {
			return fmt.Errorf("pod network: tunnel to other nodes: %w", err)
		}
	}
	if err := n.route(paths); err != nil {
		return fmt.Errorf("pod network: route to other nodes: %w", err)
	}
	return nil
}

// directly is the link by which an address is reached without a router, or 0.
func (n *Network) directly(to netip.Addr) int {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Gw != nil || routes[0].Type != unix.RTN_UNICAST {
		return 0
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().Name == n.cfg.Bridge() || link.Attrs().Name == n.cfg.Tunnel() || link.Attrs().Flags&net.FlagLoopback != 0 {
		return 0
	}
	return routes[0].LinkIndex
}

// admit sets the rules: what comes within UDP is taken from other nodes only, and dropped from everybody else.
func (n *Network) admit(ctx context.Context, tunnels []path) error {
	var from []netip.Addr
	for _, t := range tunnels {
		from = append(from, t.Tunnel)
	}
	slices.SortFunc(from, netip.Addr.Compare)
	from = slices.Compact(from)
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Equal(from, n.tunnels) {
		return nil
	}
	before := n.tunnels
	n.tunnels = from
	if err := n.cfg.Kernel.Set(ctx, n.table()); err != nil {
		n.tunnels = before
		return err
	}
	return nil
}

// guard are the rules of the tunnel, for a table.
func (n *Network) guard(t *nft.Table) {
	const peers = "peers"
	if len(n.tunnels) == 0 {
		return
	}
	set := nft.Set{Name: peers, Key: nft.Type{nft.Addr4}}
	for _, a := range n.tunnels {
		set.Elements = append(set.Elements, nft.Element{Key: nft.Concat(a)})
	}
	t.Sets = append(t.Sets, set)
	const key = 8
	packets := nft.Port{Proto: nft.UDP, Port: tunnelPort}
	t.Chains = append(t.Chains, nft.Chain{Name: "tunnel", Base: &nft.Base{Hook: nft.Input, Priority: nft.PriorityFilter}, Rules: []nft.Rule{
		{If: []nft.Match{packets, nft.Family{}, nft.Load{What: nft.Source4, Into: key}, nft.InSet{Set: peers, Key: key}}, Do: nft.Return{}, Comment: "pods of other nodes"},
		{If: []nft.Match{packets}, Do: nft.Drop{}, Comment: "only nodes send pods' packets within others"},
	}})
}

// tunnel makes the link, or takes it away.
func (n *Network) tunnel(wanted bool) (netlink.Link, error) {
	name := n.cfg.Tunnel()
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing) && !wanted:
		return nil, nil
	case err == nil && !wanted:
		return nil, ignore(netlink.LinkDel(link), "remove link "+name)
	case err == nil && link.Type() != "vxlan":
		return nil, fmt.Errorf("link %s is there, but is a %s", name, link.Type())
	case errors.As(err, &missing):
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = name, tunnelMAC(n.cfg.Node), n.uplinkMTU()-tunnelOverhead
		if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: tunnelID, Port: tunnelPort}); err != nil {
			return nil, fmt.Errorf("add link %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find link %s: %w", name, err)
		}
	case err != nil:
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	if n.cfg.IPv6 == (Ranges{}) {
		if err := sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
			return nil, err
		}
	}
	if err := sysctl("net/ipv4/conf/"+name+"/rp_filter", "2"); err != nil { // a peer that has us on a link answers by that
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("raise link %s: %w", name, err)
	}
	// What this node masquerades gets the address of the link by which it leaves: this one has the bridge's, so that answers come back by the tunnel.
	for _, own := range n.cfg.ranges() {
		a := own.gateway().Addr()
		address := &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(link, address); err != nil {
			return nil, fmt.Errorf("give %s to link %s: %w", a, name, err)
		}
	}
	return link, nil
}

// uplinkMTU is the largest packet that the smallest of this machine's own links takes.
func (n *Network) uplinkMTU() int {
	mtu := 1500
	links, err := whole(netlink.LinkList)
	if err != nil {
		return mtu
	}
	first := true
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || a.MasterIndex != 0 || a.Name == n.cfg.Bridge() || a.MTU < 1280 || l.Type() == "vxlan" || strings.HasPrefix(a.Name, "sampan-") {
			continue
		}
		if first || a.MTU < mtu {
			mtu, first = a.MTU, false
		}
	}
	return mtu
}

// connect tells the tunnel where each node's end is, and forgets others.
func connect(link netlink.Link, tunnels []path) error {
	type entry struct {
		family   int
		ip, dest string
	}
	wanted := map[entry]bool{}
	index := link.Attrs().Index
	for _, t := range tunnels {
		far := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, IP: t.Tunnel.AsSlice(), HardwareAddr: t.MAC}
		if err := netlink.NeighSet(far); err != nil {
			return fmt.Errorf("tell where %s is: %w", t.Tunnel, err)
		}
		near := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: t.Via.AsSlice(), HardwareAddr: t.MAC}
		if err := netlink.NeighSet(near); err != nil {
			return fmt.Errorf("tell whose %s is: %w", t.Range, err)
		}
		wanted[entry{unix.AF_BRIDGE, t.Tunnel.String(), t.MAC.String()}] = true
		wanted[entry{0, t.Via.String(), t.MAC.String()}] = true
	}
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		have, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, family) })
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for _, h := range have {
			ip, _ := netip.AddrFromSlice(h.IP)
			key := entry{0, ip.Unmap().String(), h.HardwareAddr.String()}
			if family == unix.AF_BRIDGE {
				key.family = unix.AF_BRIDGE
			}
			if h.State&netlink.NUD_PERMANENT == 0 || wanted[key] {
				continue
			}
			h.LinkIndex = index
			if family == unix.AF_BRIDGE {
				h.Flags |= netlink.NTF_SELF
			}
			if err := netlink.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("forget neighbour %s: %w", key.ip, err)
			}
		}
	}
	return nil
}

// local lets answers come in by a link to what this node's own programs ask of other nodes' pods by its loopback address (node ports), or no longer. That this opens the
// loopback addresses to that link is undone by the rule in "loopback".
func local(link int, on bool) error {
	l, err := netlink.LinkByIndex(link)
	if link == 0 || err != nil {
		return nil // it has gone, and its settings with it
	}
	return sysctl("net/ipv4/conf/"+l.Attrs().Name+"/route_localnet", map[bool]string{true: "1", false: "0"}[on])
}

// route makes the routes to other nodes' ranges be as planned.
func (n *Network) route(paths []path) error {
	wanted, links := map[string]bool{}, map[int]bool{}
	for _, p := range paths {
		if !links[p.Link] {
			if err := local(p.Link, true); err != nil {
				return err
			}
			links[p.Link] = true
		}
		r := &netlink.Route{
			Dst: ipnet(p.Range), Gw: p.Via.AsSlice(), LinkIndex: p.Link, Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN,
			Priority: n.cfg.metric(),
		}
		if p.Tunnel.IsValid() { // the node's own packets have an address there that leads back by the tunnel
			for _, own := range n.cfg.ranges() {
				if own.Node.Addr().Is4() == p.Range.Addr().Is4() {
					r.Src = own.gateway().Addr().AsSlice()
				}
			}
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("to %s by %s: %w", p.Range, p.Via, err)
		}
		wanted[r.Dst.String()+r.Gw.String()] = true
	}
	for _, own := range n.cfg.ranges() {
		have, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family(own.Pods), &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range have {
			if r.Dst == nil || r.Type != unix.RTN_UNICAST || r.Priority != n.cfg.metric() || wanted[r.Dst.String()+r.Gw.String()] {
				continue
			}
			if err := ignore(netlink.RouteDel(&r), "remove the route to "+r.Dst.String()); err != nil {
				return err
			}
			if !links[r.LinkIndex] {
				if err := local(r.LinkIndex, false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// OnLinks calls mark whenever this machine's addresses, links or ways out have changed, until ctx ends: another path may be the right one then.
func (n *Network) OnLinks(ctx context.Context, mark func()) error {
	done := make(chan struct{})
	addresses, links, routes := make(chan netlink.AddrUpdate, 64), make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64)
	var begun sync.WaitGroup // what is still sent is taken, or the senders would wait for ever
	defer begun.Wait()
	defer close(done)
	if err := netlink.AddrSubscribe(addresses, done); err != nil {
		return fmt.Errorf("follow this machine's addresses: %w", err)
	}
	defer begun.Go(func() { drain(addresses) })
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return fmt.Errorf("follow this machine's links: %w", err)
	}
	defer begun.Go(func() { drain(links) })
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return fmt.Errorf("follow this machine's routes: %w", err)
	}
	defer begun.Go(func() { drain(routes) })
	for {
		select {
		case u, ok := <-addresses:
			if !ok {
				return errors.New("follow this machine's addresses: the kernel tells no more")
			}
			if !n.own(u.LinkIndex) {
				mark()
			}
		case u, ok := <-links:
			if !ok {
				return errors.New("follow this machine's links: the kernel tells no more")
			}
			if u.Attrs().MasterIndex == 0 && !n.own(u.Attrs().Index) {
				mark()
			}
		case u, ok := <-routes:
			if !ok {
				return errors.New("follow this machine's routes: the kernel tells no more")
			}
			// A machine that moves has its address first, and the way out by it only then. Routes of links themselves come with addresses.
			if u.Protocol != routeProtocol && u.Table == unix.RT_TABLE_MAIN && u.Gw != nil {
				mark()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func drain[T any](updates <-chan T) {
	for range updates {
	}
}

// own says whether a link is the bridge or the tunnel.
func (n *Network) own(index int) bool {
	link, err := netlink.LinkByIndex(index)
	return err == nil && (link.Attrs().Name == n.cfg.Bridge() || link.Attrs().Name == n.cfg.Tunnel())
}
