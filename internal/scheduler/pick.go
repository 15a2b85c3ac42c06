package scheduler

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	key         loop.Key
	priority    int32
	terms       *terms       // what it asks of its neighbours; nil: nothing
	constraints []constraint // of its spread
	controller  types.UID
	across      *across // what survey has counted for the attempt under way; nil: there is nothing to count
}

// NeedOf works out what the pod asks for.
func NeedOf(pod *corev1.Pod) *Need {
	n := &Need{Pod: pod, use: useOf(pod), required: nodeaffinity.GetRequiredNodeAffinity(pod), terms: termsOf(pod), constraints: constraintsOf(pod), key: keyOf(pod)}
	if pod.Spec.Priority != nil {
		n.priority = *pod.Spec.Priority
	}
	if c := metav1.GetControllerOfNoCopy(pod); c != nil {
		n.controller = c.UID
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			n.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(terms) // what does not parse prefers nothing; validation refuses it
		}
		n.names = onlyNames(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(pod.Namespace + "/" + pod.Name))
	n.hash = h.Sum64()
	return n
}

// onlyNames are the nodes that a selector leaves if each of its terms asks for metadata.name, as DaemonSets' pods do.
func onlyNames(selector *corev1.NodeSelector) []string {
	if selector == nil || len(selector.NodeSelectorTerms) == 0 {
		return nil
	}
	var names []string
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
	node                   *Node
	fit, balance, prefer   int64
	unwelcome, total, luck int64
	image, company         int64
	crowd                  float64
	uncounted              bool // it is without a label that the pod would be spread by
}

// Weights of the scores, Kubernetes' own.
const (
	weightTaints   = 3
	weightAffinity = 2
	weightSpread   = 2
	weightCompany  = 2
	scoreMost      = 100
)

// Pick chooses the node that the pod should run on, or says why there is none. It does no I/O and reads no clock, and
// for the same arguments its answer is the same, but that a search among more than a hundred nodes stops once it has
// seen enough that fit, and the next one begins where it stopped.
func Pick(n *Need, nodes *Nodes) (*Node, *Refusal) {
	survey(n, nodes)
	candidates, enough := nodes.list, feasibleEnough(len(nodes.list))
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
	return slices.MaxFunc(feasible, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.total, b.total), cmp.Compare(a.luck, b.luck), cmp.Compare(b.node.Name, a.node.Name))
	}).node, nil
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

// feasibleEnough is after how many nodes that fit a search stops: all of up to a hundred, then a share that falls
// from a half to a twentieth as clusters grow.
func feasibleEnough(nodes int) int {
	const least = 100
	if nodes <= least {
		return nodes
	}
	percent := max(50-nodes/125, 5)
	return max(nodes*percent/100, least)
}

// score fills in the totals.
func score(n *Need, nodes *Nodes, feasible []scored) {
	brothers := siblingsOf(n, nodes)
	var preferMost, unwelcomeMost int64
	for i := range feasible {
		s := &feasible[i]
		s.fit = leastAllocated(n, s.node)
		s.balance = balanced(n, s.node)
		if n.preferred != nil {
			s.prefer = n.preferred.Score(s.node.object)
		}
		s.unwelcome = unwelcome(n, s.node)
		preferMost, unwelcomeMost = max(preferMost, s.prefer), max(unwelcomeMost, s.unwelcome)
		s.image = nodes.pulled(n, s.node)
		s.company = company(n, s.node)
		switch {
		case brothers != nil:
			s.crowd = brothers.crowd(n, s.node)
		case n.across != nil:
			var counts bool
			s.crowd, counts = crowd(n, s.node)
			s.uncounted = !counts
		}
		s.luck = int64(mix(n.hash^s.node.hash) >> 1)
	}
	for i := range feasible {
		s := &feasible[i]
		s.total = s.fit + s.balance + s.image
		if preferMost > 0 {
			s.total += weightAffinity * (scoreMost * s.prefer / preferMost)
		}
		if unwelcomeMost > 0 {
			s.total += weightTaints * (scoreMost - scoreMost*s.unwelcome/unwelcomeMost)
		}
	}
	addSpread(feasible)
	addCompany(feasible)
}

// addSpread and addCompany put what was counted of other pods on Kubernetes' scale, from the worst of the nodes to the best.
func addSpread(feasible []scored) {
	least, most := math.Inf(1), 0.0
	for i := range feasible {
		if !feasible[i].uncounted {
			least, most = min(least, feasible[i].crowd), max(most, feasible[i].crowd)
		}
	}
	for i := range feasible {
		switch s := &feasible[i]; {
		case s.uncounted:
		case most == 0:
			s.total += weightSpread * scoreMost
		default:
			s.total += weightSpread * int64(scoreMost*(most+least-s.crowd)/most)
		}
	}
}

func addCompany(feasible []scored) {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range feasible {
		least, most = min(least, feasible[i].company), max(most, feasible[i].company)
	}
	if least == most {
		return
	}
	for i := range feasible {
		s := &feasible[i]
		s.total += weightCompany * (scoreMost * (s.company - least) / (most - least))
	}
}

// leastAllocated is the share of CPU and memory that stays free, in hundredths.
func leastAllocated(n *Need, node *Node) int64 {
	var sum, count int64
	each := func(all, used int64) {
		if all <= 0 {
			return
		}
		count++
		if used <= all {
			sum += (all - used) * scoreMost / all
		}
	}
	each(node.allocatable.cpu, node.scored.cpu+n.use.scored.cpu)
	each(node.allocatable.memory, node.scored.memory+n.use.scored.memory)
	if count == 0 {
		return 0
	}
	return sum / count
}

// balanced is how near the used shares of CPU and memory are to each other, in hundredths. A pod that asks for
// nothing unbalances nothing.
func balanced(n *Need, node *Node) int64 {
	if n.use.asked.nothing() || node.allocatable.cpu <= 0 || node.allocatable.memory <= 0 {
		return 0
	}
	cpu := min(1, float64(node.used.cpu+n.use.asked.cpu)/float64(node.allocatable.cpu))
	memory := min(1, float64(node.used.memory+n.use.asked.memory)/float64(node.allocatable.memory))
	return int64((1 - max(cpu-memory, memory-cpu)/2) * scoreMost)
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
