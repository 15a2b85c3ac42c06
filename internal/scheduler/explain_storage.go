package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// Stored is what stands between a claim of the pod and one node.
type Stored struct {
	Claim  string
	Volume string     // that it has; empty: none yet
	Reach  string     // nodes that reach that volume, as a selector, or where its labels say that it is
	Gone   bool       // the volume is not there
	Found  []string   // volumes that would do, which other nodes reach
	Users  []loop.Key // pods that have the claim, which nobody else may use meanwhile
}

// stores are the claims that a filter of storage refuses the node for.
func (n *Need) stores(by Filters, node *Node, nodes *Nodes) (list []Stored) {
	s := n.stowage
	if s == nil {
		return nil
	}
	switch by {
	case byAlone:
		for _, key := range s.alone {
			if who := nodes.usersOf(key); len(who) > 0 {
				list = append(list, Stored{Claim: key.Name, Users: who})
			}
		}
	case byVolumes:
		for _, c := range n.claims {
			o := nodes.shelf.source.Claim(c.key)
			if o == nil || !claim.IsBound(o) {
				continue
			}
			switch v := nodes.shelf.source.Volume(o.Spec.VolumeName); {
			case v == nil:
				list = append(list, Stored{Claim: o.Name, Volume: o.Spec.VolumeName, Gone: true})
			case !newStored(v).reaches(node):
				list = append(list, Stored{Claim: o.Name, Volume: v.Name, Reach: reach(v)})
			}
		}
		if _, ok := s.choose(node); !ok {
			list = append(list, s.without(node)...)
		}
	case byZone:
		for _, z := range s.zones {
			if !z.has(node) {
				list = append(list, Stored{Volume: z.volume, Reach: fmt.Sprintf("%s in (%s)", z.label, strings.Join(z.values, ","))})
			}
		}
	default:
	}
	return list
}

// without are the claims that get no volume on the node: the first one that is refused, and those that come after it.
func (s *stowage) without(node *Node) (list []Stored) {
	var taken []*stored
	for _, w := range s.wanting {
		if o := w.on(node, taken); o != nil {
			taken = append(taken, o)
			continue
		}
		if w.provisioned(node) {
			continue
		}
		list = append(list, Stored{Claim: w.claim.Name, Found: w.found()})
	}
	return list
}

// reach is a volume's node affinity as a selector.
func reach(v *corev1.PersistentVolume) string {
	var terms []string
	for _, t := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
		var parts []string
		for _, r := range slices.Concat(t.MatchExpressions, t.MatchFields) {
			switch r.Operator {
			case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
				parts = append(parts, fmt.Sprintf("%s %s (%s)", r.Key, strings.ToLower(string(r.Operator)), strings.Join(r.Values, ",")))
			default:
				parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Key, r.Operator, strings.Join(r.Values, ","))))
			}
		}
		terms = append(terms, strings.Join(parts, ", "))
	}
	return strings.Join(terms, "; or ")
}

// usersOf are the pods with a node that use a claim.
func (n *Nodes) usersOf(key loop.Key) (who []loop.Key) {
	for _, node := range n.byName {
		for _, m := range node.members {
			if slices.ContainsFunc(m.claims, func(c usedClaim) bool { return c.key == key }) {
				who = append(who, m.key)
			}
		}
	}
	slices.SortFunc(who, byKey)
	return who
}

// Why is what holds whatever the node, in Kubernetes' words; empty: it is a matter of the nodes.
func (r *Refusal) Why() string { return r.why }
