package profile

import (
	"fmt"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// point is where a plugin takes part in scheduling, in the words of the file.
type point string

const (
	preEnqueue point = "preEnqueue"
	queueSort  point = "queueSort"
	preFilter  point = "preFilter"
	filter     point = "filter"
	postFilter point = "postFilter"
	preScore   point = "preScore"
	score      point = "score"
	reserve    point = "reserve"
	permit     point = "permit"
	preBind    point = "preBind"
	bind       point = "bind"
	postBind   point = "postBind"
	multiPoint point = "multiPoint"
)

var allPoints = []point{preEnqueue, queueSort, preFilter, filter, postFilter, preScore, score, reserve, permit, preBind, bind, postBind}

// plugin is one of Kubernetes' own, and where it takes part.
type plugin struct {
	name   string
	weight int32 // of the default profile, if it scores
	absent bool  // here is nothing that it would look at; it may be disabled, and enabling it is refused
	points []point
}

// plugins in the order of Kubernetes' default profile.
var plugins = []plugin{
	{name: "SchedulingGates", points: []point{preEnqueue}},
	{name: "PrioritySort", points: []point{queueSort}},
	{name: "NodeUnschedulable", points: []point{filter}},
	{name: "NodeName", points: []point{filter}},
	{name: "TaintToleration", weight: 3, points: []point{filter, preScore, score}},
	{name: "NodeAffinity", weight: 2, points: []point{preFilter, filter, preScore, score}},
	{name: "NodePorts", points: []point{preFilter, filter}},
	{name: "NodeResourcesFit", weight: 1, points: []point{preFilter, filter, preScore, score}},
	{name: "VolumeRestrictions", points: []point{preFilter, filter}},
	{name: "NodeVolumeLimits", absent: true, points: []point{preFilter, filter}},
	{name: "VolumeBinding", points: []point{preFilter, filter, reserve, preBind}},
	{name: "VolumeZone", points: []point{preFilter, filter}},
	{name: "PodTopologySpread", weight: 2, points: []point{preFilter, filter, preScore, score}},
	{name: "InterPodAffinity", weight: 2, points: []point{preFilter, filter, preScore, score}},
	{name: "DynamicResources", absent: true, points: []point{preEnqueue, preFilter, filter, postFilter, score, reserve, preBind}},
	{name: "NodeDeclaredFeatures", absent: true, points: []point{preFilter, filter}},
	{name: "DefaultPreemption", points: []point{preEnqueue, postFilter}},
	{name: "NodeResourcesBalancedAllocation", weight: 1, points: []point{preScore, score}},
	{name: "ImageLocality", weight: 1, points: []point{score}},
	{name: "DefaultBinder", points: []point{bind}},
}

// gone are plugins of earlier versions of the file.
var gone = []string{"AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"}

func pluginOf(name string) *plugin {
	i := slices.IndexFunc(plugins, func(p plugin) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return &plugins[i]
}

func (p *plugin) at(at point) bool { return slices.Contains(p.points, at) }

// choice is a plugin that a file names.
type choice struct {
	Name   string `json:"name"`
	Weight *int32 `json:"weight,omitempty"`
}

// choices is what a file says of one point. A disabled "*" is all that are there by default.
type choices struct {
	Enabled  []choice `json:"enabled,omitempty"`
	Disabled []choice `json:"disabled,omitempty"`
}

func (c choices) disables(name string) bool {
	return slices.ContainsFunc(c.Disabled, func(d choice) bool { return d.Name == name })
}

func (c choices) enables(name string) bool {
	return slices.ContainsFunc(c.Enabled, func(e choice) bool { return e.Name == name })
}

// set is which plugins take part at each point, in their order, and what the scores weigh.
type set struct {
	at      map[point][]string
	weights map[string]int64
}

func (s *set) has(at point, name string) bool { return slices.Contains(s.at[at], name) }

// combine puts what the file says over the default profile, by Kubernetes' rules: multiPoint first, where a plugin that is named again keeps its place; then each point,
// where those that are named go before the others if they were there anyhow, and after them if not.
func combine(said map[point]choices, at *field.Path) (*set, field.ErrorList) {
	errs := check(said, at)
	if len(errs) > 0 {
		return nil, errs
	}
	everywhere := said[multiPoint]
	var spread []choice
	if !everywhere.disables("*") {
		for _, p := range plugins {
			if p.absent || everywhere.disables(p.name) {
				continue
			}
			c := choice{Name: p.name, Weight: &p.weight}
			if i := slices.IndexFunc(everywhere.Enabled, func(e choice) bool { return e.Name == p.name }); i >= 0 {
				c = everywhere.Enabled[i]
			}
			spread = append(spread, c)
		}
	}
	for _, e := range everywhere.Enabled {
		if !slices.ContainsFunc(spread, func(c choice) bool { return c.Name == e.Name }) {
			spread = append(spread, e)
		}
	}
	s := &set{at: map[point][]string{}, weights: map[string]int64{}}
	for _, pt := range allPoints {
		s.at[pt] = order(pt, said[pt], spread)
	}
	total := int64(0)
	for _, list := range [][]choice{said[score].Enabled, spread} { // what is said of scoring itself comes first
		for _, c := range list {
			if _, known := s.weights[c.Name]; known || !s.has(score, c.Name) {
				continue
			}
			weight := int64(1)
			if c.Weight != nil && *c.Weight != 0 {
				weight = int64(*c.Weight)
			}
			s.weights[c.Name] = weight
			total += weight
		}
	}
	if total > math.MaxInt32/100 {
		errs = append(errs, field.Invalid(at, total, "total score of Score plugins could overflow"))
	}
	return s, errs
}

func order(pt point, said choices, spread []choice) (names []string) {
	var meant []string // by multiPoint
	if !said.disables("*") {
		for _, c := range spread {
			if pluginOf(c.Name).at(pt) && !said.disables(c.Name) {
				meant = append(meant, c.Name)
			}
		}
	}
	for _, e := range said.Enabled {
		if slices.Contains(meant, e.Name) {
			names = append(names, e.Name)
		}
	}
	for _, name := range meant {
		if !said.enables(name) {
			names = append(names, name)
		}
	}
	for _, e := range said.Enabled {
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// check looks for plugins that are not there, or not there.
func check(said map[point]choices, at *field.Path) (errs field.ErrorList) {
	for _, pt := range append([]point{multiPoint}, allPoints...) {
		for i, c := range said[pt].Enabled {
			at := at.Child(string(pt), "enabled").Index(i)
			p := pluginOf(c.Name)
			switch {
			case slices.Contains(gone, c.Name):
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("was invalid in version %q (KubeSchedulerConfiguration is version %q)", version, version)))
			case p == nil:
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("the plugin %q does not exist here; there are %s", c.Name, known())))
			case p.absent:
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("%s is not served here: it may only be disabled", c.Name)))
			case pt != multiPoint && !p.at(pt):
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("plugin %q does not extend %s", c.Name, pt)))
			case c.Weight != nil && *c.Weight < 0:
				errs = append(errs, field.Invalid(at.Child("weight"), *c.Weight, "must not be negative"))
			case slices.ContainsFunc(said[pt].Enabled[:i], func(other choice) bool { return other.Name == c.Name }):
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("plugin %q already registered", c.Name)))
			}
		}
		for i, c := range said[pt].Disabled {
			if c.Name != "*" && pluginOf(c.Name) == nil && !slices.Contains(gone, c.Name) {
				at := at.Child(string(pt), "disabled").Index(i)
				errs = append(errs, field.Invalid(at, c.Name, fmt.Sprintf("the plugin %q does not exist here; there are %s", c.Name, known())))
			}
		}
	}
	return errs
}

