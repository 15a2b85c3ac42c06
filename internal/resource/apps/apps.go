// Package apps is the kinds of the apps group, one file a kind.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and columns
// have upstream's words; a pod template is defaulted and checked as pods are.
package apps

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of apps/v1, in the order discovery shows them.
func Kinds() []*resource.Kind {
	return []*resource.Kind{ControllerRevision(), DaemonSet(), Deployment(), ReplicaSet(), StatefulSet()}
}

func gvk(kind string) schema.GroupVersionKind { return appsv1.SchemeGroupVersion.WithKind(kind) }

func replicasOf(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

// selectorText is a selector as it stands in a query; empty if it makes no sense.
func selectorText(s *metav1.LabelSelector) string {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return sel.String()
}

// nameWarning tells of names that make bad names of hosts.
func nameWarning(o resource.Object) []string {
	if !resource.IsNew(o) {
		return nil
	}
	if wrong := validation.IsDNS1123Label(o.GetName()); len(wrong) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", wrong)}
	}
	return nil
}

// check collects what is wrong with a kind of this group.
type check struct{ validate.List }

// selector checks a selector that must be there and select something, and gives what it selects; nil if nobody can tell.
func (c *check) selector(s *metav1.LabelSelector, of string, at *field.Path) labels.Selector {
	if s == nil {
		c.Required(at, "")
	} else {
		c.Add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)...)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			c.Invalid(at, s, "empty selector is invalid for "+of)
		}
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		c.Invalid(at, s, "invalid label selector")
		return nil
	}
	return sel
}

// template checks what pods are made of: the selector must select them, and they must run for ever.
func (c *check) template(t *corev1.PodTemplateSpec, sel labels.Selector, of string, at *field.Path) {
	if !sel.Empty() && !sel.Matches(labels.Set(t.Labels)) {
		c.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	c.Add(core.ValidatePodTemplateSpec(t, at)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		c.Add(field.NotSupported(at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		c.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+of+" is not Supported")
	}
}

// amount demands a number that is not negative, or a percentage.
func (c *check) amount(v *intstr.IntOrString, at *field.Path) {
	switch {
	case v == nil:
	case v.Type == intstr.String:
		c.Messages(at, v, validation.IsValidPercent(v.StrVal))
	default:
		c.NonNegative(at, int64(v.IntValue()))
	}
}

// atMostAll demands no more than 100 %.
func (c *check) atMostAll(v *intstr.IntOrString, at *field.Path) {
	if n, ok := percent(v); ok && n > 100 {
		c.Invalid(at, v, "must not be greater than 100%")
	}
}

func percent(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil
}

// isZero says that an amount is none, in numbers or in per cent.
func isZero(v *intstr.IntOrString) bool {
	if n, ok := percent(v); ok {
		return n == 0
	}
	return v == nil || v.IntValue() == 0
}

// count demands a number that is not negative, where there is one.
func (c *check) count(n *int32, at *field.Path) {
	if n != nil {
		c.NonNegative(at, int64(*n))
	}
}

// tally is the counts of a status; have is how many pods there are, ready how many of these are ready.
type tally struct {
	name string
	n    int32
}

func (c *check) tallies(have, ready int32, parts []tally, at *field.Path) {
	for _, p := range parts {
		if p.n > have {
			c.Invalid(at.Child(p.name), p.n, "cannot be greater than status.replicas")
		}
	}
	for _, p := range parts {
		if p.name == "availableReplicas" && p.n > ready {
			c.Invalid(at.Child(p.name), p.n, "cannot be greater than readyReplicas")
		}
	}
}
