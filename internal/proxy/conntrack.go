package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/nft"
)

// Conntrack is the kernel's table of connections.
type Conntrack struct{}

// Forget implements Connections.
func (Conntrack) Forget(front Front, end netip.Addr) error {
	family := netlink.InetFamily(netlink.FAMILY_V4)
	if front.V6 {
		family = netlink.FAMILY_V6
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, flowsOf{front, end}); err != nil {
		return fmt.Errorf("forget connections to %v: %w", front, err)
	}
	return nil
}

// flowsOf picks the flows of a front: those that go to an end, or, without one, those that are not translated.
type flowsOf struct {
	front Front
	end   netip.Addr
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	from, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if nft.Proto(flow.Forward.Protocol) != f.front.Proto || flow.Forward.DstPort != f.front.Port || f.front.Addr.IsValid() && to.Unmap() != f.front.Addr {
		return false
	}
	if f.end.IsValid() {
		return from.Unmap() == f.end
	}
	return from == to
}

// listen opens a port on all addresses.
func listen(port uint16) (net.Listener, error) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on port %d: %w", port, err)
	}
	return l, err
}
