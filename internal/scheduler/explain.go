package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/loop"
)

// Explanation is what every node says to one pod: all that it is refused for, not only the first.
type Explanation struct {
	Nodes   []Opinion // by name
	Refusal *Refusal  // nil: a node takes it
}

// Opinion is what one node says. Without faults it takes the pod.
type Opinion struct {
	Node     string
	Cordoned bool
	Faults   []Fault // in the order of the filters
}

// Fault is one filter that the node fails, and the figures it rests on: those of the filter in question are set.
type Fault struct {
	Filter  string   // as Kubernetes calls the plugin
	Reasons []string // in Kubernetes' words
	Final   bool     // no pod's going would help

	Taints     []corev1.Taint // that the pod does not tolerate
	Gaps       []Gap          // labels that affinity or the selector asks for; of several terms those of the nearest
	Ports      []PortHeld
	Shortages  []Shortage
	Spreads    []Skew
	Neighbours []Neighbour
	Stores     []Stored
}

// Gap is a label that the node would need.
type Gap struct {
	Key      string
	Operator corev1.NodeSelectorOperator
	Values   []string
	Has      bool
	Value    string // that it has
	Field    bool   // Key is a field of the node, not a label
}

// PortHeld is a port of the node that somebody has.
type PortHeld struct {
	Number   int32
	Protocol corev1.Protocol
	Holder   loop.Key
}

// Shortage is a resource that the node has too little of. CPU is in thousandths, everything else in units or bytes.
type Shortage struct {
	Resource        corev1.ResourceName
	Asked, All      int64
	Taken, Promised int64 // by pods that are there; kept for pods that room is made for
	Holders         []Holding
}

// Free is what is left for this pod.
func (s Shortage) Free() int64 { return s.All - s.Taken - s.Promised }

// Holding is what a pod takes of a resource.
type Holding struct {
	Pod   loop.Key
	Takes int64
}

// Skew is a topology spread constraint that the pod would break there.
type Skew struct {
	Key, Value string // the topology, and where the node is in it
	Unlabelled bool   // the node is nowhere in it
	Pods       string // that are counted, as a selector
	Here       int64
	Least      int64
	LeastIn    []string // values with the fewest
	Most       int32    // maxSkew
	Would      int64    // be the skew
	Domains    int      // that there are
	MinDomains int
}

// Relation is what stands between a pod and its neighbours.
type Relation string

// The relations, in the order in which they are looked for.
const (
	Misses  Relation = "misses"  // pods that it must be near to are not there
	Avoids  Relation = "avoids"  // pods that it must be away from are there
	Shunned Relation = "shunned" // pods that keep it away are there
)

// Neighbour is one demand on neighbours that does not hold on a node.
type Neighbour struct {
	Relation   Relation
	Key, Value string // the topology, and where the node is in it
	Unlabelled bool
	Pods       string     // that the demand is about, as a selector; of Shunned: what the other asks
	Who        []loop.Key // is there
	Where      []string   // values of the topology at which pods are that it misses
}

// Snapshot counts nodes and pods as a scheduler does that has seen them all.
func Snapshot(nodes []*corev1.Node, pods []*corev1.Pod, namespaces Namespaces) *Nodes {
	n := NewNodes()
	n.Namespaces = namespaces
	for _, node := range nodes {
		n.Set(node)
	}
	for _, pod := range pods {
		if ended(pod) {
			continue
		}
		u := useOf(pod)
		if pod.Spec.NodeName != "" {
			n.join(memberOf(pod, u), n.add(pod.Spec.NodeName, u))
			continue
		}
		if to := pod.Status.NominatedNodeName; to != "" && pod.DeletionTimestamp == nil && n.byName[to] != nil {
			p := promise{key: keyOf(pod), use: u}
			if pod.Spec.Priority != nil {
				p.priority = *pod.Spec.Priority
			}
			n.promise(p, n.byName[to])
		}
	}
	return n
}

// Explain asks every filter of every node. Budgets may be nil: then pushing out pods breaks none. The nodes are as before when it returns.
func Explain(n *Need, nodes *Nodes, budgets func(namespace string) []Budget) *Explanation {
	survey(n, nodes)
	nodes.stow(n)
	e := &Explanation{}
	fit, whole := false, n.stowage != nil && n.stowage.why != "" // then it does not depend on the node
	for _, node := range nodes.list {
		o := Opinion{Node: node.Name, Cordoned: node.cordoned}
		for i := range n.plan.filters {
			if f := &n.plan.filters[i]; !(whole && f.bit&byStorage != 0) && !f.fits(n, node) {
				o.Faults = append(o.Faults, n.fault(f, node, nodes))
			}
		}
		fit = fit || len(o.Faults) == 0
		e.Nodes = append(e.Nodes, o)
	}
	slices.SortFunc(e.Nodes, func(a, b Opinion) int { return cmp.Compare(a.Node, b.Node) })
	if fit && !whole {
		return e
	}
	candidates := nodes.list
	if n.names != nil {
		candidates = nodes.named(n.names)
	}
	e.Refusal = refuse(n, nodes, candidates)
	if budgets == nil {
		budgets = func(string) []Budget { return nil }
	}
	e.Refusal.made = makeRoom(n, nodes, e.Refusal, budgets) != nil
	return e
}

// fault is what a filter says of a node that fails it.
func (n *Need) fault(f *filter, node *Node, nodes *Nodes) Fault {
	reasons, final := f.why(n, node)
	fault := Fault{Filter: f.name, Reasons: reasons, Final: final}
	switch f.bit {
	case byTaints:
		for i := range node.taints {
			t := &node.taints[i]
			if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(n.Pod.Spec.Tolerations, t) {
				fault.Taints = append(fault.Taints, *t)
			}
		}
	case byAffinity:
		fault.Gaps = n.gaps(node)
	case byPorts:
		fault.Ports = n.held(node)
	case byResources:
		fault.Shortages = n.shortages(node)
	case bySpread:
		fault.Spreads = n.skews(node)
	case byNeighbours:
		fault.Neighbours = n.quarrels(node, nodes)
	case byAlone, byVolumes, byZone:
		fault.Stores = n.stores(f.bit, node, nodes)
	}
	return fault
}
