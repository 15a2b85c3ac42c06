// Package network hangs pods on one bridge: an address, a pair of links and a default route each.
//
// It writes DIR/addresses.json (which sandbox has which address), links named "sp" and 13 digits of the sandbox's ID on the bridge's
// side, and eth0, its address and routes inside the network namespaces that it is given. It makes the bridge if nobody else has. Always: an address
// is on disk as taken before any link has it, and is freed only after the link is gone; so no two pods ever have the same.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNoRange says that no address range has been told yet.
var ErrNoRange = errors.New("no pod address range is set yet")

// Config of a network.
type Config struct {
	Dir    string // takes addresses.json
	Bridge string // the link that pods hang on
	Log    *slog.Logger
}

// Network attaches sandboxes to a bridge.
type Network struct {
	cfg   Config
	ipam  *ipam
	links *netlink.Handle

	making sync.Mutex // held while the bridge is looked for and made
}

// Traffic counts what went through a pod's link, as the pod sees it.
type Traffic struct{ RxBytes, RxErrors, TxBytes, TxErrors uint64 }

// Open reads which addresses are taken. It changes nothing: see Keep.
func Open(cfg Config) (*Network, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	p, err := openIPAM(leasePath(cfg.Dir))
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open network: netlink: %w", err)
	}
	return &Network{cfg: cfg, ipam: p, links: h}, nil
}

// Close frees the netlink socket. Pods stay attached.
func (n *Network) Close() { n.links.Close() }

// Ranges are what pods get addresses from: of IPv4 always, and where pods have two addresses, of IPv6 as well.
type Ranges struct{ IPv4, IPv6 netip.Prefix }

// ParseCIDR reads the ranges as CRI tells them: one of each family at the most, with commas. That of IPv6 must have room for as many pods as that of IPv4.
func ParseCIDR(s string) (r Ranges, err error) {
	for part := range strings.SplitSeq(s, ",") {
		cidr, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return Ranges{}, fmt.Errorf("pod address range %q: %w", s, err)
		}
		switch cidr = cidr.Masked(); {
		case cidr.Addr().Is4() && !r.IPv4.IsValid():
			r.IPv4 = cidr
		case cidr.Addr().Is6() && !cidr.Addr().Is4In6() && !r.IPv6.IsValid():
			r.IPv6 = cidr
		default:
			return Ranges{}, fmt.Errorf("pod address range %q: there are two of one family", s)
		}
	}
	switch {
	case !r.IPv4.IsValid() || r.IPv4.Bits() > 30:
		return Ranges{}, fmt.Errorf("pod address range %q: no IPv4 range with room for a pod", s)
	case r.IPv6.IsValid() && 128-r.IPv6.Bits() < 32-r.IPv4.Bits():
		return Ranges{}, fmt.Errorf("pod address range %q: the IPv6 range is smaller than that of IPv4", s)
	}
	return r, nil
}

// SetCIDR tells the ranges that pods get addresses from. Pods that have one of another range keep it.
func (n *Network) SetCIDR(r Ranges) error {
	if err := n.ipam.setCIDR(r.IPv4, r.IPv6); err != nil {
		return fmt.Errorf("set pod address range %v: %w", r, err)
	}
	return nil
}

// Ready is nil if pods can be attached, else says why not.
func (n *Network) Ready() error {
	if !n.ipam.cidr().IsValid() {
		return ErrNoRange
	}
	return nil
}

// LinkName is the name of a sandbox's link on the bridge's side; 15 characters are what the kernel takes.
func LinkName(sandbox string) string { return "sp" + sandbox[:min(13, len(sandbox))] }

// Add attaches a sandbox whose network namespace is at the given path, and gives its addresses, first the main one. If it fails,
// the caller calls Remove.
func (n *Network) Add(_ context.Context, sandbox, nsPath string) ([]netip.Addr, error) {
	addr, err := n.ipam.take(sandbox)
	if err != nil {
		return nil, fmt.Errorf("attach pod to network: %w", err)
	}
	bridge, err := n.bridge(addr.Masked())
	if err != nil {
		return nil, fmt.Errorf("attach pod to network: %w", err)
	}
	ns, err := netns.GetFromPath(nsPath)
	if err != nil {
		return nil, fmt.Errorf("attach pod to network: open namespace %s: %w", nsPath, err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = LinkName(sandbox)
	attrs.MTU = bridge.Attrs().MTU
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns)),
		// The same address has the same hardware address always, so nobody's neighbour table is wrong when it is used again.
		PeerHardwareAddr: hardware(addr.Addr()),
	}
	err = n.links.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) { // left by an attempt that did not come to its end
		if err = n.unlink(attrs.Name); err == nil {
			err = n.links.LinkAdd(veth)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("attach pod to network: make link %s: %w", attrs.Name, err)
	}
	addrs := []netip.Prefix{addr}
	if six, has := n.ipam.beside(addr.Addr()); has {
		addrs = append(addrs, netip.PrefixFrom(six, n.ipam.cidr6().Bits()))
	}
	if err := n.inside(ns, addrs); err != nil {
		return nil, fmt.Errorf("attach pod to network: in its namespace: %w", err)
	}
	if err := n.outside(veth, bridge); err != nil {
		return nil, fmt.Errorf("attach pod to network: link %s: %w", attrs.Name, err)
	}
	own := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		own[i] = a.Addr()
	}
	return own, nil
}

