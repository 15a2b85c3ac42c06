package scheduler

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"sampan.dev/internal/loop"
)

// gains are the nodes that may take more pods than before, and which filters were eased there.
type gains map[*Node]Filters

// catchUp looks at all that has changed, and wakes the pods that fit now.
func (s *Scheduler) catchUp(ctx context.Context, now time.Time) {
	s.mu.Lock()
	changed := s.changed
	if len(changed.pods)+len(changed.nodes)+len(changed.failures) == 0 && !changed.any() {
		s.mu.Unlock()
		return
	}
	s.changed.reset()
	s.mu.Unlock()

	gained := gains{}
	for _, key := range changed.nodes {
		object := s.Source.Node(key.Name)
		if object == nil {
			if node := s.nodes.byName[key.Name]; node != nil {
				gained[node] = bySpread | byNeighbours // it takes no pod, but is no place any more where others are
			}
			s.nodes.Remove(key.Name)
			continue
		}
		if node, filters := s.nodes.Set(object); filters != 0 {
			gained[node] |= filters
		}
	}
	for _, key := range changed.pods {
		s.look(ctx, key, now, gained)
	}
	for _, f := range changed.failures {
		s.takeBack(ctx, f, now, gained)
	}
	s.restock(ctx, &changed.storageMarks, now)
	s.wakeThoseThatFit(gained, now)
}

// look brings what is known of a pod up to date.
func (s *Scheduler) look(ctx context.Context, key loop.Key, now time.Time, gained gains) {
	pod := s.Source.Pod(key)
	p := s.placed[key]
	if p != nil && (pod == nil || pod.UID != p.uid || ended(pod)) {
		s.unplace(key, p, gained)
		p = nil
	}
	w := s.queue.pods[key]
	if w != nil && (pod == nil || pod.UID != w.pod().UID || !s.ours(pod)) {
		s.queue.leave(w)
		s.nodes.forget(key)
		w = nil
	}
	switch {
	case pod == nil || ended(pod):
	case pod.Spec.NodeName != "":
		s.place(key, pod, p, gained)
	case p != nil && p.assumed != nil:
		// the binding is under way, and will be seen or fail
	case s.ours(pod):
		s.enqueue(ctx, key, pod, w, now)
	}
}

// place counts the pod on the node that it names.
func (s *Scheduler) place(key loop.Key, pod *corev1.Pod, p *placement, gained gains) {
	u := useOf(pod)
	if p != nil {
		p.assumed = nil
		if p.node.Name == pod.Spec.NodeName && p.use.asked.equal(u.asked) {
			if m := p.node.members[key]; m == nil || m.ending != (pod.DeletionTimestamp != nil) || !maps.Equal(m.labels, pod.Labels) {
				s.nodes.part(key, p.node)
				s.nodes.join(memberOf(pod, u), p.node)
				gained[p.node] |= byNeighbours | bySpread
			}
			return
		}
		s.unplace(key, p, gained) // resized, or bound elsewhere by another
	}
	p = &placement{uid: pod.UID, use: u}
	p.node = s.nodes.add(pod.Spec.NodeName, u)
	s.nodes.join(memberOf(pod, u), p.node)
	s.placed[key] = p
	gained[p.node] |= byNeighbours | bySpread
}

// unplace gives back what the pod took.
func (s *Scheduler) unplace(key loop.Key, p *placement, gained gains) {
	delete(s.placed, key)
	s.endStowing(key)
	s.nodes.part(key, p.node)
	s.nodes.take(p.node, p.use)
	if p.node.exists {
		gained[p.node] |= byResources | byPorts | byNeighbours | bySpread | byAlone
	}
}

