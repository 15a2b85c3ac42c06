package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/scheduler"
)

// change is one thing to do for a node to take a pod. Costs say how much it asks of a person: one command first, then the pod, then other pods,
// then what nobody can do at a keyboard.
type change struct {
	text string
	cost int
	size float64 // of two changes of one cost: the share by which the pod would have to ask less
}

const (
	costCordon    = 10
	costLabel     = 12
	costTaint     = 13
	costLess      = 20 // the pod asks for less
	costPort      = 22
	costRoom      = 24 // another pod goes
	costPlace     = 28 // a label that says where a node is
	costNeighbour = 30
	costMachine   = 60 // the node itself is unwell
	costNever     = 100
)

// changesFor is what it takes for the node to let the pod in.
func changesFor(p *corev1.Pod, o scheduler.Opinion) (list []change) {
	for i := range o.Faults {
		f := &o.Faults[i]
		before := len(list)
		for j := range f.Taints {
			if t := &f.Taints[j]; t.Key != corev1.TaintNodeUnschedulable || !o.Cordoned {
				list = append(list, changeTaint(o.Node, t))
			}
		}
		for _, g := range f.Gaps {
			list = append(list, changeLabel(o.Node, g))
		}
		for _, h := range f.Ports {
			list = append(list, change{text: fmt.Sprintf("free host port %d on node %s, held by %s", h.Number, o.Node, keyText(h.Holder)), cost: costPort})
		}
		for _, s := range f.Shortages {
			list = append(list, changeShortage(p, o.Node, s))
		}
		for _, s := range f.Spreads {
			list = append(list, changeSpread(o.Node, s))
		}
		for _, n := range f.Neighbours {
			list = append(list, changeNeighbour(o.Node, n))
		}
		for _, s := range f.Stores {
			list = append(list, changeStore(o.Node, s))
		}
		switch {
		case f.Filter == "NodeUnschedulable":
			list = append(list, change{text: fmt.Sprintf("uncordon node %s (`kubectl uncordon %s`)", o.Node, o.Node), cost: costCordon})
		case len(list) == before && len(f.Taints) == 0:
			list = append(list, change{text: fmt.Sprintf("on node %s, mend what %s says: %s", o.Node, f.Filter, strings.Join(f.Reasons, ", ")), cost: costNever})
		}
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(c change) bool { // two taints may say one thing
		again := seen[c.text]
		seen[c.text] = true
		return again
	})
}

// unwell are taints that a node gets for how it is, and what to do about it.
var unwell = map[string][2]string{
	corev1.TaintNodeUnschedulable:      {"which comes with the cordon", "uncordon node %[1]s (`kubectl uncordon %[1]s`)"},
	corev1.TaintNodeNotReady:           {"since the node is not ready", "get node %[1]s ready again (`sampan why node/%[1]s` says what it lacks)"},
	corev1.TaintNodeUnreachable:        {"since nothing is heard of the node", "bring node %[1]s back (`sampan why node/%[1]s` says since when it is lost)"},
	corev1.TaintNodeMemoryPressure:     {"since the node is short of memory", "free memory on node %[1]s"},
	corev1.TaintNodeDiskPressure:       {"since the node is short of disk space", "free disk space on node %[1]s"},
	corev1.TaintNodePIDPressure:        {"since the node is short of process ids", "end processes on node %[1]s"},
	corev1.TaintNodeNetworkUnavailable: {"since the node's network is not set up", "set up the network of node %[1]s"},
}

func changeTaint(node string, t *corev1.Taint) change {
	if of, is := unwell[t.Key]; is {
		cost := costMachine
		if t.Key == corev1.TaintNodeUnschedulable {
			cost = costCordon
		}
		return change{text: fmt.Sprintf(of[1], node), cost: cost}
	}
	return change{text: fmt.Sprintf("remove taint %s from node %s (`kubectl taint node %s %s-`), or tolerate it", taintText(t), node, node, taintText(t)), cost: costTaint}
}

// given are labels that say what a node is, and are not for people to change.
func given(key string) bool {
	return key == corev1.LabelHostname || key == corev1.LabelOSStable || key == corev1.LabelArchStable
}

func changeLabel(node string, g scheduler.Gap) change {
	if g.Field || given(g.Key) {
		return change{text: fmt.Sprintf("let the pod's node selector or affinity allow node %s, whose %s is %s", node, g.Key, orNothing(g.Value)), cost: costNever}
	}
	c := change{cost: costLabel}
	set := func(value string) {
		c.text = fmt.Sprintf("label node %s %s=%s (`kubectl label node %s %s=%s`)", node, g.Key, value, node, g.Key, value)
		if g.Has {
			c.text = strings.TrimSuffix(c.text, "`)") + " --overwrite`)"
		}
	}
	switch {
	case g.Operator == corev1.NodeSelectorOpIn && len(g.Values) > 0:
		set(g.Values[0])
	case g.Operator == corev1.NodeSelectorOpExists:
		set("VALUE")
	case g.Operator == corev1.NodeSelectorOpNotIn || g.Operator == corev1.NodeSelectorOpDoesNotExist:
		c.text = fmt.Sprintf("take label %s off node %s (`kubectl label node %s %s-`)", g.Key, node, node, g.Key)
	default:
		c.text = fmt.Sprintf("give label %s of node %s a value of %s", g.Key, node, asked(g))
	}
	return c
}

