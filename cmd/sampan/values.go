package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"sampan.dev/internal/agent/pressure"
	"sampan.dev/internal/allocate"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/instance"
)

// addrValue is a flag that takes an IPv4 address.
type addrValue struct{ addr *netip.Addr }

func (v addrValue) Type() string { return "address" }

func (v addrValue) String() string {
	if v.addr == nil || !v.addr.IsValid() {
		return ""
	}
	return v.addr.String()
}

func (v addrValue) Set(s string) error {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Unmap().Is4() {
		return fmt.Errorf("%q is not an IPv4 address", s)
	}
	*v.addr = addr.Unmap()
	return nil
}

// thresholdsValue is a flag that takes below what is left a node evicts pods, as the kubelet's of that name.
type thresholdsValue struct{ text *string }

func (v thresholdsValue) Type() string { return "mapStringString" }

func (v thresholdsValue) String() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

func (v thresholdsValue) Set(s string) error {
	if _, err := pressure.Parse(s); err != nil {
		return err
	}
	*v.text = s
	return nil
}

// rangesValue is a flag that takes an IPv4 range and, after a comma, one of IPv6.
type rangesValue struct{ v4, v6 *netip.Prefix }

func (v rangesValue) Type() string { return "ranges" }

func (v rangesValue) String() string {
	if v.v4 == nil || !v.v4.IsValid() {
		return ""
	}
	if v.v6.IsValid() {
		return v.v4.String() + "," + v.v6.String()
	}
	return v.v4.String()
}

func (v rangesValue) Set(s string) error {
	var v4, v6 netip.Prefix
	for text := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%q is not a range such as 10.244.0.0/16", text)
		}
		family := &v4
		if p.Addr().Is6() {
			family = &v6
		}
		if family.IsValid() {
			return fmt.Errorf("%q has two ranges of one family", s)
		}
		*family = p.Masked()
	}
	if !v4.IsValid() {
		return fmt.Errorf("%q has no IPv4 range: one of IPv6 may only stand beside it", s)
	}
	*v.v4, *v.v6 = v4, v6
	return nil
}

// portsValue is a flag that takes a range of ports.
type portsValue struct{ ports *allocate.PortRange }

func (v portsValue) Type() string { return "range" }

func (v portsValue) String() string {
	if v.ports == nil || v.ports.Last == 0 {
		return ""
	}
	return v.ports.String()
}

func (v portsValue) Set(s string) error {
	r, err := allocate.ParsePortRange(s)
	if err != nil {
		return err
	}
	*v.ports = r
	return nil
}

// poolsValue is a flag that takes addresses for load balancers. An empty text is none.
type poolsValue struct{ text *string }

func (v poolsValue) Type() string { return "addresses" }

func (v poolsValue) String() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

func (v poolsValue) Set(s string) error {
	pools, err := loadbalancer.ParsePools(s)
	if err != nil {
		return err
	}
	*v.text = pools.String()
	return nil
}

// upstreamsValue is a flag that takes DNS servers; port 53 where none is said. An empty text is none.
type upstreamsValue struct{ servers *[]netip.AddrPort }

func (v upstreamsValue) Type() string { return "addresses" }

func (v upstreamsValue) String() string {
	if v.servers == nil {
		return ""
	}
	texts := make([]string, 0, len(*v.servers))
	for _, s := range *v.servers {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, ",")
}

func (v upstreamsValue) Set(s string) error {
	var servers []netip.AddrPort
	for one := range strings.SplitSeq(s, ",") {
		one = strings.TrimSpace(one)
		if addr, err := netip.ParseAddr(one); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, 53))
		} else if server, err := netip.ParseAddrPort(one); err == nil {
			servers = append(servers, server)
		} else if one != "" {
			return fmt.Errorf("%q is neither an address nor ADDRESS:PORT", one)
		}
	}
	*v.servers = servers
	return nil
}

// nodeAddress is the address that a node is known by: the chosen one, or the one that the default route leaves by, or the first
// that is not the loopback's. A machine with no network at all has none; the node then goes by its address on the pods' bridge.
func nodeAddress(chosen, bridge netip.Addr, bridgeName string) netip.Addr {
	if chosen.IsValid() {
		return chosen
	}
	// Connecting a UDP socket sends nothing: the kernel only looks up the route (192.0.2.1 is for documentation, RFC 5737).
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		if a, ok := c.LocalAddr().(*net.UDPAddr); ok && a.AddrPort().Addr().Unmap() != bridge {
			return a.AddrPort().Addr().Unmap()
		}
	}
	if addr := linkAddress(bridgeName, netip.Addr.Is4); addr.IsValid() {
		return addr
	}
	return bridge
}

// nodeAddress6 is the node's IPv6 address, where pods have one, too: the first that is not the loopback's, or that on the pods' bridge.
func nodeAddress6(s instance.Settings, bridgeName string) netip.Addr {
	if !s.PodRange6.IsValid() {
		return netip.Addr{}
	}
	if addr := linkAddress(bridgeName, netip.Addr.Is6); addr.IsValid() {
		return addr
	}
	return s.NodeRange6().Addr().Next()
}

// linkAddress is the first global address of a family on a link that is neither the loopback nor the pods' bridge.
func linkAddress(bridgeName string, family func(netip.Addr) bool) netip.Addr {
	links, _ := net.Interfaces()
	for _, link := range links {
		if link.Flags&net.FlagLoopback != 0 || link.Flags&net.FlagUp == 0 || link.Name == bridgeName {
			continue
		}
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok || !n.IP.IsGlobalUnicast() {
				continue
			}
			if addr, ok := netip.AddrFromSlice(n.IP); ok && family(addr.Unmap()) {
				return addr.Unmap()
			}
		}
	}
	return netip.Addr{}
}
