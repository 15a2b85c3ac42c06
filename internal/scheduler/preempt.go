package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/loop"
)

// Budget is what a PodDisruptionBudget allows: of the pods that it selects so many may go.
type Budget struct {
	Pods    labels.Selector
	Allowed int32
	Going   map[string]metav1.Time // pods that have been let go already, by name
}

// room is what it takes to make room for a pod on a node.
type room struct {
	node    *Node
	victims []*member // the most important first
	broken  int       // budgets' worth of victims that none of them allows
}

// makeRoom says which pods of lower priority have to go, and where, for the pod to fit; nil: none would help. It does no I/O. What it finds out about nodes where none
// would is added to the refusal.
func makeRoom(n *Need, nodes *Nodes, r *Refusal, budgets func(namespace string) []Budget) *room {
	if r.never || r.fixed {
		return nil
	}
	var rooms []*room
	r.hopeless = map[string][]string{}
	potential, gentle := 0, false // nodes where somebody's going may help; a room that breaks no budget
	for i := range r.Verdicts {
		if !r.Verdicts[i].Final {
			potential++
		}
	}
	c := &n.plan.profile.Candidates
	most := max(potential*c.Percentage/100, c.Absolute)
	for _, v := range r.Verdicts {
		if v.Final || gentle && len(rooms) >= most {
			continue
		}
		node := nodes.byName[v.Node]
		found, why := nodes.clear(n, node, budgets)
		if found != nil {
			rooms, gentle = append(rooms, found), gentle || found.broken == 0
		} else {
			r.hopeless[v.Node] = why
		}
	}
	survey(n, nodes) // it was counted with pods away
	if len(rooms) == 0 {
		return nil
	}
	return slices.MinFunc(rooms, better)
}

const noVictims = "No preemption victims found for incoming pod"

// clear finds the fewest and least important pods whose going lets the pod onto the node: all that are less important go, and then as many come back as can, those first whose
// going would break a budget.
func (n *Nodes) clear(need *Need, node *Node, budgets func(namespace string) []Budget) (*room, []string) {
	var lower []*member
	for _, m := range node.members {
		if m.priority < need.priority {
			lower = append(lower, m)
		}
	}
	if len(lower) == 0 {
		return nil, []string{noVictims}
	}
	slices.SortFunc(lower, moreImportant)
	away := func(m *member) {
		n.part(m.key, node)
		n.take(node, m.use)
	}
	back := func(m *member) { n.join(m, n.add(node.Name, m.use)) }
	fit := func() bool {
		survey(need, n)
		return fits(need, node)
	}
	for _, m := range lower {
		away(m)
	}
	if !fit() {
		var why []string
		if f := refusing(need, node); f != nil {
			why, _ = f.why(need, node)
		}
		for _, m := range lower {
			back(m)
		}
		return nil, why
	}
	breaking, rest := protected(lower, budgets)
	r := &room{node: node}
	spare := func(list []*member, broken bool) {
		for _, m := range list {
			if back(m); fit() {
				continue
			}
			away(m)
			r.victims = append(r.victims, m)
			if broken {
				r.broken++
			}
		}
	}
	spare(breaking, true)
	spare(rest, false)
	slices.SortFunc(r.victims, moreImportant)
	for _, m := range r.victims {
		back(m)
	}
	return r, nil
}

func moreImportant(a, b *member) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), byStart(a, b), cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
}

// byStart puts those first that have run the longest. Who has not begun yet is the last.
func byStart(a, b *member) int {
	switch {
	case a.started.IsZero() && b.started.IsZero():
		return 0
	case a.started.IsZero():
		return 1
	case b.started.IsZero():
		return -1
	}
	return a.started.Compare(b.started)
}

// protected tells those apart whose going would break a budget, if the ones before them go.
func protected(pods []*member, budgets func(namespace string) []Budget) (breaking, rest []*member) {
	left := map[string][]Budget{}
	for _, m := range pods {
		of, known := left[m.key.Namespace]
		if !known {
			of = slices.Clone(budgets(m.key.Namespace))
			left[m.key.Namespace] = of
		}
		breaks := false
		for i := range of {
			if len(m.labels) == 0 || !of[i].Pods.Matches(labels.Set(m.labels)) {
				continue
			}
			if _, going := of[i].Going[m.key.Name]; going {
				continue
			}
			if of[i].Allowed--; of[i].Allowed < 0 {
				breaks = true
			}
		}
		if breaks {
			breaking = append(breaking, m)
		} else {
			rest = append(rest, m)
		}
	}
	return breaking, rest
}

