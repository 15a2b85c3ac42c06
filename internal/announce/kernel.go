package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Kernel is this machine's networks.
type Kernel struct {
	// In runs what opens sockets, within another network namespace than that of the process; nil: in this one.
	In func(func())
}

func (k Kernel) in(f func()) {
	if k.In != nil {
		k.In(f)
		return
	}
	f()
}

// Links implements Wire.
func (k Kernel) Links() (links []Link, err error) {
	k.in(func() { links, err = list() })
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

func list() (links []Link, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	of := map[int][]netlink.Addr{}
	for _, a := range addrs {
		of[a.LinkIndex] = append(of[a.LinkIndex], a)
	}
	for _, l := range all {
		at := l.Attrs()
		const flags = net.FlagUp | net.FlagBroadcast
		link := Link{Index: at.Index, Name: at.Name}
		// The bridge, or the bond, speaks for those that it has.
		if at.Flags&flags != flags || at.RawFlags&unix.IFF_NOARP != 0 || len(at.HardwareAddr) != len(MAC{}) || at.MasterIndex != 0 {
			link.Mute = true
		} else {
			link.MAC = MAC(at.HardwareAddr)
		}
		for _, a := range of[at.Index] {
			ip, _ := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			if ip = ip.Unmap(); ip.IsLinkLocalUnicast() && ip.Is6() {
				link.Local = ip
				continue
			}
			link.Prefixes = append(link.Prefixes, netip.PrefixFrom(ip, bits))
		}
		if len(link.Prefixes) > 0 {
			links = append(links, link)
		}
	}
	return links, nil
}

// Watch implements Wire.
func (k Kernel) Watch(ctx context.Context, changed func()) (err error) {
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	k.in(func() {
		ignore := func(error) {} // the channel is closed then
		if err = netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: ignore}); err != nil {
			close(links)
			close(addrs)
			return
		}
		if err = netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: ignore}); err != nil {
			close(addrs)
		}
	})
	defer func() { // those who send end with their channels
		close(done)
		for range links {
		}
		for range addrs {
		}
	}()
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	changed() // what changed before is not told
	for ok := true; ok; {
		select {
		case <-ctx.Done():
			return nil
		case _, ok = <-links:
		case _, ok = <-addrs:
		}
		changed()
	}
	return errors.New("watch links: the kernel has told more than could be read")
}

// arpOnly lets through ARP for Ethernet and IPv4, and ndOnly neighbour solicitations and advertisements. Packets begin after the Ethernet header.
var (
	arpOnly = []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x00010800, SkipTrue: 4},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpRequest, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: arpReply, SkipTrue: 1},
		bpf.RetConstant{Val: packetMost},
		bpf.RetConstant{Val: 0},
	}
	ndOnly = []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmp6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: ip6Len, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ndSolicit, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ndAdvert, SkipTrue: 1},
		bpf.RetConstant{Val: packetMost},
		bpf.RetConstant{Val: 0},
	}
)

const packetMost = 1500

// Open implements Wire.
func (k Kernel) Open(link Link, v6 bool, heard func(Heard)) (Port, error) {
	p := &kernelPort{link: link, v6: v6, groups: map[netip.Addr]int{}, groupFD: -1}
	var err error
	k.in(func() { err = p.open() })
	if err != nil {
		return nil, err
	}
	p.reading.Go(func() { p.read(heard) })
	return p, nil
}

// kernelPort is a packet socket, and for IPv6 one more by which groups are joined, so that switches hear of it.
type kernelPort struct {
	link    Link
	v6      bool
	file    *os.File
	groupFD int
	reading sync.WaitGroup

	mu     sync.Mutex // guards the field below
	groups map[netip.Addr]int
}

func (p *kernelPort) protocol() uint16 {
	if p.v6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_ARP
}

func swapped(n uint16) uint16 { return n<<8 | n>>8 }

func (p *kernelPort) open() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // protocol 0: nothing comes before it is filtered
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	p.file = os.NewFile(uintptr(fd), "packets of "+p.link.Name)
	program := arpOnly
	if p.v6 {
		program = ndOnly
		if p.groupFD, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return errors.Join(fmt.Errorf("open a socket for groups: %w", err), p.close())
		}
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return errors.Join(err, p.close())
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return errors.Join(fmt.Errorf("filter packets: %w", err), p.close())
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swapped(p.protocol()), Ifindex: p.link.Index}); err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), p.close())
	}
	return nil
}

