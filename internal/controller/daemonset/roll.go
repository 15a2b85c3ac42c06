package daemonset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// roll replaces pods of old templates, within the limits of the strategy.
func (d *decision) roll() {
	desired := 0
	for node, run := range d.run {
		if run {
			desired++
			if _, some := d.on[node]; !some {
				d.on[node] = nil
			}
		}
	}
	unavailable := count(d.Set, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxUnavailable }, desired)
	surge := count(d.Set, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge }, desired)
	if surge == 0 {
		d.replace(max(unavailable, 1))
	} else {
		d.surge(surge, desired)
	}
}

// pair finds a node's pods that are not being deleted: one of the template, and one that is not. More than one of a sort is for manage to tidy up.
func (d *decision) pair(pods []*corev1.Pod) (newer, older *corev1.Pod, ok bool) {
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		of := &older
		if updated(d.Set, pod, d.Hash) {
			of = &newer
		}
		if *of != nil {
			return nil, nil, false
		}
		*of = pod
	}
	return newer, older, true
}

// replace deletes old pods; new ones come once they are gone. Those that are not available go at once, of the others only so many that no more than
// most nodes are without an available pod.
func (d *decision) replace(most int) {
	without := 0
	var candidates []*corev1.Pod
	for _, node := range slices.Sorted(maps.Keys(d.on)) {
		newer, older, ok := d.pair(d.on[node])
		switch {
		case !ok, (newer == nil) == (older == nil):
			without++
		case newer != nil:
			if !d.available(newer) {
				without++
			}
		case !d.available(older):
			without++
			d.delete(older)
		default:
			candidates = append(candidates, older)
		}
	}
	d.delete(candidates[:min(len(candidates), max(most-without, 0))]...)
}

// surge makes new pods beside old ones, no more than most at once beside those that are available, and deletes an old pod once the new one is available.
func (d *decision) surge(most, desired int) {
	surging, available := 0, 0
	var leaving []*corev1.Pod // available, where none is to run any more
	var candidates []string
	for _, node := range slices.Sorted(maps.Keys(d.on)) {
		newer, older, ok := d.pair(d.on[node])
		if !ok {
			surging++
			continue
		}
		if older != nil && d.available(older) || older == nil && newer != nil && d.available(newer) {
			available++
		}
		switch {
		case older == nil: // manage sees to it
		case newer != nil && d.available(newer):
			d.delete(older)
		case newer != nil:
			surging++
		case !d.run[node] && !d.available(older):
			d.delete(older)
		case !d.run[node]:
			leaving = append(leaving, older)
		case !d.available(older):
			d.plan.Create = append(d.plan.Create, node)
		default:
			candidates = append(candidates, node)
		}
	}
	// A pod that is to leave its node goes once there are enough on the others.
	d.delete(leaving[:min(len(leaving), max(available-desired, 0))]...)
	d.plan.Create = append(d.plan.Create, candidates[:min(len(candidates), max(most-surging, 0))]...)
}
