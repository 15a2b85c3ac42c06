package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/scheduler/profile"
)

const scoreMost = 100 // what a score is at the most

// fitScore is how much NodeResourcesFit likes a node, by the strategy of a profile.
func fitScore(f *profile.Fit) func(*Need, *Node) int64 {
	switch {
	case f.Strategy == profile.LeastAllocated && evenly(f.Resources, corev1.ResourceCPU, corev1.ResourceMemory):
		return leastAllocated
	case f.Strategy == profile.MostAllocated:
		return func(n *Need, node *Node) int64 {
			return average(n, node, f.Resources, func(used, all int64) int64 { return min(used, all) * scoreMost / all })
		}
	case f.Strategy == profile.RequestedToCapacityRatio:
		return func(n *Need, node *Node) int64 { return byShape(n, node, f) }
	}
	return func(n *Need, node *Node) int64 {
		return average(n, node, f.Resources, func(used, all int64) int64 { return max(0, all-used) * scoreMost / all })
	}
}

// evenly says whether these resources, and no other, count alike.
func evenly(list []profile.Weighted, names ...corev1.ResourceName) bool {
	for i, r := range list {
		if len(list) != len(names) || r.Name != names[i] || r.Weight != list[0].Weight {
			return false
		}
	}
	return len(list) == len(names)
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

// average is a score of each resource that the node has and the pod has to do with, by weight.
func average(n *Need, node *Node, list []profile.Weighted, of func(used, all int64) int64) int64 {
	var sum, weights int64
	for _, r := range list {
		if used, all := n.usedOf(node, r.Name); all > 0 {
			sum += r.Weight * of(used, all)
			weights += r.Weight
		}
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// byShape scores each resource by a broken line from its use. Resources that come to nothing do not count at all.
func byShape(n *Need, node *Node, f *profile.Fit) int64 {
	var sum, weights int64
	for _, r := range f.Resources {
		used, all := n.usedOf(node, r.Name)
		if all <= 0 {
			continue
		}
		use := int64(scoreMost)
		if used <= all {
			use = used * scoreMost / all
		}
		if s := along(f.Shape, use); s > 0 {
			sum += r.Weight * s
			weights += r.Weight
		}
	}
	if weights == 0 {
		return 0
	}
	return int64(math.Round(float64(sum) / float64(weights)))
}

// along is where the line is at a use; its points' scores are tenths of a score.
func along(shape []profile.Point, use int64) int64 {
	const scale = scoreMost / 10
	for i, p := range shape {
		if use > p.Use {
			continue
		}
		if i == 0 {
			return p.Score * scale
		}
		before := shape[i-1]
		return before.Score*scale + (p.Score-before.Score)*scale*(use-before.Use)/(p.Use-before.Use)
	}
	return shape[len(shape)-1].Score * scale
}

// usedOf is what would be used of a resource with the pod there, and what the node has of it. Containers that ask for no CPU or memory are taken to use some. An extended
// resource that the pod does not ask for is none of its business.
func (n *Need) usedOf(node *Node, name corev1.ResourceName) (used, all int64) {
	switch name {
	case corev1.ResourceCPU:
		return node.scored.cpu + n.use.scored.cpu, node.allocatable.cpu
	case corev1.ResourceMemory:
		return node.scored.memory + n.use.scored.memory, node.allocatable.memory
	}
	return n.askedOf(node, name)
}

// askedOf is the same without what is only taken to be used.
func (n *Need) askedOf(node *Node, name corev1.ResourceName) (used, all int64) {
	asked := &n.use.asked
	switch name {
	case corev1.ResourceCPU:
		return node.used.cpu + asked.cpu, node.allocatable.cpu
	case corev1.ResourceMemory:
		return node.used.memory + asked.memory, node.allocatable.memory
	case corev1.ResourceEphemeralStorage:
		return node.used.storage + asked.storage, node.allocatable.storage
	}
	if asked.extended[name] == 0 {
		return 0, 0
	}
	return node.used.extended[name] + asked.extended[name], node.allocatable.extended[name]
}

// balanceScore is how near the used shares of these resources are to each other, in hundredths. A pod that asks for none of them unbalances nothing.
func balanceScore(names []corev1.ResourceName) func(*Need, *Node) int64 {
	if len(names) == 2 && names[0] == corev1.ResourceCPU && names[1] == corev1.ResourceMemory {
		return balanced
	}
	return func(n *Need, node *Node) int64 {
		if !n.asksFor(names) {
			return 0
		}
		var shares [8]float64
		list, sum := shares[:0], 0.0
		for _, name := range names {
			if used, all := n.askedOf(node, name); all > 0 {
				share := min(1, float64(used)/float64(all))
				list, sum = append(list, share), sum+share
			}
		}
		return deviation(list, sum)
	}
}

func (n *Need) asksFor(names []corev1.ResourceName) bool {
	a := &n.use.asked
	for _, name := range names {
		if name == corev1.ResourceCPU && a.cpu > 0 || name == corev1.ResourceMemory && a.memory > 0 || name == corev1.ResourceEphemeralStorage && a.storage > 0 || a.extended[name] > 0 {
			return true
		}
	}
	return false
}

func deviation(shares []float64, sum float64) int64 {
	switch len(shares) {
	case 0, 1:
		return scoreMost
	case 2:
		return int64((1 - math.Abs(shares[0]-shares[1])/2) * scoreMost)
	}
	mean, squares := sum/float64(len(shares)), 0.0
	for _, s := range shares {
		squares += (s - mean) * (s - mean)
	}
	return int64((1 - math.Sqrt(squares/float64(len(shares)))) * scoreMost)
}

// balanced is the same of CPU and memory.
func balanced(n *Need, node *Node) int64 {
	if n.use.asked.cpu == 0 && n.use.asked.memory == 0 {
		return 0
	}
	if node.allocatable.cpu <= 0 || node.allocatable.memory <= 0 {
		return scoreMost
	}
	cpu := min(1, float64(node.used.cpu+n.use.asked.cpu)/float64(node.allocatable.cpu))
	memory := min(1, float64(node.used.memory+n.use.asked.memory)/float64(node.allocatable.memory))
	return int64((1 - max(cpu-memory, memory-cpu)/2) * scoreMost)
}
