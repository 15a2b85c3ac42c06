// Package dns answers the cluster's names on a node, and asks other servers for all other names.
//
// It watches nothing itself: its owner tells it of Services, EndpointSlices and Namespaces, and what it was told it answers at once. It
// writes nothing but packets. Always: a name below the cluster's domain, or a reverse name of the cluster's address ranges, is answered
// from here and never asked of anyone; a response is never answered; the answers are those of Kubernetes' DNS-based service discovery, 1.1.0.
//
// A packet is read by hand (query.go), looked up (zone.go, reverse.go) and answered into a buffer that is used again (reply.go), so that
// nothing is allocated for a cluster's name. What has to be asked elsewhere leaves that path: forward.go and upstream.go.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config is what a server is told once.
type Config struct {
	Domain          string                      // the cluster's domain; "cluster.local" if empty
	ClusterPrefixes []netip.Prefix              // ranges of pods and Services: their reverse names are answered here only
	Upstreams       []netip.AddrPort            // who is asked for outside names, in this order; if empty, those of ResolvConf
	ResolvConf      string                      // a resolv.conf, read again when it has changed
	Stubs           map[string][]netip.AddrPort // domains with servers of their own; the longest that fits wins
	TTL             uint32                      // seconds; 5 if zero, as CoreDNS has it: a client that keeps answers is soon right again
	Log             *slog.Logger
	// Dial opens the way to an upstream; a net.Dialer's if nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Server knows the cluster's names. Its methods may be called by any goroutine.
type Server struct {
	records
	zone       []byte // the domain as on the wire, in small letters
	zoneLabels int
	svcZone    []byte // svc and the domain: what follows a service's key in its name
	prefixes   []netip.Prefix
	ttl        uint32
	log        *slog.Logger
	forward    *forwarder
	metrics    metrics

	addrs struct { // where it is served, which ns.dns.DOMAIN says
		sync.RWMutex
		list []netip.AddrPort
	}
	connections chan struct{} // a token for each TCP connection
}

// maxConnections is how many TCP connections are served at a time, on all addresses together; one more is closed at once.
const maxConnections = 128

// New makes a server that knows no Service yet. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if cfg.TTL == 0 {
		cfg.TTL = 5
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	s := &Server{ttl: cfg.TTL, log: cfg.Log, connections: make(chan struct{}, maxConnections)}
	s.zone = wireName(cfg.Domain)
	s.svcZone = append([]byte("\x03svc"), s.zone...)
	s.zoneLabels = countLabels(s.zone)
	for _, p := range cfg.ClusterPrefixes {
		s.prefixes = append(s.prefixes, p.Masked())
	}
	s.records.init()
	s.forward = newForwarder(cfg, &s.metrics, s.serves)
	return s
}

// Serve answers what arrives at one address until ctx ends; it may be called for several addresses. Both sockets are closed when it
// returns; either may be nil. The UDP socket is bound to one address, so that an answer leaves from where the question came.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	if udp != nil {
		s.listens(udp.LocalAddr(), true)
		defer s.listens(udp.LocalAddr(), false)
	}
	work := &flights{ctx: ctx}
	defer work.wait.Wait()
	if udp != nil {
		sock, err := newUDP(udp)
		if err != nil {
			return errors.Join(err, udp.Close(), closeListener(tcp))
		}
		g.Go(func() error { return ended(ctx, s.serveUDP(sock, work), "UDP", udp.LocalAddr()) })
	}
	if tcp != nil {
		g.Go(func() error { return ended(ctx, s.serveTCP(ctx, tcp, work), "TCP", tcp.Addr()) })
	}
	g.Go(func() error {
		<-ctx.Done() // the end wakes every reader
		var err error
		if udp != nil {
			err = udp.Close()
		}
		return errors.Join(err, closeListener(tcp))
	})
	return g.Wait()
}

// ended turns the end of a loop into what Serve returns: nothing if it was asked to stop.
func ended(ctx context.Context, err error, proto string, addr net.Addr) error {
	if ctx.Err() != nil {
		return nil // the socket was closed because of ctx
	}
	return fmt.Errorf("serve DNS by %s at %s: %w", proto, addr, err)
}

func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listens notes that an address is served, or no more.
func (s *Server) listens(addr net.Addr, there bool) {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return
	}
	ap := u.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	s.addrs.Lock()
	defer s.addrs.Unlock()
	list := make([]netip.AddrPort, 0, len(s.addrs.list)+1) // readers may hold the old one
	for _, a := range s.addrs.list {
		if a != ap {
			list = append(list, a)
		}
	}
	if there {
		list = append(list, ap)
	}
	s.addrs.list = list
}

// serves says whether an address is this server's own.
func (s *Server) serves(ap netip.AddrPort) bool {
	s.addrs.RLock()
	defer s.addrs.RUnlock()
	for _, own := range s.addrs.list {
		if own.Port() == ap.Port() && (own.Addr() == ap.Addr().Unmap() || own.Addr().IsUnspecified() && ap.Addr().IsLoopback()) {
			return true
		}
	}
	return false
}

// handle answers one packet into out, which has the capacity for limit bytes or grows. A nil answer means none, or that respond is
// called later, by another goroutine, with an answer of its own.
func (s *Server) handle(q *query, packet, out []byte, tcp bool, work *flights, later func(*query) func([]byte)) []byte {
	verdict, ok := q.parse(packet)
	if !ok {
		return nil
	}
	q.tcp = tcp
	r := reply{b: out[:0], ttl: s.ttl}
	if verdict != rcodeSuccess {
		return s.count(r.fail(q, verdict))
	}
	if tcp {
		s.metrics.tcp.Add(1)
	}
	if code, refused := q.refused(); refused {
		return s.count(r.fail(q, code))
	}
	r.begin(q)
	switch where, target := s.lookup(q, &r); where {
	case here:
		return s.count(r.end())
	case alias: // what was answered so far, and what the target's servers say
		asked := q.clone()
		head := r.cnames()
		respond := later(asked)
		s.forward.resolve(work, target.asks(asked), func(a answer) { respond(s.count(a.behind(asked, head, s.ttl))) })
		return nil
	}
	if q.qtype == typeANY { // RFC 8482: nobody is asked everything
		r.hinfo()
		return s.count(r.end())
	}
	if s.forward.cameBack(q) {
		return s.count(r.fail(q, rcodeRefused))
	}
	if a, found := s.forward.cached(q, time.Now()); found {
		return s.count(a.appendTo(out[:0], q))
	}
	asked := q.clone()
	respond := later(asked)
	s.forward.resolve(work, asked, func(a answer) { respond(s.count(a.appendTo(nil, asked))) })
	return nil
}
