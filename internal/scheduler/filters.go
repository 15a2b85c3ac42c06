package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Filters is a set of filters: which ones refused a pod, and which ones a change may have eased.
type Filters uint16

const (
	byCordon Filters = 1 << iota
	byName
	byTaints
	byAffinity
	byPorts
	byResources
	bySpread
	byNeighbours
	byAlone
	byVolumes
	byZone

	byStorage   = byAlone | byVolumes | byZone
	everyFilter = byCordon | byName | byTaints | byAffinity | byPorts | byResources | bySpread | byNeighbours | byStorage
)

// filter decides whether a node will do for a pod. It looks at this pod and this node alone, and for the last two (topology spread, inter-pod affinity)
// at what survey has counted of all others.
type filter struct {
	bit  Filters
	name string // as Kubernetes calls the plugin
	fits func(*Need, *Node) bool
	// why says what is missing, if it does not fit. final: no pod's going could help.
	why func(*Need, *Node) (reasons []string, final bool)
}

// filters in Kubernetes' order: a node is refused by the first that it fails, and for its reasons alone.
var filters = [...]filter{
	{byCordon, "NodeUnschedulable", uncordoned, finally("node(s) were unschedulable")},
	{byName, "NodeName", named, finally("node(s) didn't match the requested node name")},
	{byTaints, "TaintToleration", tolerated, finally("node(s) had untolerated taint(s)")}, // which are not named: who reads a pod need not know
	{byAffinity, "NodeAffinity", wanted, whyNotWanted},
	{byPorts, "NodePorts", portsFree, func(*Need, *Node) ([]string, bool) {
		return []string{"node(s) didn't have free ports for the requested pod ports"}, false
	}},
	{byResources, "NodeResourcesFit", enough, whyNotEnough},
	{byAlone, "VolumeRestrictions", unused, whyUsed},
	{byVolumes, "VolumeBinding", volumesFit, whyVolumesDoNotFit},
	{byZone, "VolumeZone", inZone, finally("node(s) had no available volume zone")},
	{bySpread, "PodTopologySpread", even, whyUneven},
	{byNeighbours, "InterPodAffinity", neighbourly, whyUnneighbourly},
}

func finally(reason string) func(*Need, *Node) ([]string, bool) {
	reasons := []string{reason}
	return func(*Need, *Node) ([]string, bool) { return reasons, true }
}

// fits reports whether the node passes all filters of the pod's profile.
func fits(n *Need, node *Node) bool {
	for i := range n.plan.filters {
		if f := &n.plan.filters[i]; f.bit&n.idle == 0 && !f.fits(n, node) {
			return false
		}
	}
	return true
}

// refusing is the first filter that the node does not pass; nil if it passes all.
func refusing(n *Need, node *Node) *filter {
	for i := range n.plan.filters {
		if f := &n.plan.filters[i]; f.bit&n.idle == 0 && !f.fits(n, node) {
			return f
		}
	}
	return nil
}

func uncordoned(n *Need, node *Node) bool {
	if !node.cordoned {
		return true
	}
	return tolerates(n.Pod.Spec.Tolerations, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
}

func named(n *Need, node *Node) bool {
	return n.Pod.Spec.NodeName == "" || n.Pod.Spec.NodeName == node.Name
}

func tolerated(n *Need, node *Node) bool {
	for i := range node.taints {
		taint := &node.taints[i]
		if taint.Effect != corev1.TaintEffectNoSchedule && taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if !tolerates(n.Pod.Spec.Tolerations, taint) {
			return false
		}
	}
	return true
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(klog.Background(), taint, true) {
			return true
		}
	}
	return false
}

var (
	notEnforced = finally("node(s) didn't match scheduler-enforced node affinity")
	notWanted   = finally("node(s) didn't match Pod's node affinity/selector")
)

func whyNotWanted(n *Need, node *Node) ([]string, bool) {
	if n.plan.added != nil && !n.plan.added.Match(node.object) {
		return notEnforced(n, node)
	}
	return notWanted(n, node)
}

func wanted(n *Need, node *Node) bool {
	if n.plan.added != nil && !n.plan.added.Match(node.object) {
		return false
	}
	return n.selects(node)
}

// selects says whether the node is one that the pod itself asks for.
func (n *Need) selects(node *Node) bool {
	match, err := n.required.Match(node.object)
	return err == nil && match
}

func portsFree(n *Need, node *Node) bool {
	for _, p := range n.use.ports {
		if slices.ContainsFunc(node.ports, p.collides) {
			return false
		}
	}
	return true
}

func enough(n *Need, node *Node) bool {
	taken, pods := node.used, node.pods
	if len(node.promises) > 0 {
		taken, pods = node.takenFor(n)
	}
	if pods+1 > node.podsMost {
		return false
	}
	asked, free := &n.use.asked, &node.allocatable
	if asked.cpu > 0 && asked.cpu > free.cpu-taken.cpu ||
		asked.memory > 0 && asked.memory > free.memory-taken.memory ||
		asked.storage > 0 && asked.storage > free.storage-taken.storage {
		return false
	}
	if len(n.checked) == 0 {
		return true
	}
	for name, q := range n.checked {
		if q > 0 && q > free.extended[name]-taken.extended[name] {
			return false
		}
	}
	return true
}

// takenFor is what of the node is taken or promised, as this pod has to see it.
func (node *Node) takenFor(n *Need) (amounts, int64) {
	promised, pods := node.promisedTo(n)
	return promised.plus(node.used, 1), node.pods + pods
}

func whyNotEnough(n *Need, node *Node) (reasons []string, final bool) {
	taken, pods := node.takenFor(n)
	if pods+1 > node.podsMost {
		reasons = append(reasons, "Too many pods")
	}
	check := func(name corev1.ResourceName, asked, all, used int64) {
		if asked > 0 && asked > all-used {
			reasons = append(reasons, "Insufficient "+string(name))
			final = final || asked > all
		}
	}
	asked, all, used := &n.use.asked, &node.allocatable, &taken
	check(corev1.ResourceCPU, asked.cpu, all.cpu, used.cpu)
	check(corev1.ResourceMemory, asked.memory, all.memory, used.memory)
	check(corev1.ResourceEphemeralStorage, asked.storage, all.storage, used.storage)
	for name, q := range n.checked {
		check(name, q, all.extended[name], used.extended[name])
	}
	return reasons, final
}
