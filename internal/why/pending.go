package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/scheduler"
)

// tableMost is how many nodes a table names; what the others say is counted.
const tableMost = 20

// pending explains a pod that has no node.
func (l *look) pending(p *corev1.Pod) state {
	if gates := p.Spec.SchedulingGates; len(gates) > 0 {
		names := make([]string, len(gates))
		for i, g := range gates {
			names[i] = g.Name
		}
		s := ill("is Pending: it is held by %s", count(len(gates), "scheduling gate"))
		s.because("the scheduler does not look at it before spec.schedulingGates is empty; now it has %s", strings.Join(names, ", "))
		s.advise("To let it in: whoever set %s has to remove %s, such as with %s", some(names), itOrThem(len(names)),
			kubectl(p.Namespace, "patch pod "+p.Name+` --type=json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'`))
		return s
	}
	said := conditionOf(p, corev1.PodScheduled)
	need := l.profiles().Need(p)
	if name := p.Spec.SchedulerName; need == nil && said == nil {
		s := ill("is Pending: it waits for the scheduler %q", name)
		s.because("no scheduler of that name runs here: nobody has looked at the pod since it was created %s", l.ago(p.CreationTimestamp.Time))
		s.advise("To let it in: create it without spec.schedulerName, for %s to take it, or start a scheduler of the name %s", scheduler.Name, name)
		return s
	}
	if s, going := l.roomIsMade(p); going {
		return s
	}
	if need == nil {
		s := ill("is Pending: the scheduler %q has found no node for it", p.Spec.SchedulerName)
		s.because("%s", oneLine(said.Message))
		s.advise("It is for that scheduler, which is not part of this cluster's servers, to try again")
		return s
	}
	e := scheduler.Explain(need, l.stocked(p), l.budgets)
	sentence := ""
	if said != nil && said.Reason == corev1.PodReasonSchedulerError {
		s := ill("is Pending: the scheduler could not give it its node")
		s.because("%s", oneLine(said.Message))
		s.advise("It is tried again by itself")
		return s
	}
	if said != nil && said.Reason == corev1.PodReasonUnschedulable {
		sentence = said.Message
	}
	if e.Refusal == nil {
		return l.fitsByNow(p, e, sentence)
	}
	s := ill("is Pending: no node takes it")
	if sentence == "" {
		sentence = e.Refusal.Error()
	}
	if e.Refusal.Why() != "" {
		l.unstored(&s, p, sentence)
		return s
	}
	s.because("%s", sentence)
	if len(e.Nodes) == 0 {
		s.Causes[0].because("the cluster has no nodes")
		s.advise("To let it in: add a machine with `sampan agent`, or nodes to try with by `sampan simulate`")
		return s
	}
	nearest := byEffort(p, e.Nodes)
	s.Table, s.More = tableOf(nearest)
	s.advise("To let it in: %s", nearest[0].text())
	return s
}