// whole looks at what all points together come to.
func (s *set) whole(profile string, at *field.Path) (errs field.ErrorList) {
	refuse := func(pt point, format string, args ...any) {
		errs = append(errs, field.Invalid(at.Child(string(pt)), s.at[pt], fmt.Sprintf(format, args...)))
	}
	if n := len(s.at[queueSort]); n != 1 {
		refuse(queueSort, "only one queue sort plugin required for profile with scheduler name %q, but got %d", profile, n)
	}
	if len(s.at[bind]) == 0 {
		refuse(bind, "at least one bind plugin is needed for profile with scheduler name %q", profile)
	}
	if !s.has(preEnqueue, "SchedulingGates") {
		refuse(preEnqueue, "SchedulingGates cannot be disabled here: pods with scheduling gates are never bound")
	}
	for _, p := range plugins {
		for before, pt := range map[point]point{preFilter: filter, preScore: score} {
			if p.at(before) && s.has(pt, p.name) && !s.has(before, p.name) {
				refuse(before, "%s is one piece at %s and %s here: disable it at both, or at neither", p.name, before, pt)
			}
		}
	}
	if !s.has(filter, "VolumeBinding") {
		return errs
	}
	for _, pt := range []point{reserve, preBind} {
		if !s.has(pt, "VolumeBinding") {
			refuse(pt, "VolumeBinding is one piece at filter, reserve and preBind here: disable it at multiPoint, or not at all")
		}
	}
	return errs
}

func known() (names []string) {
	for _, p := range plugins {
		if !p.absent {
			names = append(names, p.name)
		}
	}
	return names
}

// FilterNames are the plugins that may decide whether a node will do, in Kubernetes' order.
func FilterNames() (names []string) {
	for _, p := range plugins {
		if p.at(filter) && !p.absent {
			names = append(names, p.name)
		}
	}
	return names
}
