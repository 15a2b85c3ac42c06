package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/agent/inprocess"
	"sampan.dev/internal/announce"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/dns"
	"sampan.dev/internal/events"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/netpol"
	"sampan.dev/internal/nft"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/proxy"
	"sampan.dev/internal/resource"
)

// services is what makes Services of this node: rules for their addresses, answers for their names.
type services struct {
	u      *up
	net    *podnet.Network
	names  *dns.Server
	health *proxy.HealthServers
	proxy  *proxy.Proxy
	ranges *loop.Loop // closes what ranges Services have got
	peers  *loop.Loop // leads packets to other nodes' pods

	policies  *netpol.Policies
	announcer *announce.Announcer
	onMoved   func() // this machine's addresses have changed; may be nil
}

// newNames makes the DNS server of an instance. It asks nobody before it runs.
func newNames(u *up) *dns.Server {
	return dns.New(dns.Config{
		ClusterPrefixes: slices.Concat(u.settings.Pods(), u.settings.Services()), ResolvConf: "/etc/resolv.conf", Upstreams: u.settings.Upstreams, Log: u.log,
	})
}

// cluster is what a node sees of its cluster.
type cluster struct {
	table  *resource.Table
	cache  *cache.Cache
	events *events.Recorder
}

// newServices puts the parts together. It starts nothing, and comes before the view's cache runs.
func newServices(u *up, pods *podnet.Network, names *dns.Server, of cluster) (*services, error) {
	balanced, err := balancing(u.settings)
	if err != nil {
		return nil, err
	}
	node := u.settings.NodeName
	view := inprocess.NewServices(of.table, of.cache, node)
	view.Tell(names)
	s := &services{u: u, net: pods, names: names, health: proxy.NewHealthServers(u.log)}
	s.proxy = proxy.New(proxy.Config{
		Node: u.settings.NodeName, Network: serviceNetwork(u.inst, u.settings), View: view, Kernel: nft.New(), Connections: proxy.Conntrack{}, Health: s.health, Log: u.log,
	})
	s.ranges = loop.New("service-ranges", func(ctx context.Context, _ loop.Key) error { return pods.SetServices(ctx, view.Ranges()) }, loop.Options{Log: u.log})
	view.OnRanges(func() { s.ranges.Mark(loop.Key{}) })
	others := inprocess.NewPeers(of.table, of.cache, node)
	s.peers = loop.New("other-nodes", func(ctx context.Context, _ loop.Key) error { return pods.SetPeers(ctx, others.Peers()) }, loop.Options{Log: u.log})
	others.OnChange(func() { s.peers.Mark(loop.Key{}) })
	s.policies = netpol.New(netpol.Config{
		Node: node, Network: policyNetwork(u.inst, u.settings), View: inprocess.NewPolicies(of.table, of.cache), Kernel: nft.New(), DNS: []netip.Addr{u.settings.DNS()}, Log: u.log,
	})
	s.announcer = announce.New(announce.Config{
		Node: node, View: inprocess.NewBalanced(of.table, of.cache, balanced), Wire: announce.Kernel{}, Events: of.events.As("load-balancer-announcer", node), Log: u.log,
	})
	return s, nil
}

// policyNetwork is what the rules of network policies have to know.
func policyNetwork(inst instance.Instance, s instance.Settings) netpol.Network {
	return netpol.Network{Table: network(inst, s).Table() + "-policies", Bridge: inst.Bridge()}
}

// balancing is what Services of type LoadBalancer get.
func balancing(s instance.Settings) (loadbalancer.Config, error) {
	pools, err := loadbalancer.ParsePools(s.LoadBalancerPool)
	return loadbalancer.Config{
		Pools: pools, Announce: !s.Unannounced,
		ReservedPorts: map[uint16]string{s.APIPort: "the API server", s.NodePort: "the node's server"},
	}, err
}

func serviceNetwork(inst instance.Instance, s instance.Settings) proxy.Network {
	return proxy.Network{
		Table: network(inst, s).Table() + "-services",
		Pods:  s.Pods(), Node: s.Node(), Services: s.Services(),
	}
}

// run keeps rules and answers until ctx ends. The rules stay then, and so do connections.
func (s *services) run(ctx context.Context) error {
	udp, tcp, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer s.health.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.names.Serve(ctx, udp, tcp) })
	g.Go(func() error { return s.proxy.Run(ctx) })
	g.Go(func() error { return s.net.Run(ctx, s.u.log) })
	g.Go(func() error { return s.ranges.Run(ctx) })
	g.Go(func() error { return s.peers.Run(ctx) })
	g.Go(func() error { return s.net.OnLinks(ctx, s.moved) })
	g.Go(func() error { return s.policies.Run(ctx) })
	g.Go(func() error { return s.announcer.Run(ctx) })
	return g.Wait()
}

// moved looks again how other nodes are reached, at once and when what follows a change of addresses has settled.
func (s *services) moved() {
	s.peers.Mark(loop.Key{})
	s.peers.MarkAfter(loop.Key{}, time.Second)
	if s.onMoved != nil {
		s.onMoved()
	}
}

// listen opens the DNS server's sockets. Where another program has port 53 of all addresses, they get another port, and what is sent to 53 is led there.
func (s *services) listen(ctx context.Context) (net.PacketConn, net.Listener, error) {
	at := s.u.settings.DNS()
	udp, tcp, err := listenBoth(netip.AddrPortFrom(at, 53))
	if !errors.Is(err, unix.EADDRINUSE) {
		return udp, tcp, err
	}
	for range 10 { // a port that is free for one protocol may not be for the other
		if udp, err = net.ListenPacket("udp", netip.AddrPortFrom(at, 0).String()); err != nil {
			return nil, nil, fmt.Errorf("listen for DNS: %w", err)
		}
		port := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if tcp, err = net.Listen("tcp", netip.AddrPortFrom(at, port).String()); err != nil {
			_ = udp.Close()
			continue
		}
		s.u.log.Info("another program has port 53 of this machine; the cluster's DNS server has its address to itself all the same", "port", port)
		ports := []podnet.HostPort{
			{Proto: nft.UDP, HostIP: at, HostPort: 53, Pod: at, PodPort: port}, {Proto: nft.TCP, HostIP: at, HostPort: 53, Pod: at, PodPort: port},
		}
		if err := s.net.SetHostPorts(ctx, "dns", ports); err != nil {
			return nil, nil, errors.Join(err, udp.Close(), tcp.Close())
		}
		return udp, tcp, nil
	}
	return nil, nil, fmt.Errorf("listen for DNS: %w", err)
}

func listenBoth(at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	udp, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return nil, nil, fmt.Errorf("listen for DNS: %w", err)
	}
	tcp, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen for DNS: %w", err), udp.Close())
	}
	return udp, tcp, nil
}
