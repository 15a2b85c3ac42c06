package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	upstream "github.com/miekg/dns"
)

// other is another server: it answers as told, behind pipes, so that time can be faked. It counts what it is asked.
type other struct {
	answer func(network string, m *upstream.Msg) []*upstream.Msg
	asked  atomic.Int32
}

func (o *other) dial(_ context.Context, network, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer func() { _ = far.Close() }()
		for {
			m, err := o.read(network, far)
			if err != nil {
				return
			}
			if m.Question[0].Qtype == typeHINFO {
				return // a probe
			}
			o.asked.Add(1)
			for _, a := range o.answer(network, m) {
				b, err := a.Pack()
				if err != nil {
					panic(err)
				}
				if network == "tcp" {
					b = append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
				}
				if _, err := far.Write(b); err != nil {
					return
				}
			}
		}
	}()
	return near, nil
}

func (o *other) read(network string, c net.Conn) (*upstream.Msg, error) {
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	m := new(upstream.Msg)
	if network == "tcp" {
		return m, m.Unpack(buf[2:n])
	}
	return m, m.Unpack(buf[:n])
}

// hosts answers every A with 192.0.2.1 for a minute, and NXDOMAIN for names that begin with "no".
func hosts(_ string, m *upstream.Msg) []*upstream.Msg {
	a := new(upstream.Msg).SetReply(m)
	if name := m.Question[0].Name; strings.HasPrefix(name, "no") {
		a.Rcode = upstream.RcodeNameError
		a.Ns = []upstream.RR{rr("com. 900 IN SOA a. b. 1 2 3 4 30")}
	} else if m.Question[0].Qtype == typeA {
		a.Answer = []upstream.RR{rr(name + " 60 IN A 192.0.2.1")}
	}
	a.SetEdns0(4096, false)
	return []*upstream.Msg{a}
}

func rr(text string) upstream.RR {
	r, err := upstream.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

func through(t *testing.T, o *other, addrs ...string) *Server {
	return cluster(t, func(c *Config) {
		c.Dial = o.dial
		if len(addrs) == 0 {
			addrs = []string{"192.0.2.53:53"}
		}
		for _, a := range addrs {
			c.Upstreams = append(c.Upstreams, netip.MustParseAddrPort(a))
		}
	})
}

func brief(m *upstream.Msg) string {
	words := []string{upstream.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		words = append(words, strings.Join(strings.Fields(rr.String()), " "))
	}
	return strings.Join(words, "; ")
}

func TestAnOutsideNameIsAskedOnceAndItsTimeRunsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: hosts}
		s := through(t, o)
		if got := brief(asked(t, s, question("WwW.example.com", "A"), false)); got != "NOERROR; WwW.example.com. 60 IN A 192.0.2.1" {
			t.Error(got)
		}
		time.Sleep(20 * time.Second)
		got := asked(t, s, question("www.EXAMPLE.com", "A").SetEdns0(1232, false), false)
		if brief(got) != "NOERROR; www.EXAMPLE.com. 40 IN A 192.0.2.1" || got.Authoritative || got.IsEdns0() == nil || len(got.Extra) != 1 {
			t.Error(got)
		}
		if n := o.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		asked(t, s, question("www.example.com", "A").SetEdns0(1232, true), false)
		if n := o.asked.Load(); n != 2 {
			t.Errorf("who wants signatures got the answer of who does not: asked %d times", n)
		}
		time.Sleep(40 * time.Second)
		asked(t, s, question("www.example.com", "A"), false)
		if n := o.asked.Load(); n != 3 {
			t.Errorf("a minute later: asked %d times", n)
		}
	})
}

func TestALackIsKeptAsLongAsItsZoneSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: hosts}
		s := through(t, o)
		for _, step := range []struct {
			name, kind, want string
			later            time.Duration
			asked            int32
		}{
			{"no.com", "A", "NXDOMAIN", 0, 1},
			{"no.com", "A", "NXDOMAIN", 29 * time.Second, 1},
			{"no.com", "A", "NXDOMAIN", time.Second, 2},
			{"www.com", "AAAA", "NOERROR", 0, 3}, // nothing, and nobody says for how long
			{"www.com", "AAAA", "NOERROR", 0, 4},
		} {
			time.Sleep(step.later)
			if got := brief(asked(t, s, question(step.name, step.kind), true)); got != step.want || o.asked.Load() != step.asked {
				t.Errorf("%s %s: %s, asked %d times, want %d", step.name, step.kind, got, o.asked.Load(), step.asked)
			}
		}
	})
}

func TestOnlyTheAnswerToTheQuestionIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: func(network string, m *upstream.Msg) []*upstream.Msg {
			good := hosts(network, m)[0]
			forge := func(change func(*upstream.Msg)) *upstream.Msg {
				f := good.Copy()
				f.Answer = []upstream.RR{rr("www.example.com. 60 IN A 203.0.113.6")}
				change(f)
				return f
			}
			return []*upstream.Msg{
				forge(func(f *upstream.Msg) { f.Id++ }),
				forge(func(f *upstream.Msg) { f.Response = false }),
				forge(func(f *upstream.Msg) { f.Question[0].Name = "www.example.org." }),
				forge(func(f *upstream.Msg) { f.Question[0].Qtype = typeAAAA }),
				forge(func(f *upstream.Msg) { f.Question = nil }),
				good,
			}
		}}
		if got := brief(asked(t, through(t, o), question("www.example.com", "A"), false)); got != "NOERROR; www.example.com. 60 IN A 192.0.2.1" {
			t.Error(got)
		}
	})
}

func TestServersThatFailArePassedOver(t *testing.T) {
	for name, c := range map[string]struct {
		first func(m *upstream.Msg) []*upstream.Msg // of 192.0.2.1
		want  string
		both  bool // the second does the same
	}{
		"silence":                  {func(*upstream.Msg) []*upstream.Msg { return nil }, "NOERROR; www.com. 60 IN A 192.0.2.1", false},
		"server failure":           {refusing(upstream.RcodeServerFailure), "NOERROR; www.com. 60 IN A 192.0.2.1", false},
		"refusal":                  {refusing(upstream.RcodeRefused), "NOERROR; www.com. 60 IN A 192.0.2.1", false},
		"silence of all":           {func(*upstream.Msg) []*upstream.Msg { return nil }, "SERVFAIL", true},
		"refusal of all":           {refusing(upstream.RcodeRefused), "REFUSED", true},
		"no extension understood":  {oldFashioned, "NOERROR; www.com. 60 IN A 192.0.2.1", true},
		"a bad version of nothing": {refusing(upstream.RcodeBadVers), "SERVFAIL", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := &other{answer: func(_ string, m *upstream.Msg) []*upstream.Msg { return c.first(m) }}
				second := &other{answer: hosts}
				s := cluster(t, func(cfg *Config) {
					cfg.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")}
					cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if addr == "192.0.2.1:53" || c.both {
							return first.dial(ctx, network, addr)
						}
						return second.dial(ctx, network, addr)
					}
				})
				if got := brief(asked(t, s, question("www.com", "A"), false)); got != c.want {
					t.Error(got)
				}
				if c.want == "SERVFAIL" {
					before := first.asked.Load()
					asked(t, s, question("www.com", "A"), false)
					if first.asked.Load() == before {
						t.Error("a failure was kept")
					}
				}
			})
		})
	}
}

func refusing(rcode int) func(*upstream.Msg) []*upstream.Msg {
	return func(m *upstream.Msg) []*upstream.Msg {
		a := new(upstream.Msg).SetRcode(m, rcode)
		a.SetEdns0(1232, false)
		return []*upstream.Msg{a}
	}
}

func oldFashioned(m *upstream.Msg) []*upstream.Msg {
	if m.IsEdns0() != nil {
		return []*upstream.Msg{new(upstream.Msg).SetRcode(m, upstream.RcodeFormatError)}
	}
	return hosts("", m)
}

func TestACutAnswerIsAskedAgainByTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: func(network string, m *upstream.Msg) []*upstream.Msg {
			a := new(upstream.Msg).SetReply(m)
			if network == "udp" {
				a.Truncated = true
				return []*upstream.Msg{a}
			}
			for i := range 100 {
				a.Answer = append(a.Answer, rr("big.com. 60 IN A 192.0.2."+strconv.Itoa(i)))
			}
			return []*upstream.Msg{a}
		}}
		s := through(t, o)
		if got := asked(t, s, question("big.com", "A"), true); len(got.Answer) != 100 || got.Truncated {
			t.Errorf("by TCP: %d answers", len(got.Answer))
		}
		if got := asked(t, s, question("big.com", "A"), false); len(got.Answer) != 30 || !got.Truncated { // (512-25)/16
			t.Errorf("by UDP: %d answers, cut: %t", len(got.Answer), got.Truncated)
		}
		got := asked(t, s, question("big.com", "A").SetEdns0(4096, false), false)
		if len(got.Answer) != 74 || !got.Truncated || got.IsEdns0() == nil { // (1232-25-11)/16
			t.Errorf("by UDP with EDNS: %d answers, cut: %t", len(got.Answer), got.Truncated)
		}
	})
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: func(network string, m *upstream.Msg) []*upstream.Msg {
			time.Sleep(time.Second)
			return hosts(network, m)
		}}
		s := through(t, o)
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				m := question([]string{"www.com", "WWW.com"}[i%2], "A")
				m.Id = uint16(i)
				var got []byte
				packet, _ := m.Pack()
				work := &flights{ctx: t.Context()}
				done := make(chan struct{})
				s.handle(new(query), packet, nil, false, work, func(*query) func([]byte) {
					return func(b []byte) { got = b; close(done) }
				})
				<-done
				work.wait.Wait()
				if a := read(t, got); a.Id != uint16(i) || a.Question[0].Name != m.Question[0].Name || len(a.Answer) != 1 {
					t.Error(a)
				}
			})
		}
		all.Wait()
		if n := o.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestAnExternalNameBringsItsTargetsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: hosts}
		s := through(t, o)
		for range 2 { // the second time from what was kept
			for name, want := range map[string]string{
				"outer.default.svc.cluster.local": "NOERROR; outer.default.svc.cluster.local. 5 IN CNAME www.example.com.; www.example.com. 60 IN A 192.0.2.1",
				"chain.default.svc.cluster.local": "NOERROR; chain.default.svc.cluster.local. 5 IN CNAME outer.default.svc.cluster.local.; outer.default.svc.cluster.local. 5 IN CNAME www.example.com.; www.example.com. 60 IN A 192.0.2.1",
				"ring.default.svc.cluster.local":  "SERVFAIL",
			} {
				got := asked(t, s, question(name, "A").SetEdns0(1232, false), false)
				if text := brief(got); !strings.HasPrefix(text, want) || got.Question[0].Name != name+"." {
					t.Errorf("%s: %s", name, text)
				}
			}
		}
		if n := o.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if got := brief(asked(t, cluster(t, func(c *Config) { c.Dial = nil }), question("outer.default.svc.cluster.local", "A"), false)); !strings.HasPrefix(got, "SERVFAIL") {
			t.Errorf("with nobody to ask: %s", got)
		}
	})
}

func TestStubDomainsHaveTheirOwnServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: hosts}
		var mu sync.Mutex
		to := map[string]int{}
		s := cluster(t, func(c *Config) {
			c.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}
			c.Stubs = map[string][]netip.AddrPort{
				"corp":            {netip.MustParseAddrPort("192.0.2.2:53")},
				"lab.Corp.":       {netip.MustParseAddrPort("192.0.2.3:5353")},
				"x.cluster.local": {netip.MustParseAddrPort("192.0.2.4:53")},
			}
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				to[addr]++
				return o.dial(ctx, network, addr)
			}
		})
		for name, want := range map[string]string{
			"a.corp": "192.0.2.2:53", "corp": "192.0.2.2:53", "a.lab.corp": "192.0.2.3:5353", "b.LAB.corp": "192.0.2.3:5353",
			"acorp": "192.0.2.1:53", "a.xcorp": "192.0.2.1:53", "corp.com": "192.0.2.1:53",
		} {
			mu.Lock()
			before := to[want]
			mu.Unlock()
			asked(t, s, question(name, "A"), false)
			mu.Lock()
			if to[want] == before {
				t.Errorf("%s was not asked of %s", name, want)
			}
			mu.Unlock()
		}
		if got := brief(asked(t, s, question("a.x.cluster.local", "A"), false)); got != "NXDOMAIN" || to["192.0.2.4:53"] != 0 {
			t.Errorf("a name of the cluster's own domain: %s", got)
		}
	})
}

func TestResolvConfIsReadAgainWhenItChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: hosts}
		var mu sync.Mutex
		to := map[string]bool{}
		s := cluster(t, func(c *Config) {
			c.ResolvConf = path
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				to[addr] = true
				return o.dial(ctx, network, addr)
			}
		})
		for i, step := range []struct{ file, code, to string }{
			{"", "SERVFAIL", ""},
			{"# servers\nnameserver 192.0.2.1\nnameserver nonsense\nsearch lan\n", "NOERROR", "192.0.2.1:53"},
			{"nameserver fd00::53\noptions edns0\nnameserver 192.0.2.1\n", "NOERROR", "[fd00::53]:53"},
		} {
			if step.file != "" {
				if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(lookAgain)
			mu.Lock()
			clear(to)
			mu.Unlock()
			got := asked(t, s, question("n"+strconv.Itoa(i)+".com", "A"), false)
			mu.Lock()
			if upstream.RcodeToString[got.Rcode] != step.code || step.to != "" && !to[step.to] {
				t.Errorf("step %d: %s, asked %v", i, brief(got), to)
			}
			mu.Unlock()
		}
	})
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	c := cache{entries: map[string]entry{}}
	now := time.Unix(0, 0)
	for i := range 2 * maxEntries {
		c.put([]byte(strconv.Itoa(i)), make([]byte, i%2000), time.Duration(i+1)*time.Second, now)
		if n, bytes := c.size(); n > maxEntries || bytes > maxBytes {
			t.Fatalf("%d entries, %d bytes", n, bytes)
		}
	}
	n, bytes := c.size()
	want := 0
	for key, e := range c.entries {
		want += len(key) + len(e.wire) + entryCost
	}
	if bytes != want || n < 100 {
		t.Errorf("%d entries, %d bytes counted, %d there", n, bytes, want)
	}
	c.put([]byte("huge"), make([]byte, maxBytes), time.Hour, now)
	if _, found := c.get([]byte("huge"), now); found {
		t.Error("one answer took everything")
	}
}

func TestTooManyQuestionsOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &other{answer: func(string, *upstream.Msg) []*upstream.Msg { return nil }}
		s := through(t, o)
		ctx, cancel := context.WithCancelCause(t.Context())
		work := &flights{ctx: ctx}
		failed := 0
		var mu sync.Mutex
		for i := range maxFlights + 3 {
			packet, _ := question("n"+strconv.Itoa(i)+".com", "A").Pack()
			s.handle(new(query), packet, nil, false, work, func(*query) func([]byte) {
				return func(b []byte) {
					mu.Lock()
					defer mu.Unlock()
					if b[3]&15 == rcodeServer {
						failed++
					}
				}
			})
		}
		mu.Lock()
		if failed != 3 {
			t.Errorf("%d failed at once", failed)
		}
		mu.Unlock()
		cancel(errors.New("stop"))
		work.wait.Wait()
		if failed != maxFlights+3 || s.forward.waiters != 0 || len(s.forward.flying) != 0 {
			t.Errorf("%d failed in the end, %d wait", failed, s.forward.waiters)
		}
	})
}

func TestAServerThatWasSilentIsAskedLastForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := &other{answer: func(string, *upstream.Msg) []*upstream.Msg { return nil }}
		good := &other{answer: hosts}
		s := cluster(t, func(cfg *Config) {
			cfg.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")}
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == "192.0.2.1:53" {
					return silent.dial(ctx, network, addr)
				}
				return good.dial(ctx, network, addr)
			}
		})
		for i, step := range []struct {
			later time.Duration
			asked int32
		}{{0, 1}, {0, 1}, {restAfter - time.Second, 1}, {time.Second, 2}} {
			time.Sleep(step.later)
			asked(t, s, question("n"+strconv.Itoa(i)+".org", "AAAA"), false)
			if n := silent.asked.Load(); n != step.asked {
				t.Errorf("step %d: the silent one was asked %d times, want %d", i, n, step.asked)
			}
		}
	})
}

func TestWhoDoesNotAskForProofIsNotToldOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := through(t, &other{answer: func(network string, m *upstream.Msg) []*upstream.Msg {
			a := hosts(network, m)
			a[0].AuthenticatedData, a[0].Authoritative = true, true
			return a
		}})
		plain, flagged := question("www.com", "A"), question("www.com", "A")
		flagged.AuthenticatedData = true
		for i, c := range []struct {
			m    *upstream.Msg
			want bool
		}{{plain, false}, {flagged, true}, {question("www.com", "A").SetEdns0(1232, true), true}} {
			got := asked(t, s, c.m, false)
			if got.AuthenticatedData != c.want || got.Authoritative {
				t.Errorf("case %d: %v", i, got.MsgHdr)
			}
		}
	})
}
