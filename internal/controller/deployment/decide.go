package deployment

import (
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/workload"
)

// Plan is what one pass would change, as a plain value: nothing has happened yet.
type Plan struct {
	Adopt, Release []*appsv1.ReplicaSet
	Create         *appsv1.ReplicaSet
	Change         []Change
	Delete         []*appsv1.ReplicaSet
	Revision       string // annotation of the Deployment
	Status         appsv1.DeploymentStatus
	Again          time.Duration // when to look again though nothing happens; zero: never
}

// Change is what a ReplicaSet is to become.
type Change struct {
	Set             *appsv1.ReplicaSet
	Replicas        int32
	MinReadySeconds int32
	Annotations     map[string]string
}

// Decide compares what is wanted with the ReplicaSets there are: those of the Deployment, and those that it may adopt.
func Decide(d *appsv1.Deployment, candidates []*appsv1.ReplicaSet, now time.Time) Plan {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return Plan{Status: *d.Status.DeepCopy(), Revision: d.Annotations[annotationRevision]}
	}
	claims := workload.Claim(d, selector, candidates)
	r := &rollout{d: d, now: now, status: d.Status.DeepCopy()}
	for _, rs := range slices.Concat(claims.Owned, claims.Adopt) {
		r.all = append(r.all, &set{rs, valueOf(rs.Spec.Replicas)})
	}
	r.newest, r.old = split(d, r.all)
	r.plan = Plan{Adopt: claims.Adopt, Release: claims.Release, Revision: d.Annotations[annotationRevision]}
	if d.DeletionTimestamp == nil {
		r.pausedCondition()
	}
	// One that still works for an earlier size may have more pods, or give up others, than its status tells.
	settled := !slices.ContainsFunc(r.all, func(s *set) bool { return !s.settled() })
	follow := true // the progress of a rollout is followed
	switch {
	case d.DeletionTimestamp != nil:
		follow = false
	case d.Spec.Paused, isScaled(d, r.all):
		follow = false
		r.revise()
		if r.shared = settled; settled {
			spread(d, r.newest, r.old)
		}
		if d.Spec.Paused {
			r.plan.Delete = obsolete(d, r.old)
		}
	default:
		r.makeNewest()
		r.revise()
		if settled {
			r.roll()
		}
		if r.complete() {
			r.plan.Delete = obsolete(d, r.old)
		}
	}
	r.collect()
	r.count()
	if follow {
		r.progress()
	}
	r.plan.Status = *r.status
	return r.plan
}

// rollout is one pass over a Deployment.
type rollout struct {
	d      *appsv1.Deployment
	now    time.Time
	all    []*set
	newest *set // nil: there is none
	old    []*set
	notes  map[*set]map[string]string // annotations that are to change
	shared bool                       // sizes have been shared out anew
	status *appsv1.DeploymentStatus
	plan   Plan
}

// makeNewest sees to it that there is a set for the present template.
func (r *rollout) makeNewest() {
	if r.newest != nil {
		if r.hasDeadline() && findCondition(r.status, appsv1.DeploymentProgressing) == nil {
			r.set(condition(appsv1.DeploymentProgressing, "True", reasonFound, `Found new replica set "`+r.newest.Name+`"`))
		}
		return
	}
	if !isRolling(r.d) && !r.oldGone() {
		return // Recreate: not before the old ones have ended
	}
	s := newSet(r.d, nextRevision(r.old))
	r.newest, r.all = s, append(r.all, s)
	r.plan.Create = s.ReplicaSet
	if r.hasDeadline() {
		r.set(condition(appsv1.DeploymentProgressing, "True", reasonCreated, `Created new replica set "`+s.Name+`"`))
	}
}

// oldGone says that no pod of an old set is left, not even one that is ending.
func (r *rollout) oldGone() bool {
	return !slices.ContainsFunc(r.old, func(s *set) bool {
		return s.size > 0 || !s.settled() || s.Status.Replicas > 0 || valueOf(s.Status.TerminatingReplicas) > 0
	})
}

// revise gives the newest set the highest revision, and the Deployment's annotations.
func (r *rollout) revise() {
	if r.newest == nil {
		return
	}
	if r.plan.Create == nil {
		r.note(r.newest, annotated(r.d, r.newest.Annotations, nextRevision(r.old)))
		r.plan.Revision = r.notes[r.newest][annotationRevision]
		return
	}
	r.plan.Revision = r.newest.Annotations[annotationRevision]
}

func (r *rollout) note(s *set, annotations map[string]string) {
	if r.notes == nil {
		r.notes = map[*set]map[string]string{}
	}
	r.notes[s] = annotations
}

// roll takes the next step from the old sets to the newest.
func (r *rollout) roll() {
	if isRolling(r.d) {
		if r.newest.size > replicas(r.d) {
			r.newest.size = replicas(r.d)
		} else {
			r.newest.size = grow(r.d, r.newest, r.all)
		}
		shrinkOld(r.d, r.newest, r.old)
		return
	}
	for _, s := range r.old {
		s.size = 0
	}
	if r.newest != nil && r.oldGone() {
		r.newest.size = replicas(r.d)
	}
}

// collect puts together what changes of each set.
func (r *rollout) collect() {
	for _, s := range r.all {
		notes, noted := r.notes[s]
		if !noted {
			notes = s.Annotations
		}
		if s.size != s.was() || r.shared && s.size > 0 || s.ReplicaSet == r.plan.Create {
			notes = sized(r.d, notes)
		}
		if s.ReplicaSet == r.plan.Create {
			s.Annotations, s.Spec.Replicas = notes, new(s.size)
			continue
		}
		least := s.Spec.MinReadySeconds
		if s == r.newest && r.d.DeletionTimestamp == nil {
			least = r.d.Spec.MinReadySeconds
		}
		if s.size != s.was() || least != s.Spec.MinReadySeconds || !maps.Equal(notes, s.Annotations) {
			r.plan.Change = append(r.plan.Change, Change{s.ReplicaSet, s.size, least, notes})
		}
	}
}

// complete says that the rollout was complete at the last pass.
func (r *rollout) complete() bool { return isComplete(r.d, &r.d.Status) }

func isComplete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	n := replicas(d)
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}
