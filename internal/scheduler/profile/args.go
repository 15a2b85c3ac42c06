package profile

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	strictjson "sigs.k8s.io/json"
)

// named is what every plugin's args may say of themselves.
type named struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
}

func (n named) says() named { return n }

type weightedFile struct {
	Name   string `json:"name"`
	Weight int64  `json:"weight,omitempty"`
}

type fitArgs struct {
	named
	IgnoredResources      []string `json:"ignoredResources,omitempty"`
	IgnoredResourceGroups []string `json:"ignoredResourceGroups,omitempty"`
	ScoringStrategy       *struct {
		Type                     string         `json:"type,omitempty"`
		Resources                []weightedFile `json:"resources,omitempty"`
		RequestedToCapacityRatio *struct {
			Shape []struct {
				Utilization int32 `json:"utilization"`
				Score       int32 `json:"score"`
			} `json:"shape,omitempty"`
		} `json:"requestedToCapacityRatio,omitempty"`
	} `json:"scoringStrategy,omitempty"`
}

type balancedArgs struct {
	named
	Resources []weightedFile `json:"resources,omitempty"`
}

type spreadArgs struct {
	named
	DefaultConstraints []corev1.TopologySpreadConstraint `json:"defaultConstraints,omitempty"`
	DefaultingType     string                            `json:"defaultingType,omitempty"`
}

type interPodArgs struct {
	named
	HardPodAffinityWeight              *int32 `json:"hardPodAffinityWeight,omitempty"`
	IgnorePreferredTermsOfExistingPods bool   `json:"ignorePreferredTermsOfExistingPods,omitempty"`
}

type nodeAffinityArgs struct {
	named
	AddedAffinity *corev1.NodeAffinity `json:"addedAffinity,omitempty"`
}

type preemptionArgs struct {
	named
	MinCandidateNodesPercentage *int32 `json:"minCandidateNodesPercentage,omitempty"`
	MinCandidateNodesAbsolute   *int32 `json:"minCandidateNodesAbsolute,omitempty"`
}

// take reads the plugins' args, and fills in what they leave out.
func (p *Profile) take(list []pluginConfig, at *field.Path) (errs field.ErrorList) {
	var fit fitArgs
	var balanced balancedArgs
	var spread spreadArgs
	var neighbours interPodArgs
	var nodes nodeAffinityArgs
	var preemption preemptionArgs
	of := map[string]interface{ says() named }{
		"NodeResourcesFit": &fit, "NodeResourcesBalancedAllocation": &balanced, "PodTopologySpread": &spread,
		"InterPodAffinity": &neighbours, "NodeAffinity": &nodes, "DefaultPreemption": &preemption,
	}
	where := map[string]*field.Path{}
	for i, c := range list {
		at := at.Index(i)
		switch args := of[c.Name]; {
		case where[c.Name] != nil:
			errs = append(errs, field.Duplicate(at, c.Name))
		case args == nil && pluginOf(c.Name) == nil:
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, fmt.Sprintf("the plugin %q does not exist here; there are %s", c.Name, known())))
		case args == nil:
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, fmt.Sprintf("%s takes no args here", c.Name)))
		case len(c.Args) > 0:
			errs = append(errs, decode(c.Name, c.Args, args, at.Child("args"))...)
		}
		where[c.Name] = at.Child("args")
	}
	if len(errs) > 0 {
		return errs
	}
	errs = append(errs, p.takeFit(&fit, where["NodeResourcesFit"])...)
	errs = append(errs, p.takeBalanced(&balanced, where["NodeResourcesBalancedAllocation"])...)
	errs = append(errs, p.takeSpread(&spread, where["PodTopologySpread"])...)
	errs = append(errs, p.takeInterPod(&neighbours, where["InterPodAffinity"])...)
	errs = append(errs, p.takeNodeAffinity(&nodes, where["NodeAffinity"])...)
	return append(errs, p.takePreemption(&preemption, where["DefaultPreemption"])...)
}

