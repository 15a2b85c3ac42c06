package core

import (
	"fmt"
	"math"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// preparePodUpdate keeps the status, and counts a change of the spec.
func preparePodUpdate(new, old *corev1.Pod) {
	new.Status = old.Status
	dropDisabled(&new.Spec)
	new.Generation = old.Generation
	if !equality.Semantic.DeepEqual(new.Spec, old.Spec) {
		new.Generation++
	}
}

// changeable are the parts of a pod's spec that an update may change, as the refusal of any other names them.
const changeable = "`spec.containers[*].image`," +
	"`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks the few changes that are allowed, and that there are no others.
func validatePodUpdate(new, old *corev1.Pod) field.ErrorList {
	var l validate.List
	at := root("spec")
	l.Add(annotationChanges(new.Annotations, old.Annotations, root("metadata", "annotations"))...)
	for _, list := range []struct {
		name     string
		new, old []corev1.Container
	}{
		{"containers", new.Spec.Containers, old.Spec.Containers},
		{"initContainers", new.Spec.InitContainers, old.Spec.InitContainers},
	} {
		if len(list.new) != len(list.old) {
			l.Forbidden(at.Child(list.name), "pod updates may not add or remove containers")
			return l.Errs
		}
	}
	if !deadlineChange(&l, new.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds")) {
		return l.Errs
	}
	l.Add(tolerationChange(new.Spec.Tolerations, old.Spec.Tolerations, at.Child("tolerations"))...)
	gates := make(map[string]bool)
	for _, g := range old.Spec.SchedulingGates {
		gates[g.Name] = true
	}
	for i, g := range new.Spec.SchedulingGates {
		if !gates[g.Name] {
			l.Forbidden(at.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
	if equality.Semantic.DeepEqual(new.Spec, old.Spec) {
		return l.Errs
	}
	rest := withoutChanges(&l, &new.Spec, &old.Spec, at)
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		l.Forbidden(at, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable, diff.Diff(old.Spec, *rest)))
	}
	return l.Errs
}

// withoutChanges gives the new spec with everything taken back that may change, so that whatever else differs may not.
func withoutChanges(l *validate.List, new, old *corev1.PodSpec, at *field.Path) *corev1.PodSpec {
	rest := new.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	rest.SchedulingGates, rest.Tolerations = old.SchedulingGates, old.Tolerations
	grace, was := rest.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds
	if was != nil && *was < 0 && grace != nil && *grace == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if len(old.SchedulingGates) == 0 {
		return rest
	}
	// A pod that is held back by a gate may still be told more closely which nodes it may go to.
	for key, value := range old.NodeSelector {
		if now, ok := new.NodeSelector[key]; !ok || now != value {
			l.Invalid(at.Child("nodeSelector"), new.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	var before, after *corev1.NodeAffinity
	if old.Affinity != nil {
		before = old.Affinity.NodeAffinity
	}
	if new.Affinity != nil {
		after = new.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(before, after) {
		return rest
	}
	l.Add(nodeAffinityChange(after, before, at.Child("affinity", "nodeAffinity"))...)
	if rest.Affinity == nil {
		rest.Affinity = &corev1.Affinity{}
	}
	rest.Affinity.NodeAffinity = before
	if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
		rest.Affinity = nil
	}
	return rest
}

// nodeAffinityChange lets terms only become narrower.
func nodeAffinityChange(new, old *corev1.NodeAffinity, at *field.Path) field.ErrorList {
	var l validate.List
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	at = at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	before := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var after []corev1.NodeSelectorTerm
	if new != nil && new.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		after = new.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(before) > 0 && len(before) != len(after) {
		l.Invalid(at, after, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return l.Errs
	}
	narrower := func(now, was []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(was) && (len(was) == 0 || equality.Semantic.DeepEqual(now[:len(was)], was))
	}
	for i := range before {
		now, was := &after[i], &before[i]
		filled := len(was.MatchExpressions)+len(was.MatchFields) == 0 && len(now.MatchExpressions)+len(now.MatchFields) > 0
		if filled || !narrower(now.MatchExpressions, was.MatchExpressions) || !narrower(now.MatchFields, was.MatchFields) {
			l.Invalid(at.Index(i), *now, "only additions are allowed (no mutations or deletions)")
		}
	}
	return l.Errs
}

// deadlineChange lets a deadline be set, and then only come closer. It says whether anything else is worth checking.
func deadlineChange(l *validate.List, new, old *int64, at *field.Path) bool {
	switch {
	case new == nil:
		if old != nil {
			l.Invalid(at, nil, "must not update from a positive integer to nil value")
		}
		return true
	case *new < 0 || *new > math.MaxInt32:
		l.Invalid(at, *new, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case old != nil && *old < *new:
		l.Invalid(at, *new, "must be less than or equal to previous value")
		return false
	}
	return true
}

// tolerationChange lets tolerations be added, and of those that are there the seconds change.
func tolerationChange(new, old []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, was := range old {
		found := false
		for _, now := range new {
			now.TolerationSeconds = was.TolerationSeconds
			found = found || reflect.DeepEqual(now, was)
		}
		if !found {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

// annotationChanges refuses to touch those annotations that say how the pod came to be.
func annotationChanges(new, old map[string]string, at *field.Path) field.ErrorList {
	var l validate.List
	refuse := func(key, armor, mirror string) {
		if strings.HasPrefix(key, appArmorPrefix) {
			l.Forbidden(at.Key(key), armor)
		}
		if key == corev1.MirrorPodAnnotationKey {
			l.Forbidden(at.Key(key), mirror)
		}
	}
	for key, was := range validate.InOrder(old) {
		if now, ok := new[key]; !ok || now != was {
			refuse(key, "may not remove or update AppArmor annotations", "may not remove or update mirror pod annotation")
		}
	}
	for key := range validate.InOrder(new) {
		if _, ok := old[key]; !ok {
			refuse(key, "may not add AppArmor annotations", "may not add mirror pod annotation")
		}
	}
	return l.Errs
}