func (p *kernelPort) close() error {
	err := p.file.Close()
	if p.groupFD >= 0 {
		err = errors.Join(err, unix.Close(p.groupFD))
	}
	return err
}

// Close implements Port.
func (p *kernelPort) Close() error {
	err := p.close()
	p.reading.Wait()
	return err
}

// read hears until the socket is closed. A link that goes down is an error once, and then nothing comes until it is up.
func (p *kernelPort) read(heard func(Heard)) {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, packetMost)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		l, ok := from.(*unix.SockaddrLinklayer)
		if failed != nil || !ok || l.Pkttype == unix.PACKET_OUTGOING || l.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		var h Heard
		if p.v6 {
			h, ok = decodeND(b[:n], MAC(l.Addr[:6]))
		} else {
			h, ok = decodeARP(b[:n])
		}
		if ok {
			heard(h)
		}
	}
}

func (p *kernelPort) send(to MAC, packet []byte) error {
	at := &unix.SockaddrLinklayer{Protocol: swapped(p.protocol()), Ifindex: p.link.Index, Halen: uint8(len(to))}
	copy(at.Addr[:], to[:])
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), packet, 0, at)
		return !errors.Is(failed, unix.EAGAIN)
	}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if errors.Is(failed, syscall.ENETDOWN) {
		return nil // the links are looked at again when this one changes
	}
	if failed != nil {
		return fmt.Errorf("send: %w", failed)
	}
	return nil
}

// Join implements Port.
func (p *kernelPort) Join(ip netip.Addr) error { return p.group(ip, 1) }

// Leave implements Port.
func (p *kernelPort) Leave(ip netip.Addr) error { return p.group(ip, -1) }

func (p *kernelPort) group(ip netip.Addr, by int) error {
	if !p.v6 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	g := solicitedNode(ip)
	before := p.groups[g]
	if p.groups[g] = before + by; p.groups[g] == 0 {
		delete(p.groups, g)
	}
	option := unix.IPV6_JOIN_GROUP
	switch {
	case before == 0 && by > 0:
	case before == 1 && by < 0:
		option = unix.IPV6_LEAVE_GROUP
	default:
		return nil
	}
	if err := unix.SetsockoptIPv6Mreq(p.groupFD, unix.IPPROTO_IPV6, option, &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(p.link.Index)}); err != nil {
		return fmt.Errorf("group %s: %w", g, err)
	}
	return nil
}

// Probe implements Port.
func (p *kernelPort) Probe(ip netip.Addr) error {
	if p.v6 {
		group := solicitedNode(ip)
		return p.send(groupMAC(group), encodeND(ndSolicit, 0, netip.IPv6Unspecified(), group, ip, 0, MAC{}))
	}
	return p.send(everybody, encodeARP(arpRequest, p.link.MAC, netip.IPv4Unspecified(), MAC{}, ip))
}

// Announce implements Port. Of ARP some believe requests only, and some replies only.
func (p *kernelPort) Announce(ip netip.Addr) error {
	if p.v6 {
		return p.send(groupMAC(allNodes), encodeND(ndAdvert, flagInsist, p.source(ip), allNodes, ip, optTarget, p.link.MAC))
	}
	return errors.Join(
		p.send(everybody, encodeARP(arpRequest, p.link.MAC, ip, MAC{}, ip)),
		p.send(everybody, encodeARP(arpReply, p.link.MAC, ip, everybody, ip)),
	)
}

// Answer implements Port.
func (p *kernelPort) Answer(q Heard) error {
	if !p.v6 {
		return p.send(q.MAC, encodeARP(arpReply, p.link.MAC, q.Asked, q.MAC, q.From))
	}
	if q.From.IsUnspecified() { // it asks for itself, and has no address yet
		return p.Announce(q.Asked)
	}
	return p.send(q.MAC, encodeND(ndAdvert, flagAsked|flagInsist, p.source(q.Asked), q.From, q.Asked, optTarget, p.link.MAC))
}

// source is the link's own address, or for want of it the one that is told of.
func (p *kernelPort) source(ip netip.Addr) netip.Addr {
	if p.link.Local.IsValid() {
		return p.link.Local
	}
	return ip
}
