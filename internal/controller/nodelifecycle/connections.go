package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Doubt is how long an agent that has broken its connection has to be heard of again, before its node is called unknown: its next renewal is due before that,
// by which way ever. Pods are not evicted before the whole grace has passed.
const Doubt = Renew + time.Second

// Connections knows which agents watch through the API server of this process. The zero value knows of none.
type Connections struct {
	mu   sync.Mutex // guards the fields below
	open map[string]int
	told map[*Controller]bool
}

// Began says that the node's agent has begun a watch.
func (c *Connections) Began(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]int{}
	}
	if c.open[node]++; c.open[node] == 1 {
		c.tell(node, true)
	}
}

// Ended says that one has ended. Without another one, the connection is broken.
func (c *Connections) Ended(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[node]--; c.open[node] == 0 {
		delete(c.open, node)
		c.tell(node, false)
	}
}

func (c *Connections) tell(node string, connected bool) {
	for controller := range c.told {
		controller.connected(node, connected)
	}
}

// follow has a controller told from now on, until it calls what it gets.
func (c *Connections) follow(controller *Controller) (stop func()) {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told == nil {
		c.told = map[*Controller]bool{}
	}
	c.told[controller] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.told, controller)
	}
}

// connected notes that an agent has connected, or that its connection broke.
func (c *Controller) connected(node string, is bool) {
	if c.watch.connected(node, is, time.Now()) {
		c.again(node)
	}
}

// connected notes it of a node that is known, and reports whether that changes when it is in doubt.
func (w *watch) connected(name string, is bool, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.nodes[name]
	if s == nil {
		return false
	}
	was := s.broken
	s.broken = mark{}
	if !is {
		s.broken = w.now(now)
	}
	return was.IsZero() != s.broken.IsZero()
}

// doubtful is how long a node still has until it is in doubt, since its connection broke and nothing has been heard of it from then on. It is what
// it has left of its grace, if that is less, or if it has no such connection.
func (w *watch) doubtful(node *corev1.Node, left time.Duration, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.nodes[node.Name]
	if s == nil || s.broken.IsZero() || condition(node.Status.Conditions, corev1.NodeReady) == nil {
		return left
	}
	since := s.broken
	if w.begun.After(since.Time) {
		since = w.begun
	}
	before := Doubt - between(since, w.now(now))
	if before <= 0 {
		s.late = true // so that a renewal is news
	}
	return min(left, before)
}