// better orders rooms as Kubernetes does: the fewest broken budgets, the least important of the most important victims, the smallest sum of priorities, the fewest
// victims, and of the most important victims those that began the latest.
func better(a, b *room) int {
	sum := func(r *room) (s int64) {
		for _, m := range r.victims {
			s += int64(m.priority) + math.MaxInt32 + 1
		}
		return s
	}
	first := func(r *room) *member { // of the most important victims; there is one at the least, unless others have gone meanwhile
		if len(r.victims) == 0 {
			return &member{}
		}
		return slices.MinFunc(slices.DeleteFunc(slices.Clone(r.victims), func(m *member) bool { return m.priority != r.victims[0].priority }), byStart)
	}
	return cmp.Or(
		cmp.Compare(a.broken, b.broken), cmp.Compare(highest(a), highest(b)), cmp.Compare(sum(a), sum(b)), cmp.Compare(len(a.victims), len(b.victims)),
		byStart(first(b), first(a)), cmp.Compare(a.node.Name, b.node.Name),
	)
}

func highest(r *room) int32 {
	if len(r.victims) == 0 {
		return math.MinInt32
	}
	return r.victims[0].priority
}

// promise is a node that room is made on for a pod.
type promise struct {
	key      loop.Key
	priority int32
	use      use
}

// promise keeps what is cleared for a pod from others that are no more important.
func (n *Nodes) promise(p promise, node *Node) {
	n.forget(p.key)
	node.promises = append(node.promises, p)
	n.promised[p.key] = node
}

// forget takes a promise back.
func (n *Nodes) forget(key loop.Key) {
	if node := n.promised[key]; node != nil {
		node.promises = slices.DeleteFunc(node.promises, func(p promise) bool { return p.key == key })
		delete(n.promised, key)
	}
}

// promisedTo is what of a node is not for this pod, since it is promised to others.
func (node *Node) promisedTo(n *Need) (a amounts, pods int64) {
	for _, p := range node.promises {
		if p.key != n.key && p.priority >= n.priority {
			a = a.plus(p.use.asked, 1)
			pods++
		}
	}
	return a, pods
}

// preempt makes room for a pod that fits nowhere, if pods of lower priority can go.
func (s *Scheduler) preempt(ctx context.Context, w *waiting, r *Refusal) {
	if node := s.nodes.promised[w.key]; node != nil && !r.final(node.Name) {
		for _, m := range node.members {
			if m.preempted && m.priority < w.need.priority {
				r.waits = true // for those that are going
				return
			}
		}
	}
	s.nodes.forget(w.key)
	made := makeRoom(w.need, s.nodes, r, s.Source.Budgets)
	if made == nil {
		if pod := w.pod(); pod.Status.NominatedNodeName != "" && !r.never && !r.fixed {
			s.write(ctx, func() { s.nominate(ctx, pod, "") })
		}
		return
	}
	r.made = true
	s.nodes.promise(promise{key: w.key, priority: w.need.priority, use: w.need.use}, made.node)
	pod, name, keys := w.pod(), made.node.Name, make([]loop.Key, 0, len(made.victims))
	for _, m := range made.victims {
		keys = append(keys, m.key)
		m.preempted = m.preempted || m.ending // it goes anyhow, and is waited for like those that have to
	}
	var displaced []*corev1.Pod // those who waited for room here, and now will not find it
	for _, p := range slices.Clone(made.node.promises) {
		if other := s.queue.pods[p.key]; p.priority < w.need.priority && other != nil {
			s.nodes.forget(p.key)
			displaced = append(displaced, other.pod())
		}
	}
	s.write(ctx, func() {
		for _, key := range keys {
			s.evict(ctx, key, pod, name)
		}
		for _, other := range displaced {
			s.nominate(ctx, other, "")
		}
		s.nominate(ctx, pod, name)
	})
}

func (s *Scheduler) nominate(ctx context.Context, pod *corev1.Pod, node string) {
	if err := s.API.Nominate(ctx, keyOf(pod), pod.UID, node); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		s.Log.Warn("nominated node not written", "pod", keyOf(pod), "node", node, "error", err)
	}
}

func (s *Scheduler) evict(ctx context.Context, key loop.Key, by *corev1.Pod, node string) {
	victim := s.Source.Pod(key)
	if victim == nil || victim.DeletionTimestamp != nil {
		return
	}
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message: s.plans.of(by).name + ": preempting to accommodate a higher priority pod", ObservedGeneration: victim.Generation, LastTransitionTime: metav1.Now(),
	}
	if err := s.API.Evict(ctx, key, victim.UID, condition); err != nil {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			s.Log.Warn("victim not evicted", "pod", key, "for", keyOf(by), "error", err)
		}
		return
	}
	s.recorder(by).Record(victim, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", by.UID, node))
}
