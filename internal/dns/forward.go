package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"

	upstream "github.com/miekg/dns"
)

// Bounds of what is asked of others at a time; what is more is answered with "server failure" at once.
const (
	maxFlights = 512  // questions
	maxWaiters = 4096 // askers
	askTimeout = 2 * time.Second
	allTimeout = 5 * time.Second // of one question; a resolver asks again after as long
)

// forwarder asks other servers, once for all who ask the same at the same time, and keeps what they say.
type forwarder struct {
	cache   cache
	servers *servers
	metrics *metrics

	mu      sync.Mutex
	flying  map[string]*flight
	waiters int
}

// flight is one question on its way.
type flight struct{ waiting []func(answer) }

// flights is what one Serve has started: it waits for them.
type flights struct {
	ctx  context.Context
	wait sync.WaitGroup
}

func newForwarder(cfg Config, m *metrics, own func(netip.AddrPort) bool) *forwarder {
	return &forwarder{cache: cache{entries: map[string]entry{}}, servers: newServers(cfg, m, own), metrics: m, flying: map[string]*flight{}}
}

// cached gives what is kept about a question.
func (f *forwarder) cached(q *query, now time.Time) (answer, bool) {
	e, found := f.cache.get(q.key(), now)
	if !found {
		f.metrics.misses.Add(1)
		return answer{}, false
	}
	f.metrics.hits.Add(1)
	return answer{e.wire, uint32(now.Sub(e.since) / time.Second)}, true
}

// cameBack says whether a question is one that this server sent out itself to find that out.
func (f *forwarder) cameBack(q *query) bool { return q.qtype == typeHINFO && f.servers.cameBack(q) }

// resolve finds the answer to a question and gives it to then, at once or from another goroutine. An empty answer means failure.
func (f *forwarder) resolve(work *flights, q *query, then func(answer)) {
	now := time.Now()
	if e, found := f.cache.get(q.key(), now); found {
		then(answer{e.wire, uint32(now.Sub(e.since) / time.Second)})
		return
	}
	key := string(q.key())
	f.mu.Lock()
	fl := f.flying[key]
	if f.waiters >= maxWaiters || fl == nil && len(f.flying) >= maxFlights {
		f.mu.Unlock()
		f.metrics.overflows.Add(1)
		then(answer{})
		return
	}
	f.waiters++
	if fl != nil {
		fl.waiting = append(fl.waiting, then)
		f.mu.Unlock()
		return
	}
	f.flying[key] = &flight{waiting: []func(answer){then}}
	f.mu.Unlock()
	work.wait.Go(func() {
		wire := f.ask(work, q)
		f.mu.Lock()
		landed := f.flying[key]
		delete(f.flying, key)
		f.waiters -= len(landed.waiting)
		f.mu.Unlock()
		for _, then := range landed.waiting {
			then(answer{wire: wire})
		}
	})
}

// ask asks the servers for a question's domain, one after the other, twice round.
func (f *forwarder) ask(work *flights, q *query) (wire []byte) {
	ctx, cancel := context.WithTimeout(work.ctx, allTimeout)
	defer cancel()
	m := message(q)
	var failed *upstream.Msg // a failure that a server told, if none tells better
	for range 2 {
		for _, server := range f.servers.of(work, q) {
			f.metrics.forwards.Add(1)
			got, err := server.exchange(ctx, m)
			if err != nil {
				f.metrics.failures.Add(1)
				if ctx.Err() != nil {
					return nil
				}
				f.servers.failed(work, server)
				continue
			}
			if got.Rcode != upstream.RcodeSuccess && got.Rcode != upstream.RcodeNameError {
				failed = got
				continue
			}
			wire, keep := pack(got)
			if wire != nil {
				f.cache.put(q.key(), wire, keep, time.Now())
				return wire
			}
		}
		if failed != nil {
			wire, _ := pack(failed)
			return wire
		}
	}
	return nil
}

// message is the question as it is sent on.
func message(q *query) *upstream.Msg {
	name, _, err := upstream.UnpackDomainName(q.name[:q.nameSize], 0)
	if err != nil {
		name = "." // cannot be: the name was read
	}
	m := new(upstream.Msg)
	m.Question = []upstream.Question{{Name: name, Qtype: q.qtype, Qclass: classIN}}
	m.RecursionDesired, m.CheckingDisabled = true, q.flags&flagChecking != 0
	m.SetEdns0(maxUDP, q.do)
	return m
}

// pack writes a server's message as it is kept, and says for how long.
func pack(m *upstream.Msg) (wire []byte, keep time.Duration) {
	extra := m.Extra[:0:0]
	least := uint32(maxKeep / time.Second)
	for _, rr := range m.Extra {
		if t := rr.Header().Rrtype; t != typeOPT && t != upstream.TypeTSIG && t != upstream.TypeSIG {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
	m.Compress = true
	no, soa := true, false
	for _, section := range [][]upstream.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			least = min(least, rr.Header().Ttl)
		}
	}
	for _, rr := range m.Answer {
		no = no && rr.Header().Rrtype != m.Question[0].Qtype
	}
	if m.Rcode != upstream.RcodeSuccess {
		no = true
	}
	if no { // RFC 2308: a no lives as long as the zone's first record says, and is not kept without it
		for _, rr := range m.Ns {
			if start, ok := rr.(*upstream.SOA); ok {
				least, soa = min(least, start.Minttl, uint32(maxKeepNo/time.Second)), true
			}
		}
	}
	wire, err := m.Pack()
	if err != nil {
		return nil, 0
	}
	if no && !soa || m.Rcode != upstream.RcodeSuccess && m.Rcode != upstream.RcodeNameError {
		return wire, 0
	}
	return wire, time.Duration(least) * time.Second
}

// behind writes what servers say of an alias's target behind the alias.
func (a answer) behind(q *query, names [][]byte, ttl uint32) []byte {
	var m upstream.Msg
	if a.wire == nil || m.Unpack(a.wire) != nil {
		m = upstream.Msg{}
		m.Rcode = upstream.RcodeServerFailure
	}
	var own upstream.Msg
	if err := own.Unpack(append([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, q.raw[headerSize:]...)); err != nil {
		return answer{}.appendTo(nil, q)
	}
	m.Question = own.Question
	owner := own.Question[0].Name
	var aliases []upstream.RR
	for _, n := range names {
		to, _, err := upstream.UnpackDomainName(n, 0)
		if err != nil {
			return answer{}.appendTo(nil, q)
		}
		aliases = append(aliases, &upstream.CNAME{Hdr: upstream.RR_Header{Name: owner, Rrtype: typeCNAME, Class: classIN, Ttl: ttl}, Target: to})
		owner = to
	}
	for _, section := range [][]upstream.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			rr.Header().Ttl -= min(rr.Header().Ttl, a.age)
		}
	}
	m.Answer = append(aliases, m.Answer...)
	m.Compress = true
	wire, err := m.Pack()
	if err != nil {
		return answer{}.appendTo(nil, q)
	}
	return answer{wire: wire}.appendTo(nil, q)
}
