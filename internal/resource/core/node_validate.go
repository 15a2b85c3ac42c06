package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/validate"
)

func node(n *corev1.Node) field.ErrorList {
	var l validate.List
	l.Add(taints(n.Spec.Taints, root("metadata", "taints"))...) // upstream names this path, though taints are in spec
	l.Add(nodeResources(n)...)
	l.Add(podRanges(n.Spec.PodCIDRs)...)
	return l.Errs
}

func podRanges(ranges []string) field.ErrorList {
	var l validate.List
	at := root("spec", "podCIDRs")
	seen := validate.Seen{}
	for i, r := range ranges {
		l.Add(validation.IsValidCIDR(at.Index(i), r)...)
	}
	if len(ranges) < 2 {
		return l.Errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(ranges)
	if err != nil {
		l.Add(field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
	}
	if !dual || len(ranges) > 2 {
		l.Invalid(at, ranges, "may specify no more than one CIDR for each IP family")
	}
	for i, r := range ranges {
		if seen.Again(r) {
			l.Add(field.Duplicate(at.Index(i), r))
		}
	}
	return l.Errs
}

func nodeResources(n *corev1.Node) field.ErrorList {
	var l validate.List
	for name, q := range validate.InOrder(n.Status.Capacity) {
		l.Quantity(root("status", "capacity", string(name)), q, wholeResource(name))
	}
	for name, q := range validate.InOrder(n.Status.Allocatable) {
		l.Quantity(root("status", "allocatable", string(name)), q, wholeResource(name))
	}
	return l.Errs
}

func nodeUpdate(n, old *corev1.Node) field.ErrorList {
	var l validate.List
	l.Add(nodeResources(n)...)
	seen := make(map[corev1.NodeAddress]bool)
	for i, a := range n.Status.Addresses {
		if seen[a] {
			l.Add(field.Duplicate(root("status", "addresses").Index(i), a))
		}
		seen[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		l.Forbidden(root("spec", "podCIDRs"), `node updates may not change podCIDR except from "" to valid`)
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		l.Forbidden(root("spec", "providerID"), `node updates may not change providerID except from "" to valid`)
	}
	l.Add(taints(n.Spec.Taints, root("metadata", "taints"))...)
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		l.Forbidden(root("spec", "externalID"), "may not be updated")
	}
	return l.Errs
}

func taints(taints []corev1.Taint, at *field.Path) field.ErrorList {
	var l validate.List
	seen := validate.Seen{}
	for i, t := range taints {
		at := at.Index(i)
		l.Add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
			l.Invalid(at.Child("value"), t.Value, strings.Join(msgs, ";"))
		}
		validate.OneOfRequired(&l, at.Child("effect"), t.Effect, taintEffects...)
		if seen.Again(string(t.Effect) + "/" + t.Key) {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			l.Add(twice)
		}
	}
	return l.Errs
}

var taintEffects = []corev1.TaintEffect{
	corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute,
}