func decode(name string, data json.RawMessage, into interface{ says() named }, at *field.Path) (errs field.ErrorList) {
	unknown, err := strictjson.UnmarshalStrict(data, into)
	if err != nil {
		return field.ErrorList{field.Invalid(at, name, oneLine(err).Error())}
	}
	for _, e := range notServed(unknown) {
		e.Field = at.String() + "." + e.Field
		errs = append(errs, e)
	}
	if k := into.says(); k.Kind != "" && k.Kind != name+"Args" || k.APIVersion != "" && k.APIVersion != version {
		errs = append(errs, field.Invalid(at, k.Kind, "has to match plugin args: "+name+"Args of "+version))
	}
	return errs
}

func (p *Profile) takeFit(a *fitArgs, at *field.Path) (errs field.ErrorList) {
	p.Fit = Fit{Ignored: a.IgnoredResources, IgnoredGroups: a.IgnoredResourceGroups, Strategy: LeastAllocated}
	for i, name := range a.IgnoredResources {
		errs = append(errs, metav1validation.ValidateLabelName(name, at.Child("ignoredResources").Index(i))...)
	}
	for i, name := range a.IgnoredResourceGroups {
		at := at.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(name, "/") {
			errs = append(errs, field.Invalid(at, name, "resource group name can't contain '/'"))
		}
		errs = append(errs, metav1validation.ValidateLabelName(name, at)...)
	}
	var resources []weightedFile
	if s := a.ScoringStrategy; s != nil {
		at := at.Child("scoringStrategy")
		p.Fit.Strategy, resources = Strategy(s.Type), s.Resources
		switch p.Fit.Strategy {
		case LeastAllocated, MostAllocated, RequestedToCapacityRatio:
		default:
			errs = append(errs, field.NotSupported(at.Child("type"), s.Type, []Strategy{LeastAllocated, MostAllocated, RequestedToCapacityRatio}))
		}
		ratio := s.RequestedToCapacityRatio
		switch needed := p.Fit.Strategy == RequestedToCapacityRatio; {
		case needed && ratio == nil:
			errs = append(errs, field.Required(at.Child("requestedToCapacityRatio"), "must be specified when type is RequestedToCapacityRatio"))
		case needed:
			for _, point := range ratio.Shape {
				p.Fit.Shape = append(p.Fit.Shape, Point{Use: int64(point.Utilization), Score: int64(point.Score)})
			}
			errs = append(errs, shape(p.Fit.Shape, at.Child("requestedToCapacityRatio", "shape"))...)
		case ratio != nil:
			errs = append(errs, field.Forbidden(at.Child("requestedToCapacityRatio"), "must be nil when type is not RequestedToCapacityRatio"))
		}
	}
	for i, r := range weighed(resources) {
		if r.Weight <= 0 || r.Weight > 100 {
			errs = append(errs, field.Invalid(at.Child("scoringStrategy", "resources").Index(i).Child("weight"), r.Weight, fmt.Sprintf("resource weight of %v not in valid range (0, 100]", r.Name)))
		}
		p.Fit.Resources = append(p.Fit.Resources, r)
	}
	return errs
}

// weighed are the resources with weights; CPU and memory where none are named.
func weighed(list []weightedFile) (all []Weighted) {
	if len(list) == 0 {
		return []Weighted{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}
	}
	for _, r := range list {
		w := Weighted{Name: corev1.ResourceName(r.Name), Weight: r.Weight}
		if w.Weight == 0 {
			w.Weight = 1
		}
		all = append(all, w)
	}
	return all
}

func shape(points []Point, at *field.Path) (errs field.ErrorList) {
	if len(points) == 0 {
		return field.ErrorList{field.Required(at, "at least one point must be specified")}
	}
	for i := 1; i < len(points); i++ {
		if points[i-1].Use >= points[i].Use {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), points[i].Use, "values must be sorted in increasing order"))
			break
		}
	}
	for i, point := range points {
		if point.Use < 0 || point.Use > 100 {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), point.Use, "not in valid range [0, 100]"))
		}
		if point.Score < 0 || point.Score > 10 {
			errs = append(errs, field.Invalid(at.Index(i).Child("score"), point.Score, "not in valid range [0, 10]"))
		}
	}
	return errs
}

func (p *Profile) takeBalanced(a *balancedArgs, at *field.Path) (errs field.ErrorList) {
	seen := map[corev1.ResourceName]bool{}
	for i, r := range weighed(a.Resources) {
		at := at.Child("resources").Index(i)
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), string(r.Name)))
		}
		seen[r.Name] = true
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(at.Child("weight"), r.Weight, "must be 1"))
		}
		p.Balanced = append(p.Balanced, r.Name)
	}
	return errs
}

