package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"sampan.dev/internal/scheduler/profile"
)

// Plans are the profiles worked out: for each spec.schedulerName what its pods are asked, and in which order.
type Plans struct {
	// Services gives the selectors of a namespace's Services: what pods that nobody owns are spread by, if they say nothing of it. It may be nil.
	Services func(namespace string) []labels.Selector

	byName map[string]*plan
}

// plan is one profile worked out. It is made once and never changed.
type plan struct {
	name    string
	filters []filter
	reads   Filters // the bits of filters
	weigh   weights
	profile *profile.Profile

	fit       func(*Need, *Node) int64
	balance   func(*Need, *Node) int64
	added     *nodeaffinity.NodeSelector             // that every node has to match; nil: any does
	preferred *nodeaffinity.PreferredSchedulingTerms // besides the pod's own; nil: none
}

// weights of the scores; zero: it is not worked out.
type weights struct{ taints, affinity, fit, balance, spread, company, image int64 }

// NewPlans works out the profiles.
func NewPlans(c profile.Config) *Plans {
	p := &Plans{byName: map[string]*plan{}}
	for i := range c.Profiles {
		p.byName[c.Profiles[i].Name] = planOf(&c.Profiles[i])
	}
	return p
}

func planOf(p *profile.Profile) *plan {
	w := p.Weights
	pl := &plan{
		name: p.Name, profile: p, fit: fitScore(&p.Fit), balance: balanceScore(p.Balanced),
		weigh: weights{
			taints: w["TaintToleration"], affinity: w["NodeAffinity"], fit: w["NodeResourcesFit"], balance: w["NodeResourcesBalancedAllocation"],
			spread: w["PodTopologySpread"], company: w["InterPodAffinity"], image: w["ImageLocality"],
		},
	}
	for _, name := range p.Filters {
		if i := slices.IndexFunc(filters[:], func(f filter) bool { return f.name == name }); i >= 0 {
			pl.filters = append(pl.filters, filters[i])
			pl.reads |= filters[i].bit
		}
	}
	if a := p.Added; a != nil { // it has been read before: there is no error
		if s := a.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
			pl.added, _ = nodeaffinity.NewNodeSelector(s)
		}
		if terms := a.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			pl.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(terms)
		}
	}
	return pl
}

// Need is what the pod asks of a node, by its profile; nil if no profile has the name that it asks for.
func (p *Plans) Need(pod *corev1.Pod) *Need {
	pl := p.of(pod)
	if pl == nil {
		return nil
	}
	return needOf(pod, pl, p.Services)
}

func (p *Plans) of(pod *corev1.Pod) *plan {
	if name := pod.Spec.SchedulerName; name != "" {
		return p.byName[name]
	}
	return p.byName[Name]
}

// ignores says whether the profile does without a resource of nodes. Only extended ones can be ignored.
func (pl *plan) ignores(name corev1.ResourceName) bool {
	f := &pl.profile.Fit
	group, _, has := strings.Cut(string(name), "/")
	if !has || strings.HasSuffix(group, "kubernetes.io") {
		return false
	}
	return slices.Contains(f.Ignored, string(name)) || slices.Contains(f.IgnoredGroups, group)
}

// checked is what of an extended sort a node has to have: all that is asked for, if the profile ignores nothing.
func (pl *plan) checked(asked map[corev1.ResourceName]int64) map[corev1.ResourceName]int64 {
	if len(asked) == 0 || len(pl.profile.Fit.Ignored)+len(pl.profile.Fit.IgnoredGroups) == 0 {
		return asked
	}
	rest := map[corev1.ResourceName]int64{}
	for name, n := range asked {
		if !pl.ignores(name) {
			rest[name] = n
		}
	}
	return rest
}
