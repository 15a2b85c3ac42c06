package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes of ours carry this protocol number, so that Down finds them, and another cluster's are told apart by their metric.
const routeProtocol = 83

// metric marks the routes of one instance that are on no link of its own: high, so that any other route to the same range wins, and made of the id.
func (c Config) metric() int {
	id, _ := strconv.ParseUint(c.ID, 16, 32)
	return 1<<30 | int(id&(1<<24-1))
}

func ipnet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// free refuses ranges that somebody else on this machine uses: any route into them that is not ours. Wider routes do no harm,
// since the longer prefix wins.
func free(c Config) error {
	for _, own := range c.ranges() {
		if err := own.free(c); err != nil {
			return err
		}
	}
	return nil
}

func (r Ranges) free(c Config) error {
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family(r.Pods), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("pod network: list routes: %w", err)
	}
	own := r
	for _, r := range routes {
		if r.Dst == nil || isOurs(c, r) {
			continue
		}
		ip, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		dst := netip.PrefixFrom(ip.Unmap(), bits)
		for _, rng := range []struct {
			name, flag string
			prefix     netip.Prefix
		}{{"pod", "--pod-range", own.Pods}, {"service", "--service-range", own.Service}} {
			if dst.Bits() >= rng.prefix.Bits() && rng.prefix.Overlaps(dst) {
				return fmt.Errorf("the %s range %s is already used on this machine by %s: choose another with %s: %w",
					rng.name, rng.prefix, user(r, dst), rng.flag, ErrTaken)
			}
		}
	}
	return nil
}

// family is netlink's number for that of a range.
func family(p netip.Prefix) int {
	if p.Addr().Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func user(r netlink.Route, dst netip.Prefix) string {
	link, err := netlink.LinkByIndex(r.LinkIndex)
	switch {
	case r.LinkIndex == 0 || err != nil:
		if r.Protocol == routeProtocol {
			return "another sampan"
		}
		return fmt.Sprintf("a route to %s", dst)
	case strings.HasPrefix(link.Attrs().Name, "sampan-"):
		return fmt.Sprintf("another sampan (link %s)", link.Attrs().Name)
	}
	return fmt.Sprintf("link %s (route to %s)", link.Attrs().Name, dst)
}

func isOurs(c Config, r netlink.Route) bool {
	if r.Protocol == routeProtocol && (r.Type == unix.RTN_UNREACHABLE || r.Priority == c.metric()) {
		return r.Priority == c.metric() // the closing route, or one to another node
	}
	if r.LinkIndex == 0 {
		return false
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	return err == nil && link.Attrs().Name == c.Bridge()
}

// ensureBridge makes the bridge, still down and without an address. Its hardware address is fixed: a bridge otherwise takes the
// lowest of its ports', and pods would lose their gateway each time that changes.
func ensureBridge(c Config) (netlink.Link, error) {
	if link, err := netlink.LinkByName(c.Bridge()); err == nil {
		if link.Type() != "bridge" {
			return nil, fmt.Errorf("link %s is there, but is a %s, not a bridge", c.Bridge(), link.Type())
		}
		return link, nil
	}
	gw := c.Gateway().As4()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.Bridge()
	attrs.HardwareAddr = net.HardwareAddr{0x0a, 0x58, gw[0], gw[1], gw[2], gw[3]}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("add bridge %s: %w", c.Bridge(), err)
	}
	link, err := netlink.LinkByName(c.Bridge())
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", c.Bridge(), err)
	}
	return link, nil
}

func closePods(c Config) error {
	for _, r := range c.ranges() {
		route := &netlink.Route{Dst: ipnet(r.Pods), Type: unix.RTN_UNREACHABLE, Priority: c.metric(), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("close %s by an unreachable route: %w", r.Pods, err)
		}
	}
	return nil
}

// raise brings the bridge up, routes the service range to it, and last gives it its address.
func raise(c Config, bridge netlink.Link) error {
	if c.IPv6 != (Ranges{}) {
		const none = 1 // IN6_ADDR_GEN_MODE_NONE: no address but those that are given
		if err := netlink.LinkSetIP6AddrGenMode(bridge, none); err != nil {
			return fmt.Errorf("use IPv6 on bridge %s: %w", c.Bridge(), err)
		}
		if err := sysctl("net/ipv6/conf/"+c.Bridge()+"/disable_ipv6", "0"); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("raise bridge %s: %w", c.Bridge(), err)
	}
	// A bridge without ports has no carrier. Its routes must hold all the same, or the range would fall to the default route.
	if err := sysctl("net/ipv4/conf/"+c.Bridge()+"/ignore_routes_with_linkdown", "0"); err != nil {
		return err
	}
	if err := routeServices(c, nil); err != nil {
		return err
	}
	for _, r := range c.ranges() {
		own := []netip.Prefix{r.gateway()}
		if c.DNS.IsValid() && r.Service.Contains(c.DNS) {
			own = append(own, netip.PrefixFrom(c.DNS, c.DNS.BitLen()))
		}
		if r.Node.Addr().Is6() {
			own = append(own, linkLocal)
		}
		if err := addresses(c, bridge, family(r.Node), own); err != nil {
			return err
		}
	}
	return nil
}