// asked is what a pod asks for, of a gap's label: "more than 5".
func asked(g scheduler.Gap) string {
	switch g.Operator {
	case corev1.NodeSelectorOpIn:
		return strings.Join(g.Values, " or ")
	case corev1.NodeSelectorOpNotIn:
		return "anything but " + strings.Join(g.Values, " or ")
	case corev1.NodeSelectorOpGt:
		return "more than " + strings.Join(g.Values, "")
	case corev1.NodeSelectorOpLt:
		return "less than " + strings.Join(g.Values, "")
	case corev1.NodeSelectorOpDoesNotExist:
		return "nodes without it"
	}
	return "it"
}

func changeShortage(p *corev1.Pod, node string, s scheduler.Shortage) change {
	if s.Resource == corev1.ResourcePods {
		return change{text: fmt.Sprintf("move a pod away from node %s, which has %d and takes no more than %d", node, s.Taken+s.Promised, s.All), cost: costRoom}
	}
	noun, lacks := nounOf(s.Resource), s.Asked-max(s.Free(), 0)
	largest := ""
	if len(s.Holders) > 0 {
		largest = fmt.Sprintf(" (%s asks for %s)", keyText(s.Holders[0].Pod), amount(s.Resource, s.Holders[0].Takes, false))
	}
	switch {
	case s.Free() <= 0 && s.All <= 0:
		return change{text: fmt.Sprintf("give node %s %s of %s: it has none (the pod asks for %s)", node, amount(s.Resource, s.Asked, true), noun, amount(s.Resource, s.Asked, true)), cost: costMachine}
	case s.Free() <= 0:
		return change{text: fmt.Sprintf("make room for %s %s on node %s, where %s%s", amount(s.Resource, s.Asked, true), noun, node, free(s), largest), cost: costRoom, size: 1}
	}
	c := change{cost: costLess, size: float64(lacks) / float64(s.Asked)}
	c.text = fmt.Sprintf("ask for %s less %s: node %s has %s of %s %s free (now %s asks %s)", amount(s.Resource, lacks, true), noun, node,
		amount(s.Resource, s.Free(), false), amount(s.Resource, s.All, false), noun, p.Name, amount(s.Resource, s.Asked, true))
	if s.Asked <= s.All && largest != "" {
		c.text += fmt.Sprintf(", or free as much there%s", largest)
	}
	return c
}

func changeSpread(node string, s scheduler.Skew) change {
	if s.Unlabelled {
		return change{text: fmt.Sprintf("label node %s %s=VALUE, by which the pods are spread", node, s.Key), cost: costPlace}
	}
	text := fmt.Sprintf("allow a skew of %d over %s (maxSkew is %d; or whenUnsatisfiable: ScheduleAnyway)", s.Would, s.Key, s.Most)
	switch {
	case s.Domains < s.MinDomains:
		text += fmt.Sprintf(", or add nodes in %s, of which minDomains counts %d and there are %d", count(s.MinDomains-s.Domains, "further value")+" of "+s.Key, s.MinDomains, s.Domains)
	case len(s.LeastIn) > 0 && !slices.Contains(s.LeastIn, s.Value):
		text += fmt.Sprintf(", or make room in %s, which has the fewest", some(s.LeastIn))
	}
	return change{text: text, cost: costNeighbour}
}

func changeNeighbour(node string, n scheduler.Neighbour) change {
	place := placeText(n.Key, n.Value)
	switch {
	case n.Relation == scheduler.Misses && n.Unlabelled:
		return change{text: fmt.Sprintf("label node %s %s=VALUE, by which the pod looks for its neighbours", node, n.Key), cost: costPlace}
	case n.Relation == scheduler.Misses:
		return change{text: fmt.Sprintf("have a pod that matches %s in %s", n.Pods, place), cost: costNeighbour}
	}
	further := "add a node outside " + place
	if n.Key == corev1.LabelHostname {
		further = "add a node"
	}
	return change{text: fmt.Sprintf("%s, or move %s away from %s", further, some(keyTexts(n.Who)), place), cost: costNeighbour}
}

// placeText is a place of a topology.
func placeText(key, value string) string {
	if key == corev1.LabelHostname {
		return "node " + value
	}
	return key + "=" + value
}

func orNothing(s string) string {
	if s == "" {
		return "not set"
	}
	return s
}
