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

	upstream "github.com/miekg/dns"
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
		c := upstream.Client{Net: network}
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
					a, _, err := new(upstream.Client).Exchange(m, ap.String())
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
				got, _, err := new(upstream.Client).Exchange(question(name, "A"), ap.String())
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
