package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// constraint is one of a pod's topologySpreadConstraints (https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/).
type constraint struct {
	key      string
	most     int64 // maxSkew
	domains  int   // minDomains
	hard     bool  // DoNotSchedule
	pods     labels.Selector
	self     int64 // 1 if the pod itself is one of those that are counted
	affinity bool  // nodes that its node affinity leaves out are not counted
	taints   bool  // nor those whose taints it does not tolerate
}

func constraintsOf(pod *corev1.Pod) (list []constraint) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		k := constraint{key: c.TopologyKey, most: int64(c.MaxSkew), domains: 1, hard: c.WhenUnsatisfiable == corev1.DoNotSchedule, pods: selectorOf(c.LabelSelector), affinity: true}
		for _, key := range c.MatchLabelKeys {
			k.pods = also(k.pods, pod, key, metav1.LabelSelectorOpIn)
		}
		if c.MinDomains != nil {
			k.domains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy != nil {
			k.affinity = *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		}
		if c.NodeTaintsPolicy != nil {
			k.taints = *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		}
		if k.pods.Matches(labels.Set(pod.Labels)) {
			k.self = 1
		}
		list = append(list, k)
	}
	return list
}

// spread is how many of the pods that each constraint counts are where.
type spread []measured

type measured struct {
	count map[string]int64 // by the value of the topology's label
	least int64
}

// measure counts for all constraints, on the nodes that each of them takes into account: those with the labels of all constraints of its sort.
func measure(n *Need, nodes *Nodes) spread {
	if len(n.constraints) == 0 {
		return nil
	}
	s := make(spread, len(n.constraints))
	for i := range n.constraints {
		c := &n.constraints[i]
		s[i].count = map[string]int64{}
		for _, node := range nodes.list {
			if !n.counts(c, node) {
				continue
			}
			value := node.object.Labels[c.key]
			s[i].count[value] += similar(c, n.Pod.Namespace, node)
		}
		least := int64(math.MaxInt64)
		for _, count := range s[i].count {
			least = min(least, count)
		}
		if len(s[i].count) < c.domains || len(s[i].count) == 0 {
			least = 0
		}
		s[i].least = least
	}
	return s
}

// counts says whether the constraint takes a node into account.
func (n *Need) counts(c *constraint, node *Node) bool {
	for i := range n.constraints {
		if n.constraints[i].hard != c.hard {
			continue
		}
		if _, has := node.object.Labels[n.constraints[i].key]; !has {
			return false
		}
	}
	return (!c.affinity || wanted(n, node)) && (!c.taints || tolerated(n, node))
}

func similar(c *constraint, namespace string, node *Node) (count int64) {
	for _, m := range node.members {
		if m.key.Namespace == namespace && !m.ending && c.pods.Matches(labels.Set(m.labels)) {
			count++
		}
	}
	return count
}

const (
	reasonSkewed    = "node(s) didn't match pod topology spread constraints"
	reasonUnlabeled = "node(s) didn't match pod topology spread constraints (missing required label)"
)

func even(n *Need, node *Node) bool { return uneven(n, node) == "" }

// uneven is why the pod there would break a constraint; empty if it would not.
func uneven(n *Need, node *Node) string {
	if n.across == nil {
		return ""
	}
	for i := range n.constraints {
		c := &n.constraints[i]
		if !c.hard {
			continue
		}
		value, has := node.object.Labels[c.key]
		if !has {
			return reasonUnlabeled
		}
		if m := n.across.spread[i]; m.count[value]+c.self-m.least > c.most {
			return reasonSkewed
		}
	}
	return ""
}

func whyUneven(n *Need, node *Node) ([]string, bool) {
	reason := uneven(n, node)
	return []string{reason}, reason == reasonUnlabeled
}

// crowd is how many similar pods are near that node, by the constraints that are only wished for; a topology of many values weighs more. False: the node is without
// a label that they need, and is the last to be chosen.
func crowd(n *Need, node *Node) (sum float64, counts bool) {
	for i := range n.constraints {
		c := &n.constraints[i]
		if c.hard {
			continue
		}
		value, has := node.object.Labels[c.key]
		if !has {
			return 0, false
		}
		m := n.across.spread[i]
		sum += float64(m.count[value])*math.Log(float64(len(m.count)+2)) + float64(c.most-1)
	}
	return sum, true
}

// Constraints of pods that have none of their own, as wishes: pods of one controller are spread over zones and over nodes (Kubernetes' defaults, maxSkew 5 and 3).
const (
	zoneSkew = 5
	nodeSkew = 3
)

// siblings counts, for the nodes that fit, the pods of the same controller on each and in its zone. Zones count once every node says which it is in: until then those that
// do would look crowded beside those that do not.
type siblings struct {
	zones map[string]int64
	nodes int
}

func siblingsOf(n *Need, nodes *Nodes) *siblings {
	if n.controller == "" || len(n.constraints) > 0 {
		return nil
	}
	s := &siblings{nodes: len(nodes.list)}
	for _, node := range nodes.list {
		zone, has := node.object.Labels[corev1.LabelTopologyZone]
		if !has {
			s.zones = nil
			break
		}
		if s.zones == nil {
			s.zones = map[string]int64{}
		}
		s.zones[zone] += int64(node.owners[n.controller])
	}
	return s
}

func (s *siblings) crowd(n *Need, node *Node) float64 {
	sum := float64(node.owners[n.controller])*math.Log(float64(s.nodes+2)) + nodeSkew - 1
	if s.zones != nil {
		zone := node.object.Labels[corev1.LabelTopologyZone]
		sum += float64(s.zones[zone])*math.Log(float64(len(s.zones)+2)) + zoneSkew - 1
	}
	return sum
}
