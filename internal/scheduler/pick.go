package scheduler

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"sampan.dev/internal/loop"
)

// Need is what a pod asks of a node, worked out once.
type Need struct {
	Pod *corev1.Pod

	use       use
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms // nil: none
	names     []string                               // the only nodes that affinity leaves; nil: any
	hash      uint64                                 // of the pod's name, to break ties

	plan    *plan
	idle    Filters                       // that let the pod onto any node, whatever it is like
	checked map[corev1.ResourceName]int64 // of what it asks for of an extended sort, what a node has to have

	key         loop.Key
	priority    int32
	terms       *terms       // what it asks of its neighbours; nil: nothing
	constraints []constraint // of its spread
	owner       types.UID    // whose pods are spread by default; empty: nobody's
	across      *across      // what survey has counted for the attempt under way; nil: there is nothing to count
	claims      []usedClaim  // that its volumes are of
	stowage     *stowage     // what they ask for, in the attempt under way; nil: nothing
}

// needOf works out what the pod asks for.
func needOf(pod *corev1.Pod, pl *plan, services func(string) []labels.Selector) *Need {
	n := &Need{Pod: pod, plan: pl, use: useOf(pod), required: nodeaffinity.GetRequiredNodeAffinity(pod), terms: termsOf(pod), key: keyOf(pod), claims: claimsOf(pod)}
	n.checked = pl.checked(n.use.asked.extended)
	if pod.Spec.Priority != nil {
		n.priority = *pod.Spec.Priority
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			n.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(terms) // what does not parse prefers nothing; validation refuses it
		}
		if pl.reads&byAffinity != 0 {
			n.names = onlyNames(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
	}
	n.constraints = constraintsOf(pod)
	if len(n.constraints) == 0 {
		n.constraints = n.defaultConstraints(services)
	}
	n.idle = n.idleFilters()
	h := fnv.New64a()
	_, _ = h.Write([]byte(pod.Namespace + "/" + pod.Name))
	n.hash = h.Sum64()
	return n
}

// onlyNames are the nodes that a selector leaves if each of its terms asks for metadata.name, as DaemonSets' pods do; nil: any. None at all: its terms contradict themselves.
func onlyNames(selector *corev1.NodeSelector) []string {
	if selector == nil || len(selector.NodeSelectorTerms) == 0 {
		return nil
	}
	names := []string{}
	for _, term := range selector.NodeSelectorTerms {
		var of []string
		for _, r := range term.MatchFields {
			if r.Key != "metadata.name" || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if of == nil {
				of = slices.Clone(r.Values)
			} else {
				of = slices.DeleteFunc(of, func(name string) bool { return !slices.Contains(r.Values, name) })
			}
		}
		if of == nil {
			return nil // this term leaves any node
		}
		names = append(names, of...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// scored is a node that fits, while the best is looked for.
type scored struct {
	node                 *Node
	fit, balance, prefer int64
	unwelcome, total     int64
	image, company       int64
	crowd                int64
	uncounted            bool // it is without a label that the pod would be spread by
}

// Pick chooses the node that the pod should run on, or says why there is none. It does no I/O and reads no clock, and
// for the same arguments its answer is the same, but that a search among more than a hundred nodes stops once it has
// seen enough that fit, and the next one begins where it stopped.
func Pick(n *Need, nodes *Nodes) (*Node, *Refusal) {
	survey(n, nodes)
	if nodes.stow(n); n.stowage != nil && n.stowage.why != "" {
		return nil, refuse(n, nodes, nil)
	}
	if node := nodes.promised[n.key]; node != nil && node.exists && fits(n, node) {
		return node, nil // room was made for it there, or somebody has chosen it
	}
	candidates, enough := nodes.list, feasibleEnough(len(nodes.list), n.plan.profile.Percentage)
	start := nodes.next
	if n.names != nil {
		candidates, start = nodes.named(n.names), 0
	}
	feasible := nodes.scratch[:0]
	for i := range candidates {
		node := candidates[(start+i)%len(candidates)]
		if !fits(n, node) {
			continue
		}
		feasible = append(feasible, scored{node: node})
		if len(feasible) == enough {
			nodes.next = (start + i + 1) % len(candidates)
			break
		}
	}
	nodes.scratch = feasible
	switch len(feasible) {
	case 0:
		return nil, refuse(n, nodes, candidates)
	case 1:
		return feasible[0].node, nil
	}
	score(n, nodes, feasible)
	best := &feasible[0]
	for i := range feasible {
		if s := &feasible[i]; s.total > best.total || s.total == best.total && n.draws(s.node, best.node) > 0 {
			best = s
		}
	}
	return best.node, nil
}

// draws decides between nodes that are equally good: by the pod's name, so that they take turns, the same way each time.
func (n *Need) draws(a, b *Node) int {
	luck := func(node *Node) int64 { return int64(mix(n.hash^node.hash) >> 1) }
	return cmp.Or(cmp.Compare(luck(a), luck(b)), cmp.Compare(b.Name, a.Name))
}

// idleFilters are those that the pod gives nothing to ask about.
func (n *Need) idleFilters() (idle Filters) {
	s := &n.Pod.Spec
	if s.NodeName == "" {
		idle |= byName
	}
	if len(n.use.ports) == 0 {
		idle |= byPorts
	}
	if len(s.NodeSelector) == 0 && (s.Affinity == nil || s.Affinity.NodeAffinity == nil) && n.plan.added == nil {
		idle |= byAffinity
	}
	if len(n.claims) == 0 {
		idle |= byStorage
	}
	if !slices.ContainsFunc(n.constraints, func(c constraint) bool { return c.hard }) {
		idle |= bySpread
	}
	return idle
}

// named are the nodes of these names that exist.
func (n *Nodes) named(names []string) []*Node {
	var list []*Node
	for _, name := range names {
		if node := n.byName[name]; node != nil && node.exists {
			list = append(list, node)
		}
	}
	return list
}

// feasibleEnough is after how many nodes that fit a search stops: all of up to a hundred, then so many in a hundred, by themselves a share that falls
// from a half to a twentieth as clusters grow.
func feasibleEnough(nodes, percent int) int {
	const least = 100
	if nodes <= least {
		return nodes
	}
	if percent == 0 {
		percent = max(50-nodes/125, 5)
	}
	return max(nodes*percent/100, least)
}

// score fills in the totals, by the weights of the pod's profile.
func score(n *Need, nodes *Nodes, feasible []scored) {
	w := &n.plan.weigh
	brothers := siblingsOf(n, nodes)
	spreads := w.spread != 0 && (brothers != nil || n.wishesSpread())
	var sizes []float64
	if spreads && brothers == nil {
		sizes = n.sizes(feasible)
	}
	neighbours := w.company != 0 && n.across != nil && (!n.plan.profile.InterPod.IgnoreOthers || n.terms != nil && len(n.terms.wishes) > 0)
	var preferMost, unwelcomeMost int64
	for i := range feasible {
		s := &feasible[i]
		if w.fit != 0 {
			s.fit = n.plan.fit(n, s.node)
		}
		if w.balance != 0 {
			s.balance = n.plan.balance(n, s.node)
		}
		if n.preferred != nil {
			s.prefer = n.preferred.Score(s.node.object)
		}
		if n.plan.preferred != nil {
			s.prefer += n.plan.preferred.Score(s.node.object)
		}
		s.unwelcome = unwelcome(n, s.node)
		preferMost, unwelcomeMost = max(preferMost, s.prefer), max(unwelcomeMost, s.unwelcome)
		if w.image != 0 {
			s.image = nodes.pulled(n, s.node)
		}
		if neighbours {
			s.company = company(n, s.node)
		}
		switch {
		case !spreads:
		case brothers != nil:
			s.crowd = brothers.crowd(n, s.node)
		default:
			var counts bool
			s.crowd, counts = crowd(n, s.node, sizes)
			s.uncounted = !counts
		}
	}
	for i := range feasible {
		s := &feasible[i]
		s.total = w.fit*s.fit + w.balance*s.balance + w.image*s.image
		if preferMost > 0 {
			s.total += w.affinity * (scoreMost * s.prefer / preferMost)
		}
		if unwelcomeMost > 0 {
			s.total += w.taints * (scoreMost - scoreMost*s.unwelcome/unwelcomeMost)
		}
	}
	if spreads {
		addSpread(feasible, w.spread)
	}
	if neighbours {
		addCompany(feasible, w.company)
	}
}

// addSpread and addCompany put what was counted of other pods on Kubernetes' scale, from the worst of the nodes to the best.
func addSpread(feasible []scored, weight int64) {
	least, most := int64(math.MaxInt64), int64(0)
	for i := range feasible {
		if !feasible[i].uncounted {
			least, most = min(least, feasible[i].crowd), max(most, feasible[i].crowd)
		}
	}
	for i := range feasible {
		switch s := &feasible[i]; {
		case s.uncounted:
		case most == 0:
			s.total += weight * scoreMost
		default:
			s.total += weight * (scoreMost * (most + least - s.crowd) / most)
		}
	}
}

func addCompany(feasible []scored, weight int64) {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range feasible {
		least, most = min(least, feasible[i].company), max(most, feasible[i].company)
	}
	if least == most {
		return
	}
	for i := range feasible {
		s := &feasible[i]
		s.total += weight * (scoreMost * (s.company - least) / (most - least))
	}
}

// unwelcome is the number of taints that ask pods like this one to stay away, if they can.
func unwelcome(n *Need, node *Node) int64 {
	var count int64
	for i := range node.taints {
		if node.taints[i].Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(n.Pod.Spec.Tolerations, &node.taints[i]) {
			count++
		}
	}
	return count
}

// mix spreads the bits of x (the finalizer of splitmix64): equal nodes take turns, the same way each time.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
