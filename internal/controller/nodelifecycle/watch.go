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
	begun mark      // the watch over all nodes; silence from before does not count against them
	ran   time.Time // this process, for sure
	proof time.Time // when the last proof that the store works was begun
}

// mark is a time, and for how long the store had stood still by then.
type mark struct {
	time.Time
	stalled time.Duration
}

// now marks a time that has just been read.
func (w *watch) now(t time.Time) mark {
	if w.c.Stalled == nil {
		return mark{Time: t}
	}
	return mark{t, w.c.Stalled()}
}

// between is for how much of the time between two marks the store worked. A stall that is noticed only once it has lasted for a while counts from its beginning, which may
// be before the first mark: then it is less than that.
func between(from, to mark) time.Duration {
	return max(to.Sub(from.Time)-max(to.stalled-from.stalled, 0), 0)
}

// sighting is what was last seen of a node.
type sighting struct {
	at    mark          // the last change, or when it was first looked at
	lasts time.Duration // what its lease says
	late  bool          // it has been found silent since

	broken mark // when the agent's connection broke, if nothing has been heard of it since; zero: it holds, or nobody knows

	changes int // of what has to be looked at besides the time, counted from 1
	settled int // the last of them after which nothing was left to do but wait
}

func newWatch(c Config) watch { return watch{c: c, nodes: map[string]*sighting{}} }

// begin lets the grace of all nodes count from now.
func (w *watch) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.ran = w.now(now), now
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
	w.begun = w.now(now)
	return gap
}

// proofDue is for how long no new proof is needed that the store works, if one is to begin every so often.
func (w *watch) proofDue(now time.Time, every time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proof.IsZero() {
		return 0
	}
	return max(w.proof.Add(every).Sub(now), 0)
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
	w.begun = w.now(now)
	return took
}

// sight is what was seen of the node. The caller holds mu.
func (w *watch) sight(name string, now time.Time) *sighting {
	s := w.nodes[name]
	if s == nil {
		s = &sighting{at: w.now(now)}
		w.nodes[name] = s
	}
	return s
}

// changed notes that there is more to look at of a node than the time.
func (w *watch) changed(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sight(name, time.Now()).changes++
}

// changes is how many have been noted.
func (w *watch) changes(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight(name, time.Now()).changes
}

// settle notes that a node that has said how it is, and is heard of, needs nothing after so many changes but to be heard of again.
func (w *watch) settle(name string, changes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sight(name, time.Now()).settled = changes
}

// settledFor is for how long a node need not be looked at if nothing changes: at rest that is all that is asked of a node, and it costs no look at the Node. Zero: it has to be now.
func (w *watch) settledFor(name string, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.nodes[name]
	if s == nil || s.changes == 0 || s.settled != s.changes || w.begun.After(s.at.Time) {
		return 0
	}
	return max(w.c.Grace, s.lasts) - between(s.at, w.now(now)) - late
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
	s.at, s.lasts, s.late, s.broken = w.now(now), lasts, false, mark{}
	return news
}

// heartbeat notes that the node has written its status.
func (w *watch) heartbeat(name string, was, is, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(name, now)
	if !was.Equal(is) {
		s.at, s.late, s.broken = w.now(now), false, mark{}
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
	return between(s.at, w.now(now)), max(w.c.Grace, s.lasts)
}

// left is how much of its grace a node has; none makes it silent.
func (w *watch) left(node *corev1.Node, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sight(node.Name, now)
	since := s.at
	if w.begun.After(since.Time) {
		since = w.begun
		if !s.broken.IsZero() && s.broken.Before(since.Time) {
			since = s.broken // the silence is the node's own
		}
	}
	grace := max(w.c.Grace, s.lasts)
	if condition(node.Status.Conditions, corev1.NodeReady) == nil {
		grace = max(grace, w.c.StartupGrace)
	}
	left := grace - between(since, w.now(now))
	s.late = left <= 0
	return left
}