// enqueue lets a pod wait for its turn, or for the end of what holds it.
func (s *Scheduler) enqueue(ctx context.Context, key loop.Key, pod *corev1.Pod, w *waiting, now time.Time) {
	if w == nil {
		w = &waiting{key: key, need: s.plans.Need(pod), added: now}
		s.follow("", w)
		if len(pod.Spec.SchedulingGates) > 0 {
			s.queue.put(w, gated, "PodAdd")
			s.write(ctx, func() { s.tellGated(ctx, pod) })
			return
		}
		s.queue.put(w, active, "PodAdd")
		return
	}
	if equality.Semantic.DeepEqual(w.pod().Spec, pod.Spec) {
		relabelled, was := !maps.Equal(w.pod().Labels, pod.Labels), w.pod().Status.NominatedNodeName
		w.need.Pod = pod // its status or metadata changed: what was worked out holds
		if relabelled {  // but for what its labels are asked by others and by itself
			w.need = s.plans.Need(pod)
		}
		s.follow(was, w)
		if relabelled && w.place == unschedulable {
			s.queue.wake(w, now, "PodUpdate")
		}
		return
	}
	was := w.pod().Status.NominatedNodeName
	w.need = s.plans.Need(pod)
	s.follow(was, w)
	switch {
	case len(pod.Spec.SchedulingGates) > 0:
		s.queue.put(w, gated, "PodUpdate")
	case w.place == gated:
		w.added = now
		s.queue.put(w, active, "ScheduleGateRemoved")
	case w.place == unschedulable:
		s.queue.wake(w, now, "PodUpdate")
	default:
		s.queue.put(w, w.place, "PodUpdate")
	}
}

// follow keeps a node for the pod that its status names, whoever has put it there. As long as nothing has changed there, what was decided here holds: it may not be written yet.
func (s *Scheduler) follow(was string, w *waiting) {
	name := w.pod().Status.NominatedNodeName
	if name == was {
		return
	}
	s.nodes.forget(w.key)
	if node := s.nodes.byName[name]; node != nil && node.exists {
		s.nodes.promise(promise{key: w.key, priority: w.need.priority, use: w.need.use}, node)
	}
}

// takeBack gives up a decision that was not accepted.
func (s *Scheduler) takeBack(ctx context.Context, f failure, now time.Time, gained gains) {
	if s.placed[f.key] != f.placement || f.placement.assumed == nil {
		return // the source has shown more since
	}
	s.unplace(f.key, f.placement, gained)
	s.look(ctx, f.key, now, gained)
	w := s.queue.pods[f.key]
	if w == nil {
		return
	}
	old := f.placement.assumed
	w.attempts, w.tried, w.added = old.attempts, old.tried, old.added
	w.until = now.Add(max(s.queue.backoffOf(w), s.queue.first))
	s.queue.put(w, backingOff, "ScheduleAttemptFailure")
}

// wakeThoseThatFit tries each pod that fits nowhere on the nodes that have gained what it failed by. A pod that would
// still be refused there, now by another filter, sleeps on, until that one is eased too. What a pod fails by for other
// pods' sake is counted when it is tried, so that any of them that comes or goes wakes it.
func (s *Scheduler) wakeThoseThatFit(gained gains, now time.Time) {
	if len(gained) == 0 || s.queue.count[unschedulable] == 0 {
		return
	}
	var woken []*waiting
	for _, w := range s.queue.pods {
		if w.place == unschedulable && w.fitsNow(gained) {
			woken = append(woken, w)
		}
	}
	sortByTurn(woken) // the map has no order, and those who wait longest go first
	for _, w := range woken {
		s.queue.wake(w, now, "ClusterEvent")
	}
}

// fitsNow reports whether a node that has gained something may let the pod in. It keeps by what else the pod fails.
func (w *waiting) fitsNow(gained gains) bool {
	const others = byNeighbours | bySpread | byStorage
	for node, filters := range gained {
		eased := w.failed & filters
		if eased&others != 0 {
			return true
		}
		if !node.exists || w.failed != 0 && eased == 0 {
			continue
		}
		f := refusing(w.need, node)
		if f == nil || f.bit&others != 0 {
			return true
		}
		w.failed |= f.bit
	}
	return false
}
