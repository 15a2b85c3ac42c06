package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Refusal says why no node will do. Its Error is Kubernetes' sentence.
type Refusal struct {
	Nodes    int       // looked at
	Verdicts []Verdict // one a node that was looked at; those that affinity by name leaves out are not here

	why    string  // whatever the node, in Kubernetes' words; empty: Verdicts say it
	failed Filters // all that refused a node; none if there is no node
	never  bool    // the pod does not push out others
	fixed  bool    // nor does any of its profile

	hopeless map[string][]string // by node: why nobody's going would help
	waits    bool                // it waits for those that go for its sake
	made     bool                // room is being made
}

// Verdict is why one node will not do.
type Verdict struct {
	Node    string
	Filter  string // that refused it, as Kubernetes calls the plugin
	Reasons []string
	Final   bool // no pod's going would help
}

// refuse asks the filters again, for their reasons. It is done only for pods that fit nowhere.
func refuse(n *Need, nodes *Nodes, candidates []*Node) *Refusal {
	r := &Refusal{Nodes: nodes.Len()}
	r.never = n.Pod.Spec.PreemptionPolicy != nil && *n.Pod.Spec.PreemptionPolicy == corev1.PreemptNever
	r.fixed = !n.plan.profile.Preempts
	if n.stowage != nil && n.stowage.why != "" {
		r.why, r.failed = n.stowage.why, n.stowage.by
		return r
	}
	if n.names != nil && len(n.names) == 0 {
		r.why, r.failed = "pod affinity terms conflict", byAffinity
		return r
	}
	for _, node := range candidates {
		f := refusing(n, node)
		if f == nil {
			continue
		}
		reasons, final := f.why(n, node)
		r.failed |= f.bit
		r.Verdicts = append(r.Verdicts, Verdict{Node: node.Name, Filter: f.name, Reasons: reasons, Final: final})
	}
	if len(candidates) < nodes.Len() {
		r.failed |= byAffinity
	}
	return r
}

// final says whether nobody's going would let the pod onto the node.
func (r *Refusal) final(node string) bool {
	i := slices.IndexFunc(r.Verdicts, func(v Verdict) bool { return v.Node == node })
	return i < 0 || r.Verdicts[i].Final
}

func (r *Refusal) Error() string {
	if r.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	counts := map[string]int{}
	for _, v := range r.Verdicts {
		for _, reason := range v.Reasons {
			counts[reason]++
		}
	}
	if absent := r.Nodes - len(r.Verdicts); absent > 0 {
		counts["node(s) didn't satisfy plugin(s) [NodeAffinity]"] += absent
	}
	sentence := fmt.Sprintf("0/%d nodes are available: %s.", r.Nodes, cmp.Or(r.why, tally(counts)))
	if r.made || r.fixed {
		return sentence
	}
	if r.waits {
		return sentence + " preemption: not eligible due to a terminating pod on the nominated node."
	}
	if r.never {
		return sentence + " preemption: not eligible due to preemptionPolicy=Never."
	}
	return sentence + fmt.Sprintf(" preemption: 0/%d nodes are available: %s.", r.Nodes, tally(r.preemption()))
}

// preemption counts what pushing out pods of lower priority would come to.
func (r *Refusal) preemption() map[string]int {
	counts, rest := map[string]int{}, r.Nodes
	for _, v := range r.Verdicts {
		if v.Final {
			continue
		}
		rest--
		why := r.hopeless[v.Node]
		if len(why) == 0 {
			why = []string{noVictims}
		}
		for _, reason := range why {
			counts[reason]++
		}
	}
	if rest > 0 {
		counts["Preemption is not helpful for scheduling"] = rest
	}
	return counts
}

// tally is "1 reason, 2 other reason", in the order of the words.
func tally(counts map[string]int) string {
	var parts []string
	for reason, count := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
