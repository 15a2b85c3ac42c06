package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	upstream "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// serving serves on loopback, at one port by UDP and TCP; stop waits until nothing of it runs.
func serving(t testing.TB, s *Server) (udp, tcp string, stop func()) {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return u.LocalAddr().String(), l.Addr().String(), serveOn(t, s, u, l)
}

func serveOn(t testing.TB, s *Server, u net.PacketConn, l net.Listener) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if u != nil {
		s.listens(u.LocalAddr(), true) // Serve does so too; here it is sure to have happened
	}
	go func() { done <- s.Serve(ctx, u, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestQuestionsByUDPAndTCP(t *testing.T) {
	s := cluster(t, nil)
	crowd(t, s, 500)
	udp, tcp, stop := serving(t, s)
	for _, network := range []string{"udp", "tcp"} {
		c := upstream.Client{Net: network, Timeout: time.Minute}
		for range 50 {
			got, _, err := c.Exchange(question("web.default.svc.cluster.local", "A"), map[string]string{"udp": udp, "tcp": tcp}[network])
			if err != nil || said(got) != "NOERROR web.default.svc.cluster.local. A 10.96.0.1" {
				t.Fatalf("%s: %v, %v", network, said(got), err)
			}
		}
		got, _, err := c.Exchange(question("crowd.default.svc.cluster.local", "A"), map[string]string{"udp": udp, "tcp": tcp}[network])
		if err != nil || got.Truncated != (network == "udp") || network == "tcp" && len(got.Answer) != 500 {
			t.Errorf("%s: %v", network, err)
		}
	}
	stop()
	if _, err := net.Dial("tcp", tcp); err == nil {
		t.Error("it still listens")
	}
}

func TestManyQuestionsAtOnceByUDP(t *testing.T) {
	s := cluster(t, nil)
	udp, _, _ := serving(t, s)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			conn, err := net.Dial("udp", udp)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			for round := range 20 {
				for i := range 40 { // more than one batch
					m := question([]string{"web", "none", "dual"}[i%3]+".default.svc.cluster.local", "A")
					m.Id = uint16(round<<8 | i)
					b, _ := m.Pack()
					if _, err := conn.Write(b); err != nil {
						t.Error(err)
					}
				}
				seen := map[uint16]bool{}
				for range 40 {
					buf := make([]byte, 1500)
					n, err := conn.Read(buf)
					if err != nil {
						t.Error(err)
						return
					}
					got := read(t, buf[:n])
					i := got.Id & 0xff
					want := []string{"NOERROR web.default.svc.cluster.local. A 10.96.0.1", "NXDOMAIN | SOA cluster.local.", "NOERROR dual.default.svc.cluster.local. A 10.96.0.2"}[i%3]
					if said(got) != want || seen[got.Id] {
						t.Errorf("question %d: %s", i, said(got))
					}
					seen[got.Id] = true
				}
			}
		})
	}
	all.Wait()
}

// TestSlowServersDelayNobody asks an outside name that is answered only when the test says so, and a cluster's name behind it.
func TestSlowServersDelayNobody(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			release := make(chan struct{})
			far := another(t, func(m *upstream.Msg) *upstream.Msg {
				<-release
				return hosts("", m)[0]
			})
			s := cluster(t, func(c *Config) { c.Dial, c.Upstreams = nil, []netip.AddrPort{far} })
			udp, tcp, _ := serving(t, s)
			conn, err := upstream.Dial(network, map[string]string{"udp": udp, "tcp": tcp}[network])
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			slow, quick := question("www.example.com", "A"), question("web.default.svc.cluster.local", "A")
			slow.Id, quick.Id = 1, 2
			for _, m := range []*upstream.Msg{slow, quick} {
				if err := conn.WriteMsg(m); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := conn.ReadMsg(); err != nil || got.Id != 2 {
				t.Fatalf("first came %v, %v", got, err)
			}
			close(release)
			if got, err := conn.ReadMsg(); err != nil || got.Id != 1 || brief(got) != "NOERROR; www.example.com. 60 IN A 192.0.2.1" {
				t.Fatalf("then came %v, %v", got, err)
			}
		})
	}
}

// another is a real server on loopback.
func another(t testing.TB, answer func(*upstream.Msg) *upstream.Msg) netip.AddrPort {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &upstream.Server{PacketConn: u, NotifyStartedFunc: func() { close(started) }, Handler: upstream.HandlerFunc(func(w upstream.ResponseWriter, m *upstream.Msg) {
		if a := answer(m); a != nil {
			_ = w.WriteMsg(a)
		}
	})}
	go func() { _ = srv.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = u.Close() })
	return u.LocalAddr().(*net.UDPAddr).AddrPort()
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestAServerThatLeadsBackIsGivenUp(t *testing.T) {
	for name, direct := range map[string]bool{"its own address": true, "one that asks it in turn": false} {
		t.Run(name, func(t *testing.T) {
			own, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ap := own.LocalAddr().(*net.UDPAddr).AddrPort()
			good := another(t, func(m *upstream.Msg) *upstream.Msg { return hosts("", m)[0] })
			first := ap
			if !direct {
				first = another(t, func(m *upstream.Msg) *upstream.Msg {
					a, _, err := (&upstream.Client{Timeout: time.Minute}).Exchange(m, ap.String())
					if err != nil {
						return nil
					}
					return a
				})
			}
			var log lines
			s := cluster(t, func(c *Config) {
				c.Dial, c.Upstreams, c.Log = nil, []netip.AddrPort{first, good}, slog.New(slog.NewTextHandler(&log, nil))
			})
			serveOn(t, s, own, nil)
			for _, name := range []string{"www.example.com.", "www.example.org."} {
				got, _, err := (&upstream.Client{Timeout: time.Minute}).Exchange(question(name, "A"), ap.String())
				if err != nil || brief(got) != "NOERROR; "+name+" 60 IN A 192.0.2.1" {
					t.Errorf("%v, %v", got, err)
				}
			}
			if n := strings.Count(log.String(), "leads back"); n != 1 || !strings.Contains(log.String(), first.String()) {
				t.Errorf("logged %d times: %s", n, log.String())
			}
		})
	}
}

