package scheduler

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// member is what is kept of a pod that is on a node, for others that have to do with it.
type member struct {
	key        loop.Key
	node       *Node
	labels     map[string]string
	controller types.UID // of it; empty: none
	ending     bool      // it is being deleted
	preempted  bool      // for the sake of a more important one
	priority   int32
	started    time.Time
	use        use
	terms      *terms // what it asks of its neighbours; nil: nothing
	claims     []usedClaim
}

func memberOf(pod *corev1.Pod, u use) *member {
	m := &member{key: keyOf(pod), labels: pod.Labels, ending: pod.DeletionTimestamp != nil, use: u, terms: termsOf(pod), claims: claimsOf(pod)}
	m.preempted = m.ending && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
	if c := metav1.GetControllerOfNoCopy(pod); c != nil {
		m.controller = c.UID
	}
	if pod.Spec.Priority != nil {
		m.priority = *pod.Spec.Priority
	}
	if pod.Status.StartTime != nil {
		m.started = pod.Status.StartTime.Time
	}
	return m
}

// term is one demand on neighbours: pods like these, within one value of a label of nodes.
type term struct {
	key        string // the nodes' label
	namespaces []string
	byLabels   labels.Selector // of namespaces, besides those named; nil: none
	pods       labels.Selector
	weight     int64 // of a preference
}

// terms are a pod's demands: on whom it must be near to, whom it must be away from, and the same as wishes, whose weights say how much.
type terms struct {
	near, away []term
	wishes     []term // weights below zero: rather away
}

// termsOf reads what a pod says of pod affinity (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/); nil: nothing.
func termsOf(pod *corev1.Pod) *terms {
	a := pod.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	t := &terms{}
	wish := func(list []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range list {
			w := termOf(pod, &list[i].PodAffinityTerm)
			w.weight = sign * int64(list[i].Weight)
			t.wishes = append(t.wishes, w)
		}
	}
	if p := a.PodAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			t.near = append(t.near, termOf(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		wish(p.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if p := a.PodAntiAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			t.away = append(t.away, termOf(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		wish(p.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	if len(t.near)+len(t.away)+len(t.wishes) == 0 {
		return nil
	}
	return t
}

func termOf(pod *corev1.Pod, a *corev1.PodAffinityTerm) term {
	t := term{key: a.TopologyKey, namespaces: a.Namespaces, pods: selectorOf(a.LabelSelector)}
	for _, key := range a.MatchLabelKeys {
		t.pods = also(t.pods, pod, key, metav1.LabelSelectorOpIn)
	}
	for _, key := range a.MismatchLabelKeys {
		t.pods = also(t.pods, pod, key, metav1.LabelSelectorOpNotIn)
	}
	switch {
	case a.NamespaceSelector != nil:
		t.byLabels = selectorOf(a.NamespaceSelector)
	case len(a.Namespaces) == 0:
		t.namespaces = []string{pod.Namespace}
	}
	return t
}

// selectorOf selects nothing where there is no selector, or one that validation would have refused.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// also narrows a selector by the value that the pod itself has for a label (matchLabelKeys, KEP-3633). A label that it does not have narrows nothing.
func also(s labels.Selector, pod *corev1.Pod, key string, op metav1.LabelSelectorOperator) labels.Selector {
	value, has := pod.Labels[key]
	if !has {
		return s
	}
	more, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op, Values: []string{value}}}})
	if err != nil {
		return labels.Nothing()
	}
	requirements, _ := more.Requirements()
	return s.Add(requirements...)
}

// selects says whether the term is about a pod of that namespace with these labels.
func (t *term) selects(namespace string, of map[string]string, namespaces Namespaces) bool {
	if !slices.Contains(t.namespaces, namespace) {
		if t.byLabels == nil || !t.byLabels.Matches(labels.Set(namespaces(namespace))) {
			return false
		}
	}
	return t.pods.Matches(labels.Set(of))
}

// Namespaces gives a namespace's labels.
type Namespaces func(name string) map[string]string

// join counts a pod among its node's.
func (n *Nodes) join(m *member, node *Node) {
	m.node = node
	if node.members == nil {
		node.members = map[loop.Key]*member{}
	}
	node.members[m.key] = m
	if m.terms != nil {
		n.demanding[m.key] = m
	}
	for _, c := range m.claims {
		n.users[c.key]++
	}
	if m.controller != "" && !m.ending {
		if node.owners == nil {
			node.owners = map[types.UID]int{}
		}
		node.owners[m.controller]++
	}
}

// part takes back what join has counted.
func (n *Nodes) part(key loop.Key, node *Node) {
	m := node.members[key]
	if m == nil {
		return
	}
	delete(node.members, key)
	delete(n.demanding, key)
	for _, c := range m.claims {
		if n.users[c.key]--; n.users[c.key] == 0 {
			delete(n.users, c.key)
		}
	}
	if m.controller != "" && !m.ending {
		if node.owners[m.controller]--; node.owners[m.controller] == 0 {
			delete(node.owners, m.controller)
		}
	}
}
