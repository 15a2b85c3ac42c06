package deployment

import (
	"cmp"
	"math"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// replicas is how many pods a Deployment wants.
func replicas(d *appsv1.Deployment) int32 { return valueOf(d.Spec.Replicas) }

func valueOf(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func isRolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// bounds are how many pods there may be too many, and how many unavailable, while a rolling update goes on: per cent round up for the former and
// down for the latter, and not both are zero (Kubernetes, Deployments, "Rolling Update Deployment").
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	if !isRolling(d) || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	n := replicas(d)
	surge = share(d.Spec.Strategy.RollingUpdate.MaxSurge, n, true)
	unavailable = share(d.Spec.Strategy.RollingUpdate.MaxUnavailable, n, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, n)
}

func share(v *intstr.IntOrString, of int32, up bool) int32 {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	if err != nil {
		return 0
	}
	return int32(n)
}

// set is a ReplicaSet of the Deployment with the size that it shall have.
type set struct {
	*appsv1.ReplicaSet
	size int32
}

func (s *set) was() int32 { return valueOf(s.Spec.Replicas) }

// have is how many pods there are at most while it comes to its size: those that it wants, or has still.
func (s *set) have() int32 { return max(s.size, s.Status.Replicas) }

// keeps is how many available pods stay while it comes to its size: it gives up those first that are not. What is more than its former size may be on
// its way out, even if it grows now.
func (s *set) keeps() int32 { return min(s.size, s.was(), s.Status.AvailableReplicas) }

// settled says that its controller does nothing any more for an earlier size.
func (s *set) settled() bool { return s.Status.ObservedGeneration >= s.Generation }

func sum(sets []*set, f func(*set) int32) (n int32) {
	for _, s := range sets {
		n += f(s)
	}
	return n
}

func size(s *set) int32 { return s.size }

func active(sets []*set) []*set {
	return slices.DeleteFunc(slices.Clone(sets), func(s *set) bool { return s.size == 0 })
}

// older orders by age, the oldest first.
func older(a, b *set) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// grow is the size that the newest set may have: up to the Deployment's, as long as all sets together stay within the surge.
func grow(d *appsv1.Deployment, newest *set, all []*set) int32 {
	if !isRolling(d) {
		return replicas(d)
	}
	surge, _ := bounds(d)
	room := replicas(d) + surge - sum(all, (*set).have)
	if room <= 0 {
		return newest.size
	}
	return newest.size + min(room, replicas(d)-newest.size)
}

// shrinkOld takes old sets down as far as enough pods stay available: first what is not available anyway, the oldest set first.
func shrinkOld(d *appsv1.Deployment, newest *set, old []*set) {
	old = active(old)
	slices.SortFunc(old, older)
	_, unavailable := bounds(d)
	least := replicas(d) - unavailable
	all := append(slices.Clone(old), newest)
	missing := newest.size - newest.keeps() // the newest set's own pods that do not serve yet
	if room := sum(all, size) - least - missing; room > 0 {
		for _, s := range old {
			n := max(min(room, s.size-s.keeps()), 0)
			s.size -= n
			room -= n
		}
	} else {
		return
	}
	room := sum(all, (*set).keeps) - least
	for _, s := range old {
		if room <= 0 {
			return
		}
		n := min(room, s.size)
		s.size -= n
		room -= n
	}
}

// spread brings all sets to the size that a change of spec.replicas in the middle of a rollout asks for, each by its share ("proportional scaling").
func spread(d *appsv1.Deployment, newest *set, old []*set) {
	all := old
	if newest != nil {
		all = append(slices.Clone(old), newest)
	}
	if only := activeOrLatest(newest, old); only != nil {
		only.size = replicas(d)
		return
	}
	if newest != nil && isSaturated(d, newest) {
		for _, s := range active(old) {
			s.size = 0
		}
		return
	}
	if !isRolling(d) {
		return
	}
	all = active(all)
	surge, _ := bounds(d)
	allowed := int32(0)
	if replicas(d) > 0 {
		allowed = replicas(d) + surge
	}
	add := allowed - sum(all, size)
	slices.SortFunc(all, func(a, b *set) int { // the largest first; among equals the newest where pods are added, the oldest where they go
		age := older(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.size, a.size), age)
	})
	added := int32(0)
	for _, s := range all {
		n := proportion(d, s, add, added, surge)
		s.size += n
		added += n
	}
	if len(all) > 0 {
		all[0].size = max(all[0].size+add-added, 0) // what rounding left
	}
}

// proportion is a set's share of the pods to add, or to take away if that is negative.
func proportion(d *appsv1.Deployment, s *set, add, added, surge int32) int32 {
	if add == 0 || add == added {
		return 0
	}
	n := -s.size
	if replicas(d) > 0 {
		before, ok := numberIn(s.Annotations, annotationMax)
		if !ok || before == 0 {
			before = int64(max(d.Status.Replicas, 1))
		}
		n = int32(math.Round(float64(s.size)*float64(replicas(d)+surge)/float64(before))) - s.size
	}
	if add > 0 {
		return min(n, add-added)
	}
	return max(n, add-added)
}

// activeOrLatest is the only set with pods, or the newest one if none has; nil if several have.
func activeOrLatest(newest *set, old []*set) *set {
	have := active(old)
	if newest != nil && newest.size > 0 {
		have = append(have, newest)
	}
	switch {
	case len(have) == 1:
		return have[0]
	case len(have) > 1:
		return nil
	case newest != nil:
		return newest
	case len(old) > 0:
		return slices.MaxFunc(old, older)
	}
	return nil
}

// isSaturated says that a set is as large as it is to be, and all of it serves.
func isSaturated(d *appsv1.Deployment, s *set) bool {
	desired, ok := numberIn(s.Annotations, annotationDesired)
	return ok && int32(desired) == replicas(d) && s.size == replicas(d) && s.Status.AvailableReplicas == replicas(d)
}

// isScaled says that spec.replicas has changed since the sets were last given their sizes.
func isScaled(d *appsv1.Deployment, all []*set) bool {
	return slices.ContainsFunc(active(all), func(s *set) bool {
		desired, ok := numberIn(s.Annotations, annotationDesired)
		return ok && int32(desired) != replicas(d)
	})
}
