package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// Storage is the claims and volumes, and what the scheduler writes of them.
type Storage interface {
	Claims
	// BindVolume makes the volume the claim's, unless it is another's by now.
	BindVolume(ctx context.Context, v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error
	// SelectNode says on the claim where a provisioner is to make its volume.
	SelectNode(ctx context.Context, c *corev1.PersistentVolumeClaim, node string) error
}

// bindPatience is how long a pod whose node is chosen waits for its claims to be bound, as upstream's default has it.
const bindPatience = 10 * time.Minute

// stowing is a pod whose node is chosen, and whose claims are being bound. It is bound itself once they are.
type stowing struct {
	placement *placement
	pod       *corev1.Pod
	node      string
	claims    []loop.Key
	volumes   []string // that have been chosen for them
	until     time.Time
	done      func() // binds the pod; called on the scheduler's goroutine, once
}

// VolumeChanged says that the volume may have changed, come or gone. It never blocks.
func (s *Scheduler) VolumeChanged(name string) {
	s.storageChanged(&s.changed.volumes, loop.Key{Name: name})
}

// ClaimChanged says the same of a claim.
func (s *Scheduler) ClaimChanged(key loop.Key) { s.storageChanged(&s.changed.claims, key) }

// ClassChanged says that a class has come, or has other topologies. It never blocks.
func (s *Scheduler) ClassChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.classes = true
	s.nudge()
}

func (s *Scheduler) storageChanged(marks *map[loop.Key]struct{}, key loop.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *marks == nil {
		*marks = map[loop.Key]struct{}{}
	}
	if _, marked := (*marks)[key]; !marked {
		(*marks)[key] = struct{}{}
		s.nudge()
	}
}

// storageMarks are what has changed of storage.
type storageMarks struct {
	volumes, claims map[loop.Key]struct{}
	classes         bool
}

func (m *storageMarks) any() bool { return len(m.volumes)+len(m.claims) > 0 || m.classes }

// restock takes over what has changed of storage, goes on with pods whose claims are bound now, and wakes those that storage has kept back.
func (s *Scheduler) restock(ctx context.Context, m *storageMarks, now time.Time) {
	if !m.any() || s.Storage == nil {
		return
	}
	all, gained := m.classes, map[loop.Key]bool{}
	for key := range m.volumes {
		every, one := s.nodes.shelf.set(key.Name, s.Storage.Volume(key.Name))
		all, gained[one] = all || every, true
	}
	for key := range m.claims {
		gained[key] = true
		for _, pod := range slices.Clone(s.awaited[key]) {
			s.goOn(ctx, pod)
		}
	}
	var woken []*waiting
	for _, w := range s.queue.pods {
		if w.place != unschedulable || len(w.need.claims) == 0 || w.failed&byStorage == 0 {
			continue
		}
		if all || slices.ContainsFunc(w.need.claims, func(c usedClaim) bool { return gained[c.key] }) {
			woken = append(woken, w)
		}
	}
	sortByTurn(woken)
	for _, w := range woken {
		s.queue.wake(w, now, "StorageChange")
	}
}

// stow keeps the chosen volumes for the pod and begins to write them. The pod is bound by done, once all its claims are.
func (s *Scheduler) stow(ctx context.Context, p *placement, pod *corev1.Pod, c choice, done func()) {
	st := &stowing{placement: p, pod: pod, node: p.node.Name, until: time.Now().Add(bindPatience), done: done}
	for _, g := range c.give {
		key := loop.Key{Namespace: g.claim.Namespace, Name: g.claim.Name}
		s.nodes.shelf.promise(g.volume.Name, key)
		st.claims, st.volumes = append(st.claims, key), append(st.volumes, g.volume.Name)
	}
	for _, o := range c.make {
		st.claims = append(st.claims, loop.Key{Namespace: o.Namespace, Name: o.Name})
	}
	key := keyOf(pod)
	s.stowing[key] = st
	for _, of := range st.claims {
		s.awaited[of] = append(s.awaited[of], key)
	}
	node := st.node
	s.write(ctx, func() {
		if err := s.writeChoice(ctx, c, node); err != nil {
			s.fail(ctx, pod, node, p, fmt.Errorf("running PreBind plugin \"VolumeBinding\": %w", err))
		}
	})
}

func (s *Scheduler) writeChoice(ctx context.Context, c choice, node string) error {
	for _, g := range c.give {
		if err := s.Storage.BindVolume(ctx, g.volume, g.claim); err != nil {
			return err
		}
	}
	for _, o := range c.make {
		if o.Annotations[claim.SelectedNode] == node {
			continue
		}
		if err := s.Storage.SelectNode(ctx, o, node); err != nil {
			return err
		}
	}
	return nil
}

// goOn binds the pod if all its claims are bound, to volumes that its node reaches.
func (s *Scheduler) goOn(ctx context.Context, key loop.Key) {
	st := s.stowing[key]
	if st == nil {
		return
	}
	node := s.nodes.byName[st.node]
	var volumes []*corev1.PersistentVolume
	for _, of := range st.claims {
		c := s.Storage.Claim(of)
		if c == nil || !claim.IsBound(c) {
			return
		}
		v := s.Storage.Volume(c.Spec.VolumeName)
		if v == nil {
			return
		}
		if node != nil && node.exists && !newStored(v).reaches(node) {
			err := fmt.Errorf("running PreBind plugin \"VolumeBinding\": binding volumes: pv %q node affinity doesn't match node %q: no matching NodeSelectorTerms", v.Name, st.node)
			s.endStowing(key)
			s.write(ctx, func() { s.fail(ctx, st.pod, st.node, st.placement, err) })
			return
		}
		volumes = append(volumes, v)
	}
	for _, v := range volumes {
		s.nodes.shelf.set(v.Name, v) // what is seen of it may be older
	}
	s.endStowing(key)
	st.done()
}

// giveUp ends the waiting of pods whose claims have not been bound in time. It returns when the next one's time is up; zero: nobody waits.
func (s *Scheduler) giveUp(ctx context.Context, now time.Time) (next time.Time) {
	for key, st := range s.stowing {
		if now.Before(st.until) {
			if next.IsZero() || st.until.Before(next) {
				next = st.until
			}
			continue
		}
		s.endStowing(key)
		err := fmt.Errorf("running PreBind plugin \"VolumeBinding\": binding volumes: %w", context.DeadlineExceeded)
		s.write(ctx, func() { s.fail(ctx, st.pod, st.node, st.placement, err) })
	}
	return next
}

// endStowing forgets that a pod waits for its claims, and gives back the volumes that have not been written yet.
func (s *Scheduler) endStowing(key loop.Key) {
	st := s.stowing[key]
	if st == nil {
		return
	}
	delete(s.stowing, key)
	for _, of := range st.claims {
		s.awaited[of] = slices.DeleteFunc(s.awaited[of], func(k loop.Key) bool { return k == key })
		if len(s.awaited[of]) == 0 {
			delete(s.awaited, of)
		}
	}
	for i, name := range st.volumes {
		if s.nodes.shelf.promised[name] == st.claims[i] {
			s.nodes.shelf.release(name)
		}
	}
}
