package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/scheduling"
)

// Priority turns a pod's priority class into a number, and sees to it that there is one default class at the most and that the system's own stay.
type Priority struct {
	state   state
	classes *resource.Kind
}

func newPriority(table *resource.Table, c *cache.Cache) *Priority {
	k, _ := table.ByKind(schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"))
	return &Priority{state: c, classes: k}
}

// Admit implements Step.
func (p *Priority) Admit(_ context.Context, a *Attributes) error {
	if a.Kind == p.classes && a.Sub == "" {
		return p.class(a)
	}
	pod := newPod(a)
	if pod == nil {
		return nil
	}
	name, value, policy, ok := p.of(pod.Spec.PriorityClassName)
	if !ok {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName))
	}
	pod.Spec.PriorityClassName = name
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	pod.Spec.Priority = &value
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// of finds the class of that name; without a name it is the default one, or none, which is 0.
func (p *Priority) of(name string) (class string, value int32, policy corev1.PreemptionPolicy, ok bool) {
	policy = corev1.PreemptLowerPriority
	if value, system := scheduling.System[name]; system { // these are meant before they are there
		return name, value, policy, true
	}
	snap := p.state.Snapshot()
	if name != "" {
		o := snap.Get(p.classes, "", name)
		if o == nil {
			return "", 0, policy, false
		}
		c := cache.Typed[*schedulingv1.PriorityClass](o)
		if c.PreemptionPolicy != nil {
			policy = *c.PreemptionPolicy
		}
		return name, c.Value, policy, true
	}
	for o := range snap.List(p.classes, cache.Selection{}) { // of several defaults, which a race can make, the least counts
		c := cache.Typed[*schedulingv1.PriorityClass](o)
		if c.GlobalDefault && (class == "" || c.Value < value) {
			class, value = c.Name, c.Value
			if policy = corev1.PreemptLowerPriority; c.PreemptionPolicy != nil {
				policy = *c.PreemptionPolicy
			}
		}
	}
	return class, value, policy, true
}

func (p *Priority) class(a *Attributes) error {
	if a.Operation == Delete {
		if _, system := scheduling.System[a.Name]; system {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("this is a system priority class and cannot be deleted"))
		}
		return nil
	}
	c, is := a.Object.(*schedulingv1.PriorityClass)
	if !is || !c.GlobalDefault {
		return nil
	}
	for o := range p.state.Snapshot().List(p.classes, cache.Selection{}) {
		if o.Name() != c.Name && cache.Typed[*schedulingv1.PriorityClass](o).GlobalDefault {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", o.Name()))
		}
	}
	return nil
}
