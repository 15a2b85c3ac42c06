package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// memory is a View over what a test puts in.
type memory struct {
	mu      sync.Mutex
	pairs   map[loop.Key]pair
	changed func(namespace, name string)
	zone    func()
}

func (m *memory) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (m *memory) Services() (all []loop.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.pairs {
		all = append(all, k)
	}
	return all
}

func (m *memory) Service(namespace, name string) (*corev1.Service, []*discovery.EndpointSlice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.pairs[loop.Key{Namespace: namespace, Name: name}]
	return x.service, x.slices
}

func (m *memory) Zone() string                             { return "z1" }
func (m *memory) OnService(f func(namespace, name string)) { m.changed = f }
func (m *memory) OnZone(f func())                          { m.zone = f }

func (m *memory) put(x pair) {
	m.mu.Lock()
	m.pairs[loop.Key{Namespace: x.service.Namespace, Name: x.service.Name}] = x
	m.mu.Unlock()
	m.changed(x.service.Namespace, x.service.Name)
}

func (m *memory) drop(name string) {
	m.mu.Lock()
	delete(m.pairs, loop.Key{Namespace: "default", Name: name})
	m.mu.Unlock()
	m.changed("default", name)
}

// watched is a Fake that may fail.
type watched struct {
	*nft.Fake
	fail error
}

func (w *watched) Change(ctx context.Context, c nft.Change) error {
	if err := w.fail; err != nil {
		w.fail = nil
		return err
	}
	return w.Fake.Change(ctx, c)
}

// forgetting notes what is to be forgotten.
type forgetting struct{ told []string }

func (f *forgetting) Forget(front Front, end netip.Addr) error {
	f.told = append(f.told, fmt.Sprintf("%v to %v", front, end))
	return nil
}

// running runs a proxy over a view until the test ends.
func running(t *testing.T, view *memory) (*Proxy, *watched, *forgetting) {
	kernel := &watched{Fake: &nft.Fake{Local: []netip.Addr{nodeAddr, gateway}}}
	conns := &forgetting{}
	p := New(Config{Node: "n1", Network: network, View: view, Kernel: kernel, Connections: conns})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the proxy ended with %v", err)
		}
	})
	synctest.Wait()
	return p, kernel, conns
}

func goes(t *testing.T, kernel *watched, to, want string) {
	t.Helper()
	synctest.Wait()
	if end, _ := ask(kernel.Fake, try{from: "podB", to: to}); end != want {
		t.Errorf("%s leads to %q, want %q", to, end, want)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := service("web", "10.96.0.9", nodePort(30080))
		view := &memory{pairs: map[loop.Key]pair{{Namespace: "default", Name: "web"}: {web, []*discovery.EndpointSlice{slice(8080, at(podA))}}}}
		p, kernel, _ := running(t, view)
		goes(t, kernel, "10.96.0.9:80", "podA") // what was there at the start, in one transaction
		if kernel.Sent != 1 {
			t.Errorf("the start took %d transactions", kernel.Sent)
		}
		view.put(pair{web, []*discovery.EndpointSlice{slice(8080, at(podC))}})
		goes(t, kernel, "10.96.0.9:80", "podC")
		goes(t, kernel, "192.0.2.1:30080", "podC")
		sends := func(to netip.Addr) bool {
			sends, left := p.Sends(to)
			if sends == !left.IsZero() {
				t.Errorf("it says to send to %v: %v, since %v not", to, sends, left)
			}
			return sends
		}
		if !sends(podC) || sends(podA) {
			t.Errorf("it says to send to podC: %v, to podA: %v", sends(podC), sends(podA))
		}
		left := 0
		p.OnLeft(podA, func() { left++ })
		if left != 1 {
			t.Error("of an address that nothing is sent to, it is not said at once")
		}
		p.OnLeft(podC, func() { left++ })
		view.put(pair{web, []*discovery.EndpointSlice{slice(8080, at(podC, ending))}})
		goes(t, kernel, "10.96.0.9:80", "podC") // nobody else is ready
		if left != 2 || sends(podC) {
			t.Errorf("it does not say that the last one is ending: %d", left)
		}
		view.put(pair{web, []*discovery.EndpointSlice{slice(8080, at(podC))}})
		goes(t, kernel, "10.96.0.9:80", "podC")
		if left != 2 || !sends(podC) {
			t.Error("it does not say that it is sent to again")
		}
		sent := kernel.Sent
		view.changed("default", "web")
		synctest.Wait()
		if kernel.Sent != sent {
			t.Error("what has not changed is sent again")
		}
		view.drop("web")
		goes(t, kernel, "10.96.0.9:80", "")
		goes(t, kernel, "192.0.2.1:30080", "node") // its own
	})
}

func TestSomebodyElseChangesTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := service("web", "10.96.0.9")
		view := &memory{pairs: map[loop.Key]pair{{Namespace: "default", Name: "web"}: {web, []*discovery.EndpointSlice{slice(8080, at(podA))}}}}
		_, kernel, _ := running(t, view)
		kernel.Disturb(network.Table)
		goes(t, kernel, "10.96.0.9:80", "podA")
	})
}

func TestAFailedStepIsMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view := &memory{pairs: map[loop.Key]pair{}}
		_, kernel, _ := running(t, view)
		kernel.fail = errors.New("no")
		view.put(pair{service("web", "10.96.0.9"), []*discovery.EndpointSlice{slice(8080, at(podA))}})
		synctest.Wait()
		time.Sleep(time.Second)
		goes(t, kernel, "10.96.0.9:80", "podA")
	})
}

func TestTwoServicesOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.80"} }
		first, second := service("first", "10.96.0.9", external), service("second", "10.96.0.10", external)
		view := &memory{pairs: map[loop.Key]pair{}}
		_, kernel, _ := running(t, view)
		view.put(pair{first, []*discovery.EndpointSlice{slice(8080, at(podA))}})
		synctest.Wait()
		view.put(pair{second, []*discovery.EndpointSlice{slice(8080, at(podC))}})
		goes(t, kernel, "203.0.113.80:80", "podA")
		goes(t, kernel, "10.96.0.10:80", "podC")
		view.drop("first")
		goes(t, kernel, "203.0.113.80:80", "podC")
	})
}

func TestWhatIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := service("dns", "10.96.0.9", protocol(corev1.ProtocolUDP))
		view := &memory{pairs: map[loop.Key]pair{}}
		_, _, conns := running(t, view)
		for _, slices := range [][]*discovery.EndpointSlice{{slice(8080, at(podA), at(podB))}, {slice(8080, at(podB))}} {
			view.put(pair{dns, slices})
			synctest.Wait()
		}
		view.drop("dns")
		synctest.Wait()
		view.put(pair{service("web", "10.96.0.11"), []*discovery.EndpointSlice{slice(8080, at(podA))}})
		view.drop("web")
		synctest.Wait()
		want := []string{
			"10.96.0.9 port 80/17 to invalid IP", // sent before anybody was there
			"10.96.0.9 port 80/17 to 10.244.0.5", "10.96.0.9 port 80/17 to 10.244.0.6",
		}
		if !slices.Equal(conns.told, want) {
			t.Errorf("forgotten: %q, want %q", conns.told, want)
		}
	})
}

// late is a kernel that is watched only after a while.
type late struct {
	*nft.Fake
	watching chan struct{}
}

func (l late) Watch(ctx context.Context, name string, began, changed func()) error {
	<-l.watching
	return l.Fake.Watch(ctx, name, began, changed)
}

// TestNothingIsMissedBeforeTheTableIsWatched: what somebody does to a table that nobody watches yet would never be put right.
func TestNothingIsMissedBeforeTheTableIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := late{&nft.Fake{}, make(chan struct{})}
		view := &memory{pairs: map[loop.Key]pair{}}
		p := New(Config{Node: "n1", Network: network, View: view, Kernel: kernel})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		if kernel.Sent != 0 {
			t.Error("the table was made before it was watched")
		}
		close(kernel.watching)
		synctest.Wait()
		if kernel.Sent != 1 {
			t.Errorf("it was sent %d times once it was watched", kernel.Sent)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestUDPConnectionsMove: a UDP client that never stops asking is answered by another end once its own has gone.
func TestUDPConnectionsMove(t *testing.T) {
	st := newStage(t)
	view := &memory{pairs: map[loop.Key]pair{}}
	dns := service("dns", "10.96.0.9", protocol(corev1.ProtocolUDP))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	st.node.do(func() {
		real := nft.New()
		if err := real.Replace(ctx, skeleton(network)); err != nil { // opens its socket here
			t.Error(err)
		}
		p := New(Config{Node: "n1", Network: network, View: view, Kernel: unwatched{real}, Connections: within{st.node}})
		go func() { defer close(done); _ = p.Run(ctx) }()
	})
	defer func() { stop(); <-done }()
	view.put(pair{dns, []*discovery.EndpointSlice{slice(8080, at(podA))}})
	var c net.Conn
	st.spaces["podB"].do(func() {
		var err error
		if c, err = net.Dial("udp4", "10.96.0.9:80"); err != nil {
			t.Error(err)
		}
	})
	if c == nil {
		t.FailNow()
	}
	defer c.Close()
	until := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := c.Read(b); err == nil && strings.HasPrefix(string(b[:n]), want) {
				return
			}
		}
		t.Fatalf("%s never answers", want)
	}
	until("podA")
	view.put(pair{dns, []*discovery.EndpointSlice{slice(8080, at(podC))}})
	until("podC")
}

// unwatched is a Conn that nobody else interferes with.
type unwatched struct{ *nft.Conn }

func (unwatched) Watch(ctx context.Context, _ string, began, _ func()) error {
	began()
	<-ctx.Done()
	return nil
}

// within is the connections of a namespace.
type within struct{ space space }

func (w within) Forget(front Front, end netip.Addr) (err error) {
	w.space.do(func() { err = Conntrack{}.Forget(front, end) })
	return err
}

func TestHealthServers(t *testing.T) {
	space := newSpace(t)
	space.do(func() {
		h := NewHealthServers(slog.New(slog.DiscardHandler))
		defer h.Close()
		key := loop.Key{Namespace: "default", Name: "web"}
		get := func() (int, string) {
			r, err := http.Get("http://127.0.0.1:32100/")
			if err != nil {
				return 0, err.Error()
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			return r.StatusCode, string(body)
		}
		// A client's connections are made in goroutines of its own; a thread of this namespace has to make them.
		http.DefaultTransport.(*http.Transport).DialContext = func(_ context.Context, network, address string) (c net.Conn, err error) {
			space.do(func() { c, err = net.Dial(network, address) })
			return c, err
		}
		http.DefaultTransport.(*http.Transport).DisableKeepAlives = true
		h.Set(key, 32100, 2)
		if code, body := get(); code != 200 || !strings.Contains(body, `"localEndpoints":2`) || !strings.Contains(body, `"name":"web"`) {
			t.Errorf("with two ends: %d %s", code, body)
		}
		h.Set(key, 32100, 0)
		if code, body := get(); code != 503 || !strings.Contains(body, `"localEndpoints":0`) {
			t.Errorf("without ends: %d %s", code, body)
		}
		h.Set(key, 0, 0)
		if code, _ := get(); code != 0 {
			t.Errorf("after its end: %d", code)
		}
	})
}
