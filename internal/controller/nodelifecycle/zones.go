package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// How fast nodes get the taint by which their pods are evicted, and when that is too many.
const (
	perNode     = time.Second       // between two nodes of a zone
	perNodeSlow = 100 * time.Second // between two of a large zone that has lost most of its nodes
	largeZone   = 50                // nodes; a larger zone is evicted slowly, a smaller one not at all, when most are lost
	mostPercent = 55                // of the nodes are most of them
	mostLeast   = 2                 // lost nodes; fewer are never most of them
	exclude     = "node.kubernetes.io/exclude-disruption"
)

// State is how well a group of nodes is.
type State int

// The states.
const (
	Well     State = iota
	MostLost       // most are not ready
	AllLost
)

// Judge says how well a group of so many nodes is.
func Judge(ready, unready int) State {
	switch {
	case unready > 0 && ready == 0:
		return AllLost
	case unready >= mostLeast && unready*100 >= mostPercent*(ready+unready):
		return MostLost
	}
	return Well
}

// Pace is the time between two nodes of a zone to be evicted; none if halted.
func Pace(zone, cluster State, zoneSize, clusterSize int) (between time.Duration, halted bool) {
	between = perNode
	if zone == MostLost {
		between, halted = perNodeSlow, zoneSize <= largeZone
	}
	switch cluster {
	case AllLost:
		halted = true
	case MostLost:
		between, halted = perNodeSlow, halted || clusterSize <= largeZone
	}
	return between, halted
}

// zones counts the nodes of each zone that are ready and that are not.
type zones struct {
	mu    sync.Mutex // guards the fields below
	nodes map[string]member
	zone  map[string]*zone
	all   zone
}

// member is a node as it was last counted.
type member struct {
	zone    string
	counts  bool // it has said how it is, and is not left out of the count by a label
	ready   bool
	pending bool // it is not ready: what it gets depends on the others
}

type zone struct {
	ready, unready int
	last           time.Time // a node got the taint
}

func newZones() zones { return zones{nodes: map[string]member{}, zone: map[string]*zone{}} }

func (z *zone) count(m member, by int) {
	switch {
	case !m.counts:
	case m.ready:
		z.ready += by
	default:
		z.unready += by
	}
}

func (z *zone) state() State { return Judge(z.ready, z.unready) }

// of is the zone of that name. The caller holds mu.
func (z *zones) of(name string) *zone {
	g := z.zone[name]
	if g == nil {
		g = &zone{}
		z.zone[name] = g
	}
	return g
}

func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + "/" + node.Labels[corev1.LabelTopologyZone]
}

func memberOf(node *corev1.Node) member {
	c := condition(node.Status.Conditions, corev1.NodeReady)
	_, out := node.Labels[exclude]
	m := member{zone: zoneOf(node), counts: c != nil && !out, ready: c != nil && c.Status == corev1.ConditionTrue}
	m.pending = c != nil && !m.ready
	return m
}

// set counts a node as it is now (nil: gone), and names the nodes for which that changes something.
func (z *zones) set(name string, node *corev1.Node) (others []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	was, known := z.nodes[name]
	var is member
	if node != nil {
		is = memberOf(node)
	}
	if known && node != nil && was == is {
		return nil
	}
	before := z.states(was, is)
	if known {
		z.of(was.zone).count(was, -1)
		z.all.count(was, -1)
		delete(z.nodes, name)
	}
	if node != nil {
		z.of(is.zone).count(is, 1)
		z.all.count(is, 1)
		z.nodes[name] = is
	}
	after := z.states(was, is)
	if before == after {
		return nil
	}
	for other, m := range z.nodes {
		if m.pending && (before[2] != after[2] || m.zone == was.zone || m.zone == is.zone) {
			others = append(others, other)
		}
	}
	return others
}

// states are those of two nodes' zones and of the cluster. The caller holds mu.
func (z *zones) states(a, b member) [3]State {
	return [3]State{z.of(a.zone).state(), z.of(b.zone).state(), z.all.state()}
}

// pace is that of the node's zone. The caller holds mu.
func (z *zones) pace(g *zone) (time.Duration, bool) {
	return Pace(g.state(), z.all.state(), g.ready+g.unready, z.all.ready+z.all.unready)
}

// halted says that no node of this one's zone is evicted now.
func (z *zones) halted(node *corev1.Node) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	_, halted := z.pace(z.of(zoneOf(node)))
	return halted
}

// take asks for leave to evict a node: now, or after a while, or, if both are zero, not before the zone is better.
func (z *zones) take(node *corev1.Node, now time.Time) (may bool, wait time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	g := z.of(zoneOf(node))
	between, halted := z.pace(g)
	if halted {
		return false, 0
	}
	if left := between - now.Sub(g.last); left > 0 && !g.last.IsZero() {
		return false, left
	}
	g.last = now
	return true, 0
}

// giveBack takes back the last leave of the node's zone: it was of no use.
func (z *zones) giveBack(node *corev1.Node) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.of(zoneOf(node)).last = time.Time{}
}
