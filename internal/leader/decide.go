package leader

import (
	"time"

	coordination "k8s.io/api/coordination/v1"
)

// claim is what to do about the Lease now.
type claim int

const (
	wait    claim = iota // somebody else leads
	acquire              // nobody leads: become the leader
	renew                // we lead
)

// sight is a Lease as this process has seen it: other machines' clocks are not trusted, so that a Lease is over when nothing has come of its holder for its duration
// by our own.
type sight struct {
	holder  string
	renewed time.Time // as the holder wrote it; only ever compared for being another one
	since   time.Time // our own clock, when this was first seen
	lasts   time.Duration
}

// look notes what a Lease says now. Nil is none.
func (s sight) look(lease *coordination.Lease, now time.Time) sight {
	next := sight{since: now}
	if lease != nil {
		if h := lease.Spec.HolderIdentity; h != nil {
			next.holder = *h
		}
		if r := lease.Spec.RenewTime; r != nil {
			next.renewed = r.Time
		}
		if d := lease.Spec.LeaseDurationSeconds; d != nil {
			next.lasts = time.Duration(*d) * time.Second
		}
	}
	if s.holder == next.holder && s.renewed.Equal(next.renewed) && !s.since.IsZero() {
		next.since = s.since
	}
	return next
}

// decide says what to do, and when to look again if nothing changes before.
func (s sight) decide(me string, now time.Time, every time.Duration) (claim, time.Time) {
	switch {
	case s.holder == me:
		return renew, now.Add(every)
	case s.holder == "":
		return acquire, now.Add(every)
	}
	if over := s.since.Add(s.lasts); now.Before(over) {
		return wait, over
	}
	return acquire, now.Add(every)
}

// taken is the Lease after a claim of ours. Old may be nil.
func taken(old *coordination.Lease, name string, me string, now time.Time, lasts time.Duration) *coordination.Lease {
	next := &coordination.Lease{}
	if old != nil {
		next = old.DeepCopy()
	} else {
		next.Namespace, next.Name = Namespace, name
	}
	spec := &next.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity != me {
		changes := int32(0)
		if spec.LeaseTransitions != nil && old != nil {
			changes = *spec.LeaseTransitions
		}
		if old != nil {
			changes++
		}
		spec.HolderIdentity, spec.LeaseTransitions, spec.AcquireTime = &me, &changes, microTime(now)
	}
	spec.LeaseDurationSeconds = new(int32(lasts / time.Second))
	spec.RenewTime = microTime(now)
	return next
}

// Taken is the Lease held by somebody who takes it without asking whether anybody leads: whoever did stops within a moment of noticing. Old may be nil.
func Taken(old *coordination.Lease, name, holder string, now time.Time) *coordination.Lease {
	return taken(old, name, holder, now, defaultLasts)
}

// Released is the Lease as a leader leaves it that goes of itself: others need not wait.
func Released(old *coordination.Lease, now time.Time) *coordination.Lease {
	next := old.DeepCopy()
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds = new(""), new(int32(1))
	next.Spec.RenewTime = microTime(now)
	return next
}