func itOrThem(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

// fitsByNow is said of a pod that a node would take.
func (l *look) fitsByNow(p *corev1.Pod, e *scheduler.Explanation, sentence string) state {
	var names []string
	for _, o := range e.Nodes {
		if len(o.Faults) == 0 {
			names = append(names, o.Node)
		}
	}
	s := ill("is Pending: the scheduler has not come to it yet")
	s.because("%s would take it now", some(names))
	if sentence != "" {
		s.Causes[0].because("when it was last tried: %s", sentence)
	}
	s.advise("It is tried again by itself, within 10 s after a change that lets it in")
	return s
}

// roomIsMade explains a pod that waits for others to go.
func (l *look) roomIsMade(p *corev1.Pod) (state, bool) {
	node := p.Status.NominatedNodeName
	if node == "" {
		return state{}, false
	}
	var going []*corev1.Pod
	for _, o := range all[*corev1.Pod](l, "pods", "") {
		if o.Spec.NodeName == node && o.DeletionTimestamp != nil && priorityOf(o) < priorityOf(p) {
			going = append(going, o)
		}
	}
	if len(going) == 0 {
		return state{}, false
	}
	s := ill("is Pending: room is being made for it on node %s", node)
	for _, o := range going {
		c := s.because("pod %s/%s has to go, whose priority is %d (that of %s: %d)", o.Namespace, o.Name, priorityOf(o), p.Name, priorityOf(p))
		c.Causes = append(c.Causes, l.ending(o).Causes...)
	}
	s.advise("Nothing is to be done: it goes there once they are gone")
	return s, true
}

func priorityOf(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// snapshot is the cluster as a scheduler sees it.
func (l *look) snapshot() *scheduler.Nodes {
	if l.nodes == nil {
		namespaces := map[string]map[string]string{}
		for _, ns := range all[*corev1.Namespace](l, "namespaces", "") {
			namespaces[ns.Name] = ns.Labels
		}
		l.nodes = scheduler.Snapshot(all[*corev1.Node](l, "nodes", ""), all[*corev1.Pod](l, "pods", ""), func(name string) map[string]string { return namespaces[name] })
	}
	return l.nodes
}

// profiles are those that the scheduler has.
func (l *look) profiles() *scheduler.Plans {
	if l.plans == nil {
		l.plans = scheduler.NewPlans(l.w.Scheduling())
		l.plans.Services = func(namespace string) (list []labels.Selector) {
			for _, s := range all[*corev1.Service](l, "services", namespace) {
				if len(s.Spec.Selector) > 0 {
					list = append(list, labels.SelectorFromSet(s.Spec.Selector))
				}
			}
			return list
		}
	}
	return l.plans
}

func (l *look) budgets(namespace string) (list []scheduler.Budget) {
	for _, b := range all[*policyv1.PodDisruptionBudget](l, "poddisruptionbudgets", namespace) {
		pods, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			pods = labels.Nothing()
		}
		list = append(list, scheduler.Budget{Pods: pods, Allowed: b.Status.DisruptionsAllowed, Going: b.Status.DisruptedPods})
	}
	return list
}

// effort is what it takes for one node to let the pod in.
type effort struct {
	scheduler.Opinion
	changes []change
}

func (e *effort) text() string {
	texts := make([]string, len(e.changes))
	for i, c := range e.changes {
		texts[i] = c.text
	}
	return strings.Join(texts, "; and ")
}

// byEffort puts the nodes first that need the fewest and smallest changes.
func byEffort(p *corev1.Pod, nodes []scheduler.Opinion) []effort {
	list := make([]effort, len(nodes))
	for i, o := range nodes {
		list[i] = effort{Opinion: o, changes: changesFor(p, o)}
	}
	sum := func(e effort) (cost, size float64) {
		for _, c := range e.changes {
			cost += float64(c.cost)
			size += c.size
		}
		return cost, size
	}
	slices.SortFunc(list, func(a, b effort) int {
		costA, sizeA := sum(a)
		costB, sizeB := sum(b)
		return cmp.Or(cmp.Compare(costA, costB), cmp.Compare(sizeA, sizeB), cmp.Compare(a.Node, b.Node))
	})
	return list
}

// tableOf has a row for each filter that each of the first nodes fails; the others are counted by what they say in Kubernetes' words.
func tableOf(nodes []effort) (rows []Row, more []string) {
	for _, o := range nodes[:min(len(nodes), tableMost)] {
		for i := range o.Faults {
			rows = append(rows, Row{Node: o.Node, Filter: o.Faults[i].Filter, Why: whyText(o.Node, &o.Faults[i])})
		}
	}
	counts := map[string]int{}
	for _, o := range nodes[min(len(nodes), tableMost):] {
		var says []string
		for _, f := range o.Faults {
			reasons := make([]string, len(f.Reasons))
			for i, r := range f.Reasons {
				reasons[i] = strings.TrimPrefix(r, "node(s) ")
			}
			says = append(says, f.Filter+" ("+strings.Join(reasons, ", ")+")")
		}
		counts[strings.Join(says, ", ")]++
	}
	for _, says := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	}) {
		more = append(more, fmt.Sprintf("and %s: %s", count(counts[says], "more node"), says))
	}
	return rows, more
}

// elsewhere explains why a DaemonSet is meant for no node, as if its template were a pod to be scheduled.
func (l *look) elsewhere(s *state, template *corev1.Pod, nodes int) {
	if nodes == 0 {
		s.because("the cluster has no nodes")
		return
	}
	need := l.profiles().Need(template)
	if need == nil {
		s.because("no scheduler of the name %q runs here", template.Spec.SchedulerName)
		return
	}
	e := scheduler.Explain(need, l.snapshot(), l.budgets)
	for i := range e.Nodes { // only these decide where a DaemonSet's pods are meant to be
		e.Nodes[i].Faults = slices.DeleteFunc(e.Nodes[i].Faults, func(f scheduler.Fault) bool { return f.Filter != "NodeAffinity" && f.Filter != "TaintToleration" })
	}
	e.Nodes = slices.DeleteFunc(e.Nodes, func(o scheduler.Opinion) bool { return len(o.Faults) == 0 })
	if len(e.Nodes) == 0 {
		s.because("the nodes that it is meant for have not been counted yet")
		return
	}
	nearest := byEffort(template, e.Nodes)
	s.Table, s.More = tableOf(nearest)
	if text := nearest[0].text(); text != "" {
		s.advise("To let it run: %s", text)
	}
}
