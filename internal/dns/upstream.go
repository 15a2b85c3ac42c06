package dns

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	lookAgain  = 5 * time.Second  // how old what is known of the resolv.conf may be when somebody asks
	restAfter  = 10 * time.Second // how long a server that did not answer is asked last
	probeAgain = 30 * time.Second
)

// servers knows whom to ask.
type servers struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	own    func(netip.AddrPort) bool
	log    *slog.Logger
	m      *metrics
	path   string
	always bool // the general servers were given, and are in no file

	mu      sync.Mutex
	general []*server
	stubs   []stub // the longest first
	looked  time.Time
	stamp   fileStamp
	missing bool
	probes  map[string]*server // by the question's name on the wire
}

type stub struct {
	domain  []byte // on the wire
	labels  int
	servers []*server
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	at   time.Time
	size int64
}

// server is one that is asked.
type server struct {
	addr netip.AddrPort
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	// guarded by servers.mu
	rests  time.Time // it did not answer: until then it is asked last
	probed time.Time
	loops  bool
	probe  []byte
	cancel context.CancelFunc // ends what is under way once it is known to lead back here
	ctx    context.Context
}

func newServers(cfg Config, m *metrics, own func(netip.AddrPort) bool) *servers {
	s := &servers{dial: cfg.Dial, own: own, log: cfg.Log, m: m, path: cfg.ResolvConf, always: len(cfg.Upstreams) > 0, probes: map[string]*server{}}
	s.general = s.make(cfg.Upstreams)
	for domain, addrs := range cfg.Stubs {
		if name := wireName(domain); name != nil {
			s.stubs = append(s.stubs, stub{name, countLabels(name), s.make(addrs)})
		}
	}
	slices.SortFunc(s.stubs, func(a, b stub) int { return b.labels - a.labels })
	return s
}

func (s *servers) make(addrs []netip.AddrPort) (list []*server) {
	for _, a := range addrs {
		one := &server{addr: netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), dial: s.dial}
		one.ctx, one.cancel = context.WithCancel(context.Background())
		list = append(list, one)
	}
	return list
}

// of gives the servers for a question, those first of which an answer is expected.
func (s *servers) of(work *flights, q *query) []*server {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(now)
	list := s.general
	for _, stub := range s.stubs {
		if q.under(stub.domain, stub.labels) {
			list = stub.servers
			break
		}
	}
	var ready, resting []*server
	for _, one := range list {
		if !one.loops && s.own(one.addr) {
			s.leadsBack(one)
		}
		if one.loops {
			continue
		}
		if one.probed.IsZero() {
			s.send(work, one, now)
		}
		if now.Before(one.rests) {
			resting = append(resting, one)
		} else {
			ready = append(ready, one)
		}
	}
	return append(ready, resting...)
}

// look reads the resolv.conf if it is another than it was.
func (s *servers) look(now time.Time) {
	if s.always || s.path == "" || now.Sub(s.looked) < lookAgain && !s.looked.IsZero() {
		return
	}
	s.looked = now
	info, err := os.Stat(s.path)
	if err != nil {
		s.unreadable(err)
		return
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	if stamp == s.stamp {
		return
	}
	text, err := os.ReadFile(s.path)
	if err != nil {
		s.unreadable(err)
		return
	}
	s.stamp, s.missing = stamp, false
	for _, old := range s.general {
		delete(s.probes, string(old.probe))
		old.cancel()
	}
	s.general = s.make(nameservers(text))
	s.log.Info("outside names are asked of", "servers", nameservers(text), "from", s.path)
}

// unreadable says once that the file cannot be read.
func (s *servers) unreadable(err error) {
	if !s.missing {
		s.log.Warn("outside names are asked of the servers known before, if any", "error", err)
	}
	s.missing = true
}

// nameservers reads whom a resolv.conf names.
func nameservers(text []byte) (list []netip.AddrPort) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil && !slices.Contains(list, netip.AddrPortFrom(addr, 53)) {
			list = append(list, netip.AddrPortFrom(addr, 53))
		}
	}
	return list
}

// failed notes that a server did not answer; maybe because it leads back here.
func (s *servers) failed(work *flights, one *server) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	one.rests = now.Add(restAfter)
	if !one.loops && now.Sub(one.probed) > probeAgain {
		s.send(work, one, now)
	}
}

// send asks a server for a name that nobody else knows: if the question arrives here, so do all that are asked of that server.
func (s *servers) send(work *flights, one *server, now time.Time) {
	one.probed = now
	delete(s.probes, string(one.probe))
	var random [16]byte
	rand.Read(random[:]) // never fails
	text := hex.EncodeToString(random[:])
	one.probe = wireName(text[:16] + "." + text[16:])
	s.probes[string(one.probe)] = one
	q := &query{qtype: typeHINFO, qclass: classIN}
	q.setName(one.probe)
	work.wait.Go(func() {
		ctx, cancel := context.WithTimeout(work.ctx, askTimeout)
		defer cancel()
		_, _ = one.exchange(ctx, message(q)) // whether it comes back is all that matters
	})
}

// cameBack says whether a question is a probe of this server's own, and gives up the server it was sent to.
func (s *servers) cameBack(q *query) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.probes[string(q.name[:q.nameSize])]
	if one == nil {
		return false
	}
	s.leadsBack(one)
	return true
}

func (s *servers) leadsBack(one *server) {
	if one.loops {
		return
	}
	one.loops = true
	one.cancel()
	s.m.loops.Add(1)
	s.log.Error("a server for outside names leads back to this one: it is not asked any more", "server", one.addr)
}