// outside puts the host's end onto the bridge.
func (n *Network) outside(veth *netlink.Veth, bridge netlink.Link) error {
	// No link-local address of its own: nobody talks to this end. Kernels without IPv6 refuse, which is as good.
	_ = n.links.LinkSetIP6AddrGenMode(veth, addrGenNone)
	if err := n.links.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("join bridge %s: %w", n.cfg.Bridge, err)
	}
	if err := n.links.LinkSetHairpin(veth, true); err != nil { // a pod reaches itself through its own Service
		return fmt.Errorf("set hairpin: %w", err)
	}
	if err := n.links.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE: no link-local address is made.
const addrGenNone = 1

// inside sets up eth0 and lo in the pod's namespace.
func (n *Network) inside(ns netns.NsHandle, addrs []netip.Prefix) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	_ = h.LinkSetIP6AddrGenMode(eth, addrGenNone)
	// An address stands alone: pods of one node reach each other through it, where addresses of Services are translated and policies hold. An answer that took
	// the short way over the bridge would seem to come from somebody else.
	for _, addr := range addrs {
		if err := h.AddrAdd(eth, address(netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen()))); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set eth0 up: %w", err)
	}
	for _, addr := range addrs {
		gw := gateway(addr)
		for _, route := range []*netlink.Route{
			{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.PrefixFrom(gw, gw.BitLen())), Scope: netlink.SCOPE_LINK},
			{LinkIndex: eth.Attrs().Index, Gw: gw.AsSlice()},
		} {
			if err := h.RouteReplace(route); err != nil {
				return fmt.Errorf("add route by %s: %w", gw, err)
			}
		}
	}
	return nil
}

// address is one that is used at once: nobody else can have it, so that nobody is asked (IPv6 would wait a second for that, RFC 4862).
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// linkLocal is the bridge's own address on the link: by it neighbours are asked for in the name of those who have no address there.
var linkLocal = netip.MustParsePrefix("fe80::1/64")

// bridge finds the bridge, or makes it with the gateway's address.
func (n *Network) bridge(cidr netip.Prefix) (netlink.Link, error) {
	link, err := n.links.LinkByName(n.cfg.Bridge)
	if err == nil {
		return link, nil
	}
	n.making.Lock()
	defer n.making.Unlock()
	if link, err := n.links.LinkByName(n.cfg.Bridge); err == nil {
		return link, nil
	}
	gw := netip.PrefixFrom(gateway(cidr), cidr.Bits())
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.cfg.Bridge
	attrs.HardwareAddr = hardware(gw.Addr()) // else it changes with each pod
	made := &netlink.Bridge{LinkAttrs: attrs}
	if err := n.links.LinkAdd(made); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", n.cfg.Bridge, err)
	}
	_ = n.links.LinkSetIP6AddrGenMode(made, addrGenNone)
	own := []netip.Prefix{gw}
	if six := n.ipam.cidr6(); six.IsValid() {
		own = append(own, netip.PrefixFrom(gateway(six), six.Bits()), linkLocal)
	}
	for _, gw := range own {
		if err := n.links.AddrAdd(made, address(gw)); err != nil {
			return nil, fmt.Errorf("give bridge %s address %s: %w", n.cfg.Bridge, gw, err)
		}
	}
	if err := n.links.LinkSetUp(made); err != nil {
		return nil, fmt.Errorf("set bridge %s up: %w", n.cfg.Bridge, err)
	}
	return n.links.LinkByName(n.cfg.Bridge)
}

// Remove detaches a sandbox and frees its addresses. One that is not attached is no error.
func (n *Network) Remove(_ context.Context, sandbox string) error {
	if err := n.unlink(LinkName(sandbox)); err != nil {
		return fmt.Errorf("detach pod from network: %w", err)
	}
	if err := n.ipam.release(sandbox); err != nil {
		return fmt.Errorf("detach pod from network: %w", err)
	}
	return nil
}

func (n *Network) unlink(name string) error {
	link, err := n.links.LinkByName(name)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := n.links.LinkDel(link); err != nil && !isGone(err) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// Keep frees the addresses and links of all sandboxes but the given ones: what a killed process or a boot has left.
func (n *Network) Keep(sandboxes []string) error {
	var errs []error
	if bridge, err := n.links.LinkByName(n.cfg.Bridge); err == nil {
		known := map[string]bool{}
		for _, id := range sandboxes {
			known[LinkName(id)] = true
		}
		all, err := n.links.LinkList()
		for try := 0; try < 20 && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
			all, err = n.links.LinkList() // others changed links meanwhile, and some may be missing (netlink(7))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list links: %w", err))
		}
		for _, link := range all {
			a := link.Attrs()
			if a.MasterIndex == bridge.Attrs().Index && strings.HasPrefix(a.Name, "sp") && !known[a.Name] {
				errs = append(errs, n.unlink(a.Name))
			}
		}
	}
	errs = append(errs, n.ipam.keep(sandboxes))
	return errors.Join(errs...)
}

// Traffic reads the counters of a sandbox's link.
func (n *Network) Traffic(sandbox string) (Traffic, error) {
	link, err := n.links.LinkByName(LinkName(sandbox))
	if err != nil {
		return Traffic{}, fmt.Errorf("find link of pod: %w", err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Traffic{}, nil
	}
	// What the host's end sends is what the pod receives.
	return Traffic{RxBytes: s.TxBytes, RxErrors: s.TxErrors, TxBytes: s.RxBytes, TxErrors: s.RxErrors}, nil
}

func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hardware derives a hardware address (locally administered) from an IPv4 address.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}
