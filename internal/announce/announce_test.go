package announce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ether is a network on which packets arrive at once.
type ether struct {
	mu    sync.Mutex
	taps  []*tap
	log   []string // announcements and answers: who, what
	fails int      // so many links cannot be opened
}

// side is a node's wire to it.
type side struct {
	*ether
	node    string
	link    Link
	changed chan struct{}
}

// tap is an open link.
type tap struct {
	side  *side
	v6    bool
	heard func(Heard)
}

func (s *side) Links() ([]Link, error) { s.mu.Lock(); defer s.mu.Unlock(); return []Link{s.link}, nil }

func (s *side) Watch(ctx context.Context, changed func()) error {
	for {
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		}
	}
}

func (s *side) Open(_ Link, v6 bool, heard func(Heard)) (Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return nil, errors.New("no more sockets")
	}
	p := &tap{s, v6, heard}
	s.taps = append(s.taps, p)
	return p, nil
}

// say tells all other taps, and writes it down if words are given.
func (e *ether) say(from *tap, h Heard, words string) {
	e.mu.Lock()
	if words != "" {
		e.log = append(e.log, words)
	}
	taps := slices.Clone(e.taps)
	e.mu.Unlock()
	for _, p := range taps {
		if p != from {
			p.heard(h)
		}
	}
}

func (p *tap) Join(netip.Addr) error  { return nil }
func (p *tap) Leave(netip.Addr) error { return nil }

func (p *tap) Probe(ip netip.Addr) error {
	p.side.say(p, Heard{Asked: ip, From: netip.IPv4Unspecified(), MAC: p.side.link.MAC}, "")
	return nil
}

func (p *tap) Announce(ip netip.Addr) error {
	p.side.say(p, Heard{Claimed: ip, From: ip, MAC: p.side.link.MAC}, p.side.node+" announces "+ip.String())
	return nil
}

func (p *tap) Answer(q Heard) error {
	words := ""
	if !q.From.IsUnspecified() {
		words = p.side.node + " answers " + q.Asked.String()
	}
	p.side.say(p, Heard{Claimed: q.Asked, From: q.Asked, MAC: p.side.link.MAC}, words)
	return nil
}

func (p *tap) Close() error {
	p.side.mu.Lock()
	defer p.side.mu.Unlock()
	p.side.taps = slices.DeleteFunc(p.side.taps, func(o *tap) bool { return o == p })
	return nil
}

func (e *ether) side(i int) *side {
	mac := MAC{2, 0, 0, 0, 0, byte(i)}
	prefix := netip.PrefixFrom(ip(fmt.Sprintf("10.0.0.%d", i)), 24)
	return &side{e, fmt.Sprint("n", i), Link{Index: 2, Name: "eth0", MAC: mac, Prefixes: []netip.Prefix{prefix}}, make(chan struct{}, 1)}
}

// ask asks for an address as a client does, and returns who answers.
func (e *ether) ask(a netip.Addr) string {
	e.mu.Lock()
	e.log = nil
	e.mu.Unlock()
	e.say(nil, Heard{Asked: a, Claimed: ip("10.0.0.200"), From: ip("10.0.0.200"), MAC: MAC{2, 9}}, "")
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.log, ", ")
}

func TestOneNodeAnswersForEachAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, cl := &ether{}, newCluster()
		lease := 40 * time.Second
		renew := func(names ...string) {
			for _, name := range names {
				cl.setNode(name, Node{Serves: true, Renewed: time.Now().Add(-time.Hour), Lease: lease}) // its clock is wrong by an hour
			}
		}
		all := []string{"n1", "n2", "n3"}
		for i, name := range all {
			defer cl.start(t, name, e.side(i+1))()
		}
		renew(all...)
		var addrs []string
		for i := range 20 {
			addrs = append(addrs, fmt.Sprintf("10.0.0.%d", 100+i))
		}
		cl.set("web", addrs)
		cl.set("far", []string{"192.0.2.1"})
		settle := func() { time.Sleep(5 * time.Second); synctest.Wait() }
		settle()
		answers := func(among ...string) map[string]string {
			t.Helper()
			who := map[string]string{}
			for _, a := range addrs {
				got := e.ask(ip(a))
				node, words, _ := strings.Cut(got, " ")
				if words != "answers "+a || !slices.Contains(among, node) {
					t.Errorf("asked for %s: %q", a, got)
				}
				who[a] = node
			}
			return who
		}
		first := answers(all...)
		if got := e.ask(ip("10.0.0.99")) + e.ask(ip("192.0.2.1")); got != "" {
			t.Errorf("what nobody shall announce: %q", got)
		}

		// n2 dies without a word. Its addresses, and no others, move when its lease ends; nothing is asked by the clock until then.
		for range 4 {
			renew("n1", "n3")
			time.Sleep(10 * time.Second)
		}
		settle()
		renew("n1", "n3")
		for a, node := range answers("n1", "n3") {
			if first[a] != "n2" && first[a] != node {
				t.Errorf("%s moved from %s to %s", a, first[a], node)
			}
		}
		if len(cl.told) > 0 {
			t.Errorf("a move was taken for a conflict: %q", cl.told)
		}
		renew(all...)
		settle()
		for a, node := range answers(all...) {
			if first[a] != node {
				t.Errorf("%s came back to %s, not to %s", a, node, first[a])
			}
		}

		cl.set("web", addrs, "n3")
		settle()
		answers("n3")
		cl.set("web", nil)
		cl.set("web", nil)
		settle()
		if len(e.taps) > 0 {
			t.Errorf("%d links are open for nothing", len(e.taps))
		}
		if got := e.ask(ip(addrs[0])); got != "" {
			t.Errorf("after the Service has gone: %q", got)
		}
	})
}

func TestALinkThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, cl := &ether{fails: 3}, newCluster()
		cl.setNode("n1", Node{Serves: true})
		defer cl.start(t, "n1", e.side(1))()
		cl.set("web", []string{"10.0.0.100"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := e.ask(ip("10.0.0.100")); got != "n1 answers 10.0.0.100" {
			t.Errorf("got %q", got)
		}
	})
}
