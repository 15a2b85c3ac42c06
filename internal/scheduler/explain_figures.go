package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"sampan.dev/internal/loop"
)

// gaps are the labels that the node would need for the pod's selector, and for that one of its affinity's terms which asks for the fewest more.
func (n *Need) gaps(node *Node) (gaps []Gap) {
	for _, key := range slices.Sorted(maps.Keys(n.Pod.Spec.NodeSelector)) {
		want := n.Pod.Spec.NodeSelector[key]
		if value, has := node.object.Labels[key]; !has || value != want {
			gaps = append(gaps, Gap{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{want}, Has: has, Value: value})
		}
	}
	if added := n.plan.profile.Added; added != nil {
		gaps = append(gaps, nearest(added.RequiredDuringSchedulingIgnoredDuringExecution, node)...)
	}
	if a := n.Pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		gaps = append(gaps, nearest(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, node)...)
	}
	return gaps
}

// nearest are the gaps of that term of a selector which asks for the fewest more.
func nearest(s *corev1.NodeSelector, node *Node) (nearest []Gap) {
	if s == nil {
		return nil
	}
	for i, term := range s.NodeSelectorTerms {
		var of []Gap
		for _, r := range term.MatchExpressions {
			if !matches(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{r}}, node) {
				value, has := node.object.Labels[r.Key]
				of = append(of, Gap{Key: r.Key, Operator: r.Operator, Values: r.Values, Has: has, Value: value})
			}
		}
		for _, r := range term.MatchFields {
			if !matches(corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{r}}, node) {
				of = append(of, Gap{Key: r.Key, Operator: r.Operator, Values: r.Values, Has: true, Value: node.Name, Field: true})
			}
		}
		if i == 0 || less(of, nearest) {
			nearest = of
		}
	}
	return nearest
}

// less says whether one term's gaps are easier to close than another's: a node's name never changes.
func less(a, b []Gap) bool {
	field := func(g Gap) bool { return g.Field }
	if x, y := slices.ContainsFunc(a, field), slices.ContainsFunc(b, field); x != y {
		return y
	}
	return len(a) < len(b)
}

func matches(term corev1.NodeSelectorTerm, node *Node) bool {
	s, err := nodeaffinity.NewNodeSelector(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}})
	return err == nil && s.Match(node.object)
}

func (n *Need) held(node *Node) (held []PortHeld) {
	for _, m := range inOrder(node) {
		for _, p := range n.use.ports {
			if slices.ContainsFunc(m.use.ports, p.collides) {
				held = append(held, PortHeld{Number: p.number, Protocol: p.protocol, Holder: m.key})
			}
		}
	}
	return held
}

// inOrder are the node's pods by name: a map has no order.
func inOrder(node *Node) []*member {
	list := make([]*member, 0, len(node.members))
	for _, m := range node.members {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *member) int { return byKey(a.key, b.key) })
	return list
}

func byKey(a, b loop.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (n *Need) shortages(node *Node) (list []Shortage) {
	promised, pods := node.promisedTo(n)
	if node.pods+pods+1 > node.podsMost {
		list = append(list, Shortage{Resource: corev1.ResourcePods, Asked: 1, All: node.podsMost, Taken: node.pods, Promised: pods})
	}
	check := func(name corev1.ResourceName, of func(*amounts) int64) {
		s := Shortage{Resource: name, Asked: of(&n.use.asked), All: of(&node.allocatable), Taken: of(&node.used), Promised: of(&promised)}
		if s.Asked <= 0 || s.Asked <= s.Free() {
			return
		}
		for _, m := range inOrder(node) {
			if takes := of(&m.use.asked); takes > 0 {
				s.Holders = append(s.Holders, Holding{Pod: m.key, Takes: takes})
			}
		}
		slices.SortStableFunc(s.Holders, func(a, b Holding) int { return cmp.Compare(b.Takes, a.Takes) })
		list = append(list, s)
	}
	check(corev1.ResourceCPU, func(a *amounts) int64 { return a.cpu })
	check(corev1.ResourceMemory, func(a *amounts) int64 { return a.memory })
	check(corev1.ResourceEphemeralStorage, func(a *amounts) int64 { return a.storage })
	var others []corev1.ResourceName
	for name := range n.checked {
		others = append(others, name)
	}
	slices.Sort(others)
	for _, name := range others {
		check(name, func(a *amounts) int64 { return a.extended[name] })
	}
	return list
}

func (n *Need) skews(node *Node) (list []Skew) {
	for i := range n.constraints {
		c := &n.constraints[i]
		if !c.hard {
			continue
		}
		m := n.across.spread[i]
		value, has := node.object.Labels[c.key]
		s := Skew{
			Key: c.key, Value: value, Unlabelled: !has, Pods: c.about(), Here: m.count[value], Least: m.least, Most: int32(c.most),
			Would: m.count[value] + c.self - m.least, Domains: len(m.count), MinDomains: c.domains,
		}
		if has && s.Would <= c.most {
			continue
		}
		for v, count := range m.count {
			if count == m.least {
				s.LeastIn = append(s.LeastIn, v)
			}
		}
		slices.Sort(s.LeastIn)
		list = append(list, s)
	}
	return list
}

// quarrels are all demands on neighbours that do not hold on the node.
func (n *Need) quarrels(node *Node, nodes *Nodes) (list []Neighbour) {
	a := n.across
	if n.terms != nil {
		for i := range n.terms.near {
			t := &n.terms.near[i]
			value, has := node.object.Labels[t.key]
			if has && (a.near[i][value] > 0 || a.alone) {
				continue
			}
			list = append(list, Neighbour{Relation: Misses, Key: t.key, Value: value, Unlabelled: !has, Pods: t.pods.String(), Where: slices.Sorted(maps.Keys(a.near[i]))})
		}
		for i := range n.terms.away {
			t := &n.terms.away[i]
			if value, has := node.object.Labels[t.key]; has && a.away[i][value] > 0 {
				list = append(list, Neighbour{Relation: Avoids, Key: t.key, Value: value, Pods: t.pods.String(), Who: nodes.within(t.key, value, func(m *member) bool {
					return t.selects(m.key.Namespace, m.labels, nodes.Namespaces)
				})})
			}
		}
	}
	shunned := make([]domain, 0, len(a.shunned))
	for d := range a.shunned {
		shunned = append(shunned, d)
	}
	slices.SortFunc(shunned, func(a, b domain) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.value, b.value)) })
	for _, d := range shunned {
		if value, has := node.object.Labels[d.key]; !has || value != d.value {
			continue
		}
		asks := labels.Everything().String()
		who := nodes.within(d.key, d.value, func(m *member) bool {
			if m.terms == nil {
				return false
			}
			i := slices.IndexFunc(m.terms.away, func(t term) bool {
				return t.key == d.key && t.selects(n.Pod.Namespace, n.Pod.Labels, nodes.Namespaces)
			})
			if i >= 0 {
				asks = m.terms.away[i].pods.String()
			}
			return i >= 0
		})
		list = append(list, Neighbour{Relation: Shunned, Key: d.key, Value: d.value, Pods: asks, Who: who})
	}
	return list
}

// within are the pods of one place of a topology that are meant.
func (n *Nodes) within(key, value string, meant func(*member) bool) (who []loop.Key) {
	for _, node := range n.list {
		if v, has := node.object.Labels[key]; !has || v != value {
			continue
		}
		for _, m := range node.members {
			if meant(m) {
				who = append(who, m.key)
			}
		}
	}
	slices.SortFunc(who, byKey)
	return who
}