func (p *Profile) takeSpread(a *spreadArgs, at *field.Path) (errs field.ErrorList) {
	p.Spread = Spread{System: a.DefaultingType == "" || a.DefaultingType == "System", Constraints: a.DefaultConstraints}
	kinds := []string{"System", "List"}
	switch {
	case !p.Spread.System && a.DefaultingType != "List":
		errs = append(errs, field.NotSupported(at.Child("defaultingType"), a.DefaultingType, kinds))
	case p.Spread.System && len(a.DefaultConstraints) > 0:
		errs = append(errs, field.Invalid(at.Child("defaultingType"), "System", "when .defaultConstraints are not empty"))
	}
	list := at.Child("defaultConstraints")
	for i := range a.DefaultConstraints {
		errs = append(errs, constraint(a.DefaultConstraints, i, list)...)
	}
	return errs
}

func constraint(all []corev1.TopologySpreadConstraint, i int, list *field.Path) (errs field.ErrorList) {
	c, at := &all[i], list.Index(i)
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
	}
	if c.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
	}
	switch c.WhenUnsatisfiable {
	case corev1.DoNotSchedule, corev1.ScheduleAnyway:
	case "":
		errs = append(errs, field.Required(at.Child("whenUnsatisfiable"), "can not be empty"))
	default:
		errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
	}
	if c.LabelSelector != nil {
		errs = append(errs, field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
	}
	for k := range all[:i] {
		if all[k].TopologyKey == c.TopologyKey && all[k].WhenUnsatisfiable == c.WhenUnsatisfiable {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
			break
		}
	}
	return errs
}

func (p *Profile) takeInterPod(a *interPodArgs, at *field.Path) field.ErrorList {
	p.InterPod = InterPod{HardWeight: 1, IgnoreOthers: a.IgnorePreferredTermsOfExistingPods}
	if w := a.HardPodAffinityWeight; w != nil {
		p.InterPod.HardWeight = int64(*w)
		if *w < 0 || *w > 100 {
			return field.ErrorList{field.Invalid(at.Child("hardPodAffinityWeight"), *w, "not in valid range [0, 100]")}
		}
	}
	return nil
}

func (p *Profile) takeNodeAffinity(a *nodeAffinityArgs, at *field.Path) (errs field.ErrorList) {
	p.Added = a.AddedAffinity
	if p.Added == nil {
		return nil
	}
	at = at.Child("addedAffinity")
	if s := p.Added.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
		if _, err := nodeaffinity.NewNodeSelector(s); err != nil {
			errs = append(errs, field.Invalid(at.Child("requiredDuringSchedulingIgnoredDuringExecution"), "", oneLine(err).Error()))
		}
	}
	if terms := p.Added.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		if _, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err != nil {
			errs = append(errs, field.Invalid(at.Child("preferredDuringSchedulingIgnoredDuringExecution"), "", oneLine(err).Error()))
		}
	}
	return errs
}

func (p *Profile) takePreemption(a *preemptionArgs, at *field.Path) (errs field.ErrorList) {
	percent, absolute := int32(10), int32(100)
	if a.MinCandidateNodesPercentage != nil {
		percent = *a.MinCandidateNodesPercentage
	}
	if a.MinCandidateNodesAbsolute != nil {
		absolute = *a.MinCandidateNodesAbsolute
	}
	p.Candidates = Candidates{Percentage: int(percent), Absolute: int(absolute)}
	percentAt, absoluteAt := at.Child("minCandidateNodesPercentage"), at.Child("minCandidateNodesAbsolute")
	if percent < 0 || percent > 100 {
		errs = append(errs, field.Invalid(percentAt, percent, "not in valid range [0, 100]"))
	}
	if absolute < 0 {
		errs = append(errs, field.Invalid(absoluteAt, absolute, "not in valid range [0, inf)"))
	}
	if percent == 0 && absolute == 0 {
		errs = append(errs, field.Invalid(percentAt, percent, "cannot be zero at the same time as minCandidateNodesAbsolute"),
			field.Invalid(absoluteAt, absolute, "cannot be zero at the same time as minCandidateNodesPercentage"))
	}
	return errs
}
