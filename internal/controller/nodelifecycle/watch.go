package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// watch remembers when this process has last seen a sign of life of each node. All times are its own, with the monotonic clock in them.
type watch struct {
	c Config

	mu    sync.Mutex // guards the fields below
	nodes map[string]*sighting
	begun time.Time // the watch over all nodes; silence from before does not count against them
	ran   time.Time // this process, for sure
	proof time.Time // when the last proof that the store works was begun
}

// sighting is what was last seen of a node.
type sighting struct {
	at    time.Time     // the last change, or when it was first looked at
	lasts time.Duration // what its lease says
	late  bool          // it has been found silent since
}

func newWatch(c Config) watch { return watch{c: c, nodes: map[string]*sighting{}} }

// begin lets the grace of all nodes count from now.
func (w *watch) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.ran = now, now
}

// pulse notes that this process runs. If it has not for more than half of the grace, the watch begins anew, and pulse says for how long.
func (w *watch) pulse(now time.Time) (slept time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := now.Sub(w.ran)
	w.ran = now
	if gap <= pulse+w.c.Grace/2 {
		return 0
	}
	w.begun = now
	return gap
}

// needsProof says that it was not proved within the last second that the store works.
func (w *watch) needsProof(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proof.IsZero() || now.Sub(w.proof) >= pulse
}

// proved notes that the store has worked. If it took more than half of the grace, the watch begins anew, and proved says how long it took.
func (w *watch) proved(from, now time.Time) (took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proof.Before(from) {
		w.proof = from
	}
	if took = now.Sub(from); took <= w.c.Grace/2 {
		return 0
	}
	w.begun = now
	return took
}

// sight is what was seen of the node. The caller holds mu.
func (w *watch) sight(name string, now time.Time) *sighting {
	s := w.nodes[name]
	if s == nil {
		s = &sighting{at: now}
		w.nodes[name] = s
	}
	return s
}

func (w *watch) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, name)
}

// renewed notes that the lease was renewed, and reports whether that is news: the node had been silent, or its grace is another one now.
func (w *watch) renewed(name string, lasts time.Duration, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(name, now)
	news := s.late || s.lasts != lasts
	s.at, s.lasts, s.late = now, lasts, false
	return news
}

// heartbeat notes that the node has written its status.
func (w *watch) heartbeat(name string, was, is, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(name, now)
	if !was.Equal(is) {
		s.at, s.late = now, false
	}
}

// beat is when the node says that it has last written its status. It is only compared with what it has said before.
func beat(node *corev1.Node) time.Time {
	if node == nil {
		return time.Time{}
	}
	if c := condition(node.Status.Conditions, corev1.NodeReady); c != nil {
		return c.LastHeartbeatTime.Time
	}
	return time.Time{}
}

func (w *watch) silence(name string, now time.Time) (silent, grace time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(name, now)
	return now.Sub(s.at), max(w.c.Grace, s.lasts)
}

// left is how much of its grace a node has; none makes it silent.
func (w *watch) left(node *corev1.Node, now time.Time) time.Duration {
	var broken time.Time
	if w.c.Connected != nil {
		if known, at := w.c.Connected(node.Name); known {
			broken = at
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(node.Name, now)
	since := s.at
	if w.begun.After(since) {
		since = w.begun
		if !broken.IsZero() && broken.Before(since) {
			since = later(s.at, broken)
		}
	}
	grace := max(w.c.Grace, s.lasts)
	if condition(node.Status.Conditions, corev1.NodeReady) == nil {
		grace = max(grace, w.c.StartupGrace)
	}
	left := grace - now.Sub(since)
	s.late = left <= 0
	return left
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
