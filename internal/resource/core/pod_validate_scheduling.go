package core

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

func (c *podCheck) affinity(at *field.Path) {
	a := c.spec.Affinity
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			c.nodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required, "nodeSelectorTerms"))
		}
		for i, p := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			c.weight(p.Weight, at.Child(preferred).Index(i))
			c.nodeTerm(&p.Preference, false, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	terms := func(must []corev1.PodAffinityTerm, better []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i := range must {
			c.podTerm(&must[i], at.Child(required).Index(i))
		}
		for i := range better {
			c.weight(better[i].Weight, at.Child(preferred).Index(i))
			c.podTerm(&better[i].PodAffinityTerm, at.Child(preferred).Index(i).Child("podAffinityTerm"))
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (c *podCheck) weight(w int32, at *field.Path) {
	if w <= 0 || w > 100 {
		c.Invalid(at.Child("weight"), w, "must be in the range 1-100")
	}
}

func (c *podCheck) nodeSelector(s *corev1.NodeSelector, at *field.Path) {
	if len(s.NodeSelectorTerms) == 0 {
		c.Required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		c.nodeTerm(&s.NodeSelectorTerms[i], true, at.Index(i))
	}
}

// nodeTerm checks one term. The values of a preference are not checked: one that nothing matches does no harm.
func (c *podCheck) nodeTerm(t *corev1.NodeSelectorTerm, values bool, at *field.Path) {
	for i, r := range t.MatchExpressions {
		c.nodeExpression(&r, values, at.Child("matchExpressions").Index(i))
	}
	for i, r := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		if r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn {
			c.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		} else if len(r.Values) != 1 {
			c.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
		if r.Key != metav1.ObjectNameField {
			c.Invalid(at.Child("key"), r.Key, "not a valid field selector key")
			continue
		}
		for j, v := range r.Values {
			c.Subdomain(at.Child("values").Index(j), v)
		}
	}
}

func (c *podCheck) nodeExpression(r *corev1.NodeSelectorRequirement, values bool, at *field.Path) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			c.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			c.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			c.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		c.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
	}
	c.Add(metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
	if values {
		for i, v := range r.Values {
			c.Messages(at.Child("values").Index(i), v, validation.IsValidLabelValue(v))
		}
	}
}

func (c *podCheck) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	c.selector(t.LabelSelector, at.Child("labelSelector"))
	c.selector(t.NamespaceSelector, at.Child("namespaceSelector"))
	for _, ns := range t.Namespaces {
		c.Messages(at.Child("namespace"), ns, apivalidation.ValidateNamespaceName(ns, false))
	}
	for _, keys := range []struct {
		name string
		list []string
	}{{"matchLabelKeys", t.MatchLabelKeys}, {"mismatchLabelKeys", t.MismatchLabelKeys}} {
		if len(keys.list) > 0 && t.LabelSelector == nil {
			c.Forbidden(at.Child(keys.name), "must not be specified when labelSelector is not set")
			continue
		}
		for i, key := range keys.list {
			c.Add(metavalidation.ValidateLabelName(key, at.Child(keys.name).Index(i))...)
		}
	}
	if t.LabelSelector != nil {
		c.mergedTwice(t, at)
	}
	for i, key := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, key) {
			c.Invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
	if t.TopologyKey == "" {
		c.Required(at.Child("topologyKey"), "can not be empty")
	}
	c.Add(metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

// mergedTwice finds keys of matchLabelKeys that the selector named already, before they were merged into it.
func (c *podCheck) mergedTwice(t *corev1.PodAffinityTerm, at *field.Path) {
	seen := validate.Seen{}
	for key := range t.LabelSelector.MatchLabels {
		seen[key] = true
	}
	for _, e := range t.LabelSelector.MatchExpressions {
		again := seen.Again(e.Key)
		if i := slices.Index(t.MatchLabelKeys, e.Key); i >= 0 && again {
			c.Invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector")
		}
	}
}

func (c *podCheck) selector(s *metav1.LabelSelector, at *field.Path) {
	c.Add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)...)
}

// tolerations checks the taints that a pod endures.
func tolerations(list []corev1.Toleration, at *field.Path) field.ErrorList {
	var l validate.List
	for i, t := range list {
		at := at.Index(i)
		if t.Key != "" {
			l.Add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			l.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			l.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
				l.Invalid(at.Child("operator"), t.Value, strings.Join(msgs, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				l.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			validate.OneOf(&l, at.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			validate.OneOf(&l, at.Child("effect"), t.Effect, taintEffects...)
		}
	}
	return l.Errs
}

func (c *podCheck) schedulingGates(at *field.Path) {
	seen := validate.Seen{}
	for i, gate := range c.spec.SchedulingGates {
		c.QualifiedName(at.Index(i), gate.Name)
		if seen.Again(gate.Name) {
			c.Add(field.Duplicate(at.Index(i), gate.Name))
		}
	}
}

func (c *podCheck) spread(at *field.Path) {
	all := c.spec.TopologySpreadConstraints
	for i, s := range all {
		at := at.Index(i)
		if s.MaxSkew <= 0 {
			c.Invalid(at.Child("maxSkew"), s.MaxSkew, validate.NotPositive)
		}
		if s.TopologyKey == "" {
			c.Required(at.Child("topologyKey"), "can not be empty")
		}
		validate.OneOf(&c.List, at.Child("whenUnsatisfiable"), s.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		if slices.ContainsFunc(all[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == s.TopologyKey && o.WhenUnsatisfiable == s.WhenUnsatisfiable
		}) {
			c.Add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%s, %s}", s.TopologyKey, s.WhenUnsatisfiable)))
		}
		if s.MinDomains != nil {
			if *s.MinDomains <= 0 {
				c.Invalid(at.Child("minDomains"), *s.MinDomains, validate.NotPositive)
			}
			if s.WhenUnsatisfiable != corev1.DoNotSchedule {
				c.Invalid(at.Child("minDomains"), *s.MinDomains,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, s.WhenUnsatisfiable))
			}
		}
		for _, p := range []struct {
			name  string
			value *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", s.NodeAffinityPolicy}, {"nodeTaintsPolicy", s.NodeTaintsPolicy}} {
			if p.value != nil {
				validate.OneOf(&c.List, at.Child(p.name), *p.value, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			}
		}
		c.spreadKeys(&s, at.Child("matchLabelKeys"))
		c.selector(s.LabelSelector, at.Child("labelSelector"))
	}
}

// spreadKeys refuses keys that the selector names besides the requirement that was merged into it for them.
func (c *podCheck) spreadKeys(s *corev1.TopologySpreadConstraint, at *field.Path) {
	if len(s.MatchLabelKeys) > 0 && s.LabelSelector == nil {
		c.Forbidden(at, "must not be specified when labelSelector is not set")
	}
	for i, key := range s.MatchLabelKeys {
		c.Add(metavalidation.ValidateLabelName(key, at.Index(i))...)
		if s.LabelSelector == nil {
			continue
		}
		named := 0
		if _, ok := s.LabelSelector.MatchLabels[key]; ok {
			named++
		}
		for _, e := range s.LabelSelector.MatchExpressions {
			if e.Key == key {
				named++
			}
		}
		merged := 0
		if c.pod != nil {
			if _, ok := c.pod.Labels[key]; ok || !resource.IsNew(c.pod) {
				merged = 1 // the label may have gone since it was merged
			}
		}
		if named > merged {
			c.Invalid(at.Index(i), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
}

// deletionCost checks the annotation that says which pods to delete first.
func deletionCost(value string) bool {
	if value == "" {
		return false
	}
	if value[0] == '+' || value[0] == '0' && value != "0" {
		return false // neither sign nor zeros in front
	}
	_, err := strconv.ParseInt(value, 10, 32)
	return err == nil
}