// linkLocal is the bridge's own address on the link: by it the node asks for a pod's hardware address when what it sends is from elsewhere (RFC 4861, 7.2.2).
var linkLocal = netip.MustParsePrefix("fe80::1/64")

// addresses gives the bridge these addresses of a family, and takes all others from it.
func addresses(c Config, bridge netlink.Link, family int, own []netip.Prefix) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, family) })
	if err != nil {
		return fmt.Errorf("list addresses of bridge %s: %w", c.Bridge(), err)
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return a.IPNet.String() == p.String() }) {
			if err := netlink.AddrDel(bridge, &a); err != nil {
				return fmt.Errorf("remove address %s from bridge %s: %w", a.IPNet, c.Bridge(), err)
			}
		}
	}
	for _, p := range own {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // nobody else can have it
		}
		if err := netlink.AddrReplace(bridge, a); err != nil {
			return fmt.Errorf("give bridge %s the address %s: %w", c.Bridge(), p, err)
		}
	}
	return nil
}

// routeServices leads the ranges of Services to the bridge, where rules say what becomes of their packets, and no others: by the default route they would leave
// before they are translated.
func routeServices(c Config, more []netip.Prefix) error {
	bridge, err := netlink.LinkByName(c.Bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", c.Bridge(), err)
	}
	wanted := map[string]bool{}
	for _, p := range append(c.services(), more...) {
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipnet(p), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s to bridge %s: %w", p, c.Bridge(), err)
		}
		wanted[route.Dst.String()] = true
	}
	for _, r := range c.ranges() {
		routes, err := whole(func() ([]netlink.Route, error) {
			filter := &netlink.Route{LinkIndex: bridge.Attrs().Index, Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
			return netlink.RouteListFiltered(family(r.Service), filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("list routes to bridge %s: %w", c.Bridge(), err)
		}
		for _, r := range routes {
			if r.Dst != nil && !wanted[r.Dst.String()] {
				if err := ignore(netlink.RouteDel(&r), "remove the route to "+r.Dst.String()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func sysctls(c Config) error {
	// Answers of a pod to a translated packet come back by the bridge: loose reverse-path filtering lets them. With route_localnet, programs of the node
	// reach node ports by localhost; that it opens the node's loopback addresses to pods is undone by the rule in "loopback", which sees packets before their
	// addresses are translated back, and was set before this.
	return errors.Join(
		sysctl("net/ipv4/ip_forward", "1"),
		sysctl("net/ipv4/conf/"+c.Bridge()+"/rp_filter", "2"),
		sysctl("net/ipv4/conf/"+c.Bridge()+"/route_localnet", "1"),
		sysctl("net/ipv4/conf/"+c.Bridge()+"/send_redirects", "0"),
		sysctls6(c),
	)
}

// sysctls6 forwards IPv6 where there is a range for it, and keeps the bridge free of it elsewhere. A machine that forwards does not heed routers' advertisements
// any more unless it is told to: the links that did go on doing so, or the machine would lose its own default route.
func sysctls6(c Config) error {
	if c.IPv6 == (Ranges{}) {
		return sysctl("net/ipv6/conf/"+c.Bridge()+"/disable_ipv6", "1")
	}
	heeding, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range heeding {
		if value, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(value)) != "1" {
			continue
		}
		if err := sysctl(strings.TrimPrefix(path, "/proc/sys/"), "2"); err != nil {
			return err
		}
	}
	return sysctl("net/ipv6/conf/all/forwarding", "1")
}

// sysctl writes a setting, unless it is as wanted: /proc/sys may be mounted read-only.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	have, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "net/ipv6/") {
		return nil // a kernel without IPv6
	}
	if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// removeLinks removes the bridge with what hangs on it, the tunnel, the closing route, and those to other nodes. Routes of a link go with it.
func removeLinks(c Config) error {
	var errs []error
	if tunnel, err := netlink.LinkByName(c.Tunnel()); err == nil {
		errs = append(errs, ignore(netlink.LinkDel(tunnel), "remove link "+c.Tunnel()))
	}
	if bridge, err := netlink.LinkByName(c.Bridge()); err == nil {
		links, err := whole(netlink.LinkList)
		if err != nil {
			errs = append(errs, fmt.Errorf("list links: %w", err))
		}
		for _, l := range links {
			if l.Attrs().MasterIndex == bridge.Attrs().Index && strings.HasPrefix(l.Attrs().Name, "sp") {
				errs = append(errs, ignore(netlink.LinkDel(l), "remove link "+l.Attrs().Name))
			}
		}
		errs = append(errs, ignore(netlink.LinkDel(bridge), "remove bridge "+c.Bridge()))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} { // whatever it was that ran here before
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol},
				netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list routes: %w", err))
		}
		for _, r := range routes {
			if r.Priority == c.metric() {
				errs = append(errs, local(r.LinkIndex, false))
				errs = append(errs, ignore(netlink.RouteDel(&r), "remove route to "+r.Dst.String()))
			}
		}
	}
	return errors.Join(errs...)
}

// ignore adds what was tried to an error, unless the error is that the thing was gone already.
func ignore(err error, what string) error {
	var missing netlink.LinkNotFoundError
	if err == nil || errors.As(err, &missing) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// whole asks the kernel for a list again while others change it: what it gives then may lack some (NLM_F_DUMP_INTR, netlink(7)).
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}
