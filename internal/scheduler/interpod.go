package scheduler

// place of a topology: a label of nodes, and its value.
type domain struct{ key, value string }

// across is what a decision about one pod rests on besides the pod and one node: counted once, before nodes are looked at.
type across struct {
	shunned map[domain]bool // where pods are that must not have this one near
	away    []map[string]int
	near    []map[string]int // by term: in how many places are pods that meet all terms
	alone   bool             // no pod meets all terms near which this one must be, but it does itself
	wishes  map[domain]int64
	spread  spread
}

// survey counts what the pod has to do with others. Pods that ask nothing of their neighbours, in a cluster of such pods, pay nothing for it.
func survey(n *Need, nodes *Nodes) {
	n.across = nil
	if n.terms == nil && len(nodes.demanding) == 0 && len(n.constraints) == 0 {
		return
	}
	a := &across{wishes: map[domain]int64{}}
	pod := n.Pod
	for _, m := range nodes.demanding {
		if !m.node.exists {
			continue
		}
		for i := range m.terms.away {
			t := &m.terms.away[i]
			if value, has := m.node.object.Labels[t.key]; has && t.selects(pod.Namespace, pod.Labels, nodes.Namespaces) {
				if a.shunned == nil {
					a.shunned = map[domain]bool{}
				}
				a.shunned[domain{t.key, value}] = true
			}
		}
		their := func(list []term, weight func(*term) int64) {
			for i := range list {
				t := &list[i]
				if value, has := m.node.object.Labels[t.key]; has && t.selects(pod.Namespace, pod.Labels, nodes.Namespaces) {
					a.wishes[domain{t.key, value}] += weight(t)
				}
			}
		}
		their(m.terms.wishes, func(t *term) int64 { return t.weight })
		if hard := n.plan.profile.InterPod.HardWeight; hard > 0 {
			their(m.terms.near, func(*term) int64 { return hard })
		}
	}
	if n.terms != nil {
		a.ask(n, nodes)
	}
	a.spread = measure(n, nodes)
	n.across = a
}

// ask looks at all pods for those that this one's own terms are about.
func (a *across) ask(n *Need, nodes *Nodes) {
	t := n.terms
	a.away, a.near = make([]map[string]int, len(t.away)), make([]map[string]int, len(t.near))
	met := false
	for _, node := range nodes.list {
		for _, m := range node.members {
			for i := range t.away {
				count(&a.away[i], &t.away[i], node, m, nodes)
			}
			if len(t.near) > 0 && meetsAll(t.near, m.key.Namespace, m.labels, nodes) {
				for i := range t.near {
					if value, has := node.object.Labels[t.near[i].key]; has {
						if met = true; a.near[i] == nil {
							a.near[i] = map[string]int{}
						}
						a.near[i][value]++
					}
				}
			}
			for i := range t.wishes {
				w := &t.wishes[i]
				if value, has := node.object.Labels[w.key]; has && w.selects(m.key.Namespace, m.labels, nodes.Namespaces) {
					a.wishes[domain{w.key, value}] += w.weight
				}
			}
		}
	}
	a.alone = !met && meetsAll(t.near, n.Pod.Namespace, n.Pod.Labels, nodes)
}

func count(in *map[string]int, t *term, node *Node, m *member, nodes *Nodes) {
	if value, has := node.object.Labels[t.key]; has && t.selects(m.key.Namespace, m.labels, nodes.Namespaces) {
		if *in == nil {
			*in = map[string]int{}
		}
		(*in)[value]++
	}
}

func meetsAll(list []term, namespace string, of map[string]string, nodes *Nodes) bool {
	for i := range list {
		if !list[i].selects(namespace, of, nodes.Namespaces) {
			return false
		}
	}
	return true
}

// Kubernetes' reasons, in the order in which they are looked for.
const (
	reasonNear    = "node(s) didn't match pod affinity rules"
	reasonAway    = "node(s) didn't match pod anti-affinity rules"
	reasonShunned = "node(s) didn't satisfy existing pods anti-affinity rules"
)

func neighbourly(n *Need, node *Node) bool { return unneighbourly(n, node) == "" }

// unneighbourly is why the pod cannot be there for who else is, or is not; empty if it can.
func unneighbourly(n *Need, node *Node) string {
	a := n.across
	if a == nil {
		return ""
	}
	if n.terms != nil {
		for i := range n.terms.near {
			value, has := node.object.Labels[n.terms.near[i].key]
			if !has || a.near[i][value] == 0 && !a.alone {
				return reasonNear
			}
		}
		for i := range n.terms.away {
			if value, has := node.object.Labels[n.terms.away[i].key]; has && a.away[i][value] > 0 {
				return reasonAway
			}
		}
	}
	for d := range a.shunned {
		if value, has := node.object.Labels[d.key]; has && value == d.value {
			return reasonShunned
		}
	}
	return ""
}

func whyUnneighbourly(n *Need, node *Node) ([]string, bool) {
	reason := unneighbourly(n, node)
	return []string{reason}, reason == reasonNear // that others go brings nobody near
}

// company is how much the pod's neighbours there are wished for, by it and by them.
func company(n *Need, node *Node) (sum int64) {
	if n.across == nil {
		return 0
	}
	for d, weight := range n.across.wishes {
		if value, has := node.object.Labels[d.key]; has && value == d.value {
			sum += weight
		}
	}
	return sum
}
