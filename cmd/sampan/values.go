package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"sampan.dev/internal/allocate"
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

// prefixValue is a flag that takes an IPv4 range.
type prefixValue struct{ prefix *netip.Prefix }

func (v prefixValue) Type() string { return "range" }

func (v prefixValue) String() string {
	if v.prefix == nil || !v.prefix.IsValid() {
		return ""
	}
	return v.prefix.String()
}

func (v prefixValue) Set(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not a range such as 10.244.0.0/16", s)
	}
	*v.prefix = p.Masked()
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
	links, _ := net.Interfaces()
	for _, link := range links {
		if link.Flags&net.FlagLoopback != 0 || link.Flags&net.FlagUp == 0 || link.Name == bridgeName {
			continue
		}
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
				addr, _ := netip.AddrFromSlice(n.IP.To4())
				return addr
			}
		}
	}
	return bridge
}