func TestQuestionsOneBehindTheOtherByTCP(t *testing.T) {
	s := cluster(t, nil)
	_, tcp, _ := serving(t, s)
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var all []byte
	for i := range 300 {
		m := question("web.default.svc.cluster.local", "A")
		m.Id = uint16(i)
		b, _ := m.Pack()
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(b))), b...)
	}
	go func() {
		for len(all) > 0 { // in pieces that end anywhere
			n, err := conn.Write(all[:min(7, len(all))])
			if err != nil {
				return
			}
			all = all[n:]
		}
	}()
	for i := range 300 {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatal(err)
		}
		if got := read(t, b); got.Id != uint16(i) || len(got.Answer) != 1 {
			t.Fatalf("answer %d: %v", i, got)
		}
	}
	if _, err := conn.Write([]byte{0, 12, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a response was answered")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := cluster(t, nil)
	_, tcp, _ := serving(t, s)
	var open []*upstream.Conn
	for range maxConnections {
		c, err := upstream.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		open = append(open, c)
	}
	ask := func(c *upstream.Conn) error {
		if err := c.WriteMsg(question("web.default.svc.cluster.local", "A")); err != nil {
			return err
		}
		_, err := c.ReadMsg()
		return err
	}
	for _, c := range open {
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
	}
	more, err := upstream.Dial("tcp", tcp)
	if err == nil {
		if err := ask(more); err == nil {
			t.Error("one more was served")
		}
		_ = more.Close()
	}
	if err := ask(open[0]); err != nil {
		t.Errorf("the others suffer: %v", err)
	}
}

func TestAConnectionEndsWhereItsAskerIsSilentOrDoesNotListen(t *testing.T) {
	packet, err := question("web.default.svc.cluster.local", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	for name, c := range map[string]struct {
		send []byte
		ends time.Duration
	}{
		"silence":                     {nil, idle},
		"half a question":             {packet[:9], idle},
		"an answer that nobody takes": {packet, writing + idle}, // the write fails, then nothing more comes
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := cluster(t, nil)
				near, far := net.Pipe()
				start := time.Now()
				ended := make(chan time.Duration)
				go func() {
					s.serveConn(t.Context(), near, &flights{ctx: t.Context()})
					ended <- time.Since(start)
				}()
				if _, err := far.Write(c.send); err != nil {
					t.Fatal(err)
				}
				if took := <-ended; took > c.ends {
					t.Errorf("ended after %v", took)
				}
			})
		})
	}
}

func TestWhatIsToldWhileQuestionsCome(t *testing.T) {
	s := cluster(t, nil)
	udp, _, _ := serving(t, s)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			s.SetService(service4("new", []string{"10.96.9.9", "None"}[i%2]))
			s.SetSlice(slice4("new-a", "new", endpointOf("10.244.9.1", "x", nil), endpointOf("10.244.9.2", "", nil)))
			s.SetNamespace("other", i%3 == 0)
			if i%5 == 0 {
				s.DeleteService("default", "new")
				s.DeleteSlice("default", "new-a")
			}
		}
	})
	conn, err := upstream.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for i := range 2000 {
		name := []string{"new.default.svc.cluster.local", "x.new.default.svc.cluster.local", "1.9.244.10.in-addr.arpa", "9.9.96.10.in-addr.arpa"}[i%4]
		if err := conn.WriteMsg(question(name, []string{"A", "SRV", "PTR"}[i%3])); err != nil {
			t.Fatal(err)
		}
		got, err := conn.ReadMsg()
		if err != nil || got.Rcode != upstream.RcodeSuccess && got.Rcode != upstream.RcodeNameError || strings.Contains(said(got), "BAD") {
			t.Fatalf("%v, %v", got, err)
		}
	}
	close(stop)
	all.Wait()
	s.SetService(service4("sure", "10.96.9.10"))
	if err := conn.WriteMsg(question("sure.default.svc.cluster.local", "A")); err != nil {
		t.Fatal(err)
	}
	if got, err := conn.ReadMsg(); err != nil || len(got.Answer) != 1 {
		t.Errorf("told and not known: %v, %v", got, err)
	}
}

func TestServingByIPv6(t *testing.T) {
	u, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	s := cluster(t, nil)
	serveOn(t, s, u, nil)
	got, _, err := (&upstream.Client{Timeout: time.Minute}).Exchange(question("ns.dns.cluster.local", "AAAA"), u.LocalAddr().String())
	if err != nil || said(got) != "NOERROR ns.dns.cluster.local. AAAA ::1" {
		t.Errorf("%s, %v", said(got), err)
	}
}

func TestWhatIsCounted(t *testing.T) {
	far := another(t, func(m *upstream.Msg) *upstream.Msg { return hosts("", m)[0] })
	s := cluster(t, func(c *Config) { c.Dial, c.Upstreams = nil, []netip.AddrPort{far} })
	for name, times := range map[string]int{"web.default.svc.cluster.local": 3, "none.cluster.local": 2, "www.example.com": 4, "no.example.com": 1} {
		for range times {
			asked(t, s, question(name, "A"), false)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"sampan_dns_responses_total NOERROR": 7, "sampan_dns_responses_total NXDOMAIN": 3, "sampan_dns_forwards_total": 2,
		"sampan_dns_cache_hits_total": 3, "sampan_dns_cache_misses_total": 2, "sampan_dns_cache_entries": 2,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
