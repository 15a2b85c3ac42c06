package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// constraint is one of a pod's topologySpreadConstraints (https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/).
type constraint struct {
	key      string
	most     int64 // maxSkew
	domains  int   // minDomains
	hard     bool  // DoNotSchedule
	pods     labels.Selector
	self     int64     // 1 if the pod itself is one of those that are counted
	owner    types.UID // pods of this controller are counted, and pods says nothing
	lenient  bool      // nodes without the label take part all the same
	affinity bool      // nodes that its node affinity leaves out are not counted
	taints   bool      // nor those whose taints it does not tolerate
}

func constraintsOf(pod *corev1.Pod) []constraint {
	return readConstraints(pod, pod.Spec.TopologySpreadConstraints)
}

func readConstraints(pod *corev1.Pod, from []corev1.TopologySpreadConstraint) (list []constraint) {
	for i := range from {
		c := &from[i]
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
		if n.constraints[i].hard != c.hard || n.constraints[i].lenient {
			continue
		}
		if _, has := node.object.Labels[n.constraints[i].key]; !has {
			return false
		}
	}
	return (!c.affinity || n.selects(node)) && (!c.taints || tolerated(n, node))
}

func similar(c *constraint, namespace string, node *Node) (count int64) {
	if c.owner != "" {
		return int64(node.owners[c.owner])
	}
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

// wishesSpread says whether any constraint is only wished for.
func (n *Need) wishesSpread() bool {
	return slices.ContainsFunc(n.constraints, func(c constraint) bool { return !c.hard })
}

// sizes is what each constraint that is wished for weighs: the more values its topology has among the nodes that fit, the more.
func (n *Need) sizes(feasible []scored) []float64 {
	counting := 0
	values := make([]map[string]struct{}, len(n.constraints))
	for i := range feasible {
		labels := feasible[i].node.object.Labels
		if !n.scores(labels) {
			continue
		}
		counting++
		for k := range n.constraints {
			if c := &n.constraints[k]; !c.hard && c.key != corev1.LabelHostname {
				if values[k] == nil {
					values[k] = map[string]struct{}{}
				}
				values[k][labels[c.key]] = struct{}{}
			}
		}
	}
	weights := make([]float64, len(n.constraints))
	for k := range weights {
		size := len(values[k])
		if n.constraints[k].key == corev1.LabelHostname {
			size = counting
		}
		weights[k] = math.Log(float64(size + 2))
	}
	return weights
}

// scores says whether a node with these labels is scored: one without a label that a wish needs is the last to be chosen.
func (n *Need) scores(labels map[string]string) bool {
	for i := range n.constraints {
		if c := &n.constraints[i]; !c.hard && !c.lenient {
			if _, has := labels[c.key]; !has {
				return false
			}
		}
	}
	return true
}

// crowd is how many similar pods are near that node, by the constraints that are only wished for and what each weighs. False: it is not scored.
func crowd(n *Need, node *Node, weights []float64) (_ int64, counts bool) {
	if !n.scores(node.object.Labels) {
		return 0, false
	}
	sum := 0.0
	for i := range n.constraints {
		c := &n.constraints[i]
		value, has := node.object.Labels[c.key]
		if c.hard || !has {
			continue
		}
		sum += float64(n.across.spread[i].count[value])*weights[i] + float64(c.most-1)
	}
	return int64(math.Round(sum)), true
}

// Constraints of pods that have none of their own, as wishes: pods of one controller are spread over zones and over nodes (Kubernetes' defaults, maxSkew 5 and 3).
const (
	zoneSkew = 5
	nodeSkew = 3
)

// spreadOwner is the controller whose pods are kept apart by default. Upstream asks for the selectors of these kinds; the pods that they select are those they own.
func spreadOwner(pod *corev1.Pod) types.UID {
	c := metav1.GetControllerOfNoCopy(pod)
	if c == nil {
		return ""
	}
	switch c.APIVersion + " " + c.Kind {
	case "apps/v1 ReplicaSet", "apps/v1 StatefulSet", "v1 ReplicationController":
		return c.UID
	}
	return ""
}

// defaultConstraints are those that the profile has for a pod without constraints of its own, if anything says which pods are like it: its controller, or the Services
// that select it. What siblings counts faster is left to that.
func (n *Need) defaultConstraints(services func(namespace string) []labels.Selector) []constraint {
	defaults := &n.plan.profile.Spread
	n.owner = spreadOwner(n.Pod)
	switch {
	case n.plan.reads&bySpread == 0 && n.plan.weigh.spread == 0, defaults.System && n.owner != "", !defaults.System && len(defaults.Constraints) == 0:
		return nil
	}
	var alike labels.Selector
	if n.owner == "" {
		if alike = selectedBy(n.Pod, services); alike == nil {
			return nil
		}
	}
	list := readConstraints(n.Pod, defaults.Constraints)
	if defaults.System {
		list = []constraint{
			{key: corev1.LabelHostname, most: nodeSkew, domains: 1, lenient: true, affinity: true},
			{key: corev1.LabelTopologyZone, most: zoneSkew, domains: 1, lenient: true, affinity: true},
		}
	}
	for i := range list {
		list[i].pods, list[i].owner, list[i].self = alike, n.owner, 1
	}
	return list
}

// selectedBy joins the selectors of all Services that select the pod; nil: none does.
func selectedBy(pod *corev1.Pod, services func(namespace string) []labels.Selector) labels.Selector {
	if services == nil || len(pod.Labels) == 0 {
		return nil
	}
	var all labels.Selector
	for _, s := range services(pod.Namespace) {
		if s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if all == nil {
			all = s
			continue
		}
		requirements, _ := s.Requirements()
		all = all.Add(requirements...)
	}
	return all
}

// about says in words which pods are counted.
func (c *constraint) about() string {
	if c.owner != "" {
		return "its controller"
	}
	return c.pods.String()
}

// siblings counts, for the nodes that fit, the pods of the same controller on each and in its zone. Zones count once every node says which it is in: until then those that
// do would look crowded beside those that do not.
type siblings struct {
	zones            map[string]int64
	perNode, perZone float64 // what a pod on the node, and one in its zone, weighs
}

func siblingsOf(n *Need, nodes *Nodes) *siblings {
	if n.owner == "" || len(n.constraints) > 0 || !n.plan.profile.Spread.System || n.plan.weigh.spread == 0 {
		return nil
	}
	s := &siblings{perNode: math.Log(float64(len(nodes.list) + 2))}
	for _, node := range nodes.list {
		zone, has := node.object.Labels[corev1.LabelTopologyZone]
		if !has {
			s.zones = nil
			break
		}
		if s.zones == nil {
			s.zones = map[string]int64{}
		}
		s.zones[zone] += int64(node.owners[n.owner])
	}
	s.perZone = math.Log(float64(len(s.zones) + 2))
	return s
}

func (s *siblings) crowd(n *Need, node *Node) int64 {
	sum := float64(node.owners[n.owner])*s.perNode + nodeSkew - 1
	if s.zones != nil {
		zone := node.object.Labels[corev1.LabelTopologyZone]
		sum += float64(s.zones[zone])*s.perZone + zoneSkew - 1
	}
	return int64(math.Round(sum))
}
