package announce

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// cluster is Services and nodes, as all announcers of a test see them.
type cluster struct {
	mu       sync.Mutex
	services map[loop.Key]Wanted
	nodes    map[string]Node
	onNode   []func(string)
	onKey    []func(loop.Key)
	told     []string
}

func newCluster() *cluster {
	return &cluster{services: map[loop.Key]Wanted{}, nodes: map[string]Node{}}
}

func (c *cluster) Ready() <-chan struct{} { ready := make(chan struct{}); close(ready); return ready }

func (c *cluster) Services() []loop.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.services))
}

func (c *cluster) Service(key loop.Key) Wanted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.services[key]
}

func (c *cluster) Nodes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.nodes))
}

func (c *cluster) Node(name string) (Node, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, there := c.nodes[name]
	return n, there
}

func (c *cluster) OnService(f func(loop.Key)) { c.onKey = append(c.onKey, f) }
func (c *cluster) OnNode(f func(string))      { c.onNode = append(c.onNode, f) }

func (c *cluster) Record(o runtime.Object, kind, reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, o.(*corev1.ObjectReference).Name+" "+kind+" "+reason+": "+message)
}

// set makes a Service have these addresses, and be taken by these nodes alone, if there are any.
func (c *cluster) set(name string, addrs []string, on ...string) {
	w := Wanted{}
	for _, a := range addrs {
		w.Addresses = append(w.Addresses, netip.MustParseAddr(a))
	}
	for _, n := range on {
		if w.Nodes == nil {
			w.Nodes = map[string]bool{}
		}
		w.Nodes[n] = true
	}
	key := loop.Key{Namespace: "default", Name: name}
	c.mu.Lock()
	c.services[key] = w
	c.mu.Unlock()
	for _, f := range c.onKey {
		f(key)
	}
}

func (c *cluster) setNode(name string, n Node) {
	c.mu.Lock()
	c.nodes[name] = n
	c.mu.Unlock()
	for _, f := range c.onNode {
		f(name)
	}
}

// start runs an announcer, and returns what ends it.
func (c *cluster) start(t *testing.T, node string, wire Wire) (stop func()) {
	t.Helper()
	a := New(Config{Node: node, View: c, Wire: wire, Events: c, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return stop
}
