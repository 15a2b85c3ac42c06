package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// Limits of behaviors, in seconds.
const (
	longestPeriod = 1800
	longestWindow = 3600
)

// check collects what is wrong with an autoscaler.
type check struct{ validate.List }

// autoscaler checks a spec. What an update may keep although it is wrong is checked of new ones only, here.
func autoscaler(s *autoscalingv2.HorizontalPodAutoscalerSpec, isNew bool) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		c.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	c.reference(s.ScaleTargetRef, at.Child("scaleTargetRef"))
	if isNew {
		c.targetVersion(s.ScaleTargetRef, at.Child("scaleTargetRef"))
	}
	outward := false
	for i := range s.Metrics {
		c.metric(&s.Metrics[i], at.Child("metrics").Index(i), isNew)
		outward = outward || s.Metrics[i].Type == autoscalingv2.ObjectMetricSourceType || s.Metrics[i].Type == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outward {
		c.Forbidden(at.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas")
	}
	if b := s.Behavior; b != nil {
		c.rules(b.ScaleUp, at.Child("behavior", "scaleUp"))
		c.rules(b.ScaleDown, at.Child("behavior", "scaleDown"))
	}
	// What upstream's schema declares it reports last.
	if n := s.MinReplicas; n != nil && (*n < 0 || *n == 0 && isNew) {
		c.Invalid(at.Child("minReplicas"), *n, content.MinError(1))
	}
	switch n := s.MaxReplicas; {
	case n == 0:
		c.Required(at.Child("maxReplicas"), "")
	case n < 0:
		c.Invalid(at.Child("maxReplicas"), n, content.MinError(1))
	}
	return c.Errs
}

// autoscalerUpdate checks what is new in an update.
func autoscalerUpdate(s, old *autoscalingv2.HorizontalPodAutoscalerSpec) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	if n, was := s.MinReplicas, old.MinReplicas; n != nil && *n == 0 && (was == nil || *was != 0) {
		c.Invalid(at.Child("minReplicas"), *n, content.MinError(1))
	}
	if ref, was := s.ScaleTargetRef, old.ScaleTargetRef; ref.APIVersion != was.APIVersion || ref.Kind != was.Kind {
		c.targetVersion(ref, at.Child("scaleTargetRef"))
	}
	bad := func(m autoscalingv2.MetricSpec) bool {
		if m.Type != autoscalingv2.ObjectMetricSourceType || m.Object == nil {
			return false
		}
		_, err := schema.ParseGroupVersion(m.Object.DescribedObject.APIVersion)
		return err != nil
	}
	if slices.ContainsFunc(old.Metrics, bad) {
		return c.Errs
	}
	for i := range s.Metrics {
		if o := s.Metrics[i].Object; o != nil {
			c.version(o.DescribedObject, at.Child("metrics").Index(i).Child("object", "describedObject"), true)
		}
	}
	return c.Errs
}

func autoscalerStatus(s *autoscalingv2.HorizontalPodAutoscalerStatus) field.ErrorList {
	var c check
	at := field.NewPath("status")
	c.NonNegative(at.Child("currentReplicas"), int64(s.CurrentReplicas))
	c.NonNegative(at.Child("desiredReplicas"), int64(s.DesiredReplicas))
	return c.Errs
}

func (c *check) reference(ref autoscalingv2.CrossVersionObjectReference, at *field.Path) {
	for _, part := range []struct{ name, value string }{{"kind", ref.Kind}, {"name", ref.Name}} {
		if part.value == "" {
			c.Required(at.Child(part.name), "")
			continue
		}
		c.Messages(at.Child(part.name), part.value, content.IsPathSegmentName(part.value))
	}
}

// targetVersion demands the version of what is scaled. In the core group there is one kind that can be.
func (c *check) targetVersion(ref autoscalingv2.CrossVersionObjectReference, at *field.Path) {
	c.version(ref, at, ref.Kind == "ReplicationController")
}

func (c *check) version(ref autoscalingv2.CrossVersionObjectReference, at *field.Path, coreToo bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	switch {
	case err != nil:
		c.Invalid(at.Child("apiVersion"), ref.APIVersion, err.Error())
	case gv.Group == "" && !coreToo:
		c.Invalid(at.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group")
	}
}

// metric checks one metric: its type, that the source of this type is there, and alone, and the first source of those that are.
func (c *check) metric(m *autoscalingv2.MetricSpec, at *field.Path, isNew bool) {
	known := []autoscalingv2.MetricSourceType{
		autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
		autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
	}
	if m.Type == "" {
		c.Required(at.Child("type"), "must specify a metric source type")
	}
	if !slices.Contains(known, m.Type) {
		c.Add(field.NotSupported(at.Child("type"), m.Type, known))
	}
	sources := []struct {
		of    autoscalingv2.MetricSourceType
		name  string
		there bool
		check func(at *field.Path)
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(at *field.Path) { c.object(m.Object, at, isNew) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(at *field.Path) { c.external(m.External, at) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(at *field.Path) { c.pods(m.Pods, at) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(at *field.Path) { c.resource(m.Resource, at) }},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(at *field.Path) {
			c.container(m.ContainerResource, at)
		}},
	}
	there := 0
	for _, s := range sources {
		if s.there {
			if there++; there == 1 {
				s.check(at.Child(s.name))
			}
		}
	}
	found := false
	for _, s := range sources {
		if s.of != m.Type {
			continue
		}
		if found = true; !s.there {
			c.Required(at.Child(s.name), "must populate information for the given metric source")
		}
	}
	if !found {
		c.Add(field.NotSupported(at.Child("type"), m.Type, known))
	}
	for _, s := range sources {
		if there > 1 && s.there && s.of != m.Type {
			c.Forbidden(at.Child(s.name), "must populate the given metric source only")
		}
	}
}

func (c *check) object(o *autoscalingv2.ObjectMetricSource, at *field.Path, isNew bool) {
	c.reference(o.DescribedObject, at.Child("describedObject"))
	if isNew {
		c.version(o.DescribedObject, at.Child("describedObject"), true)
	}
	c.identifier(&o.Metric, at.Child("metric"))
	c.target(&o.Target, at.Child("target"))
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		c.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue")
	}
}

func (c *check) external(e *autoscalingv2.ExternalMetricSource, at *field.Path) {
	c.identifier(&e.Metric, at.Child("metric"))
	c.target(&e.Target, at.Child("target"))
	if e.Target.Value == nil && e.Target.AverageValue == nil {
		c.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target")
	}
	if e.Target.Value != nil && e.Target.AverageValue != nil {
		c.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
	}
}

func (c *check) pods(p *autoscalingv2.PodsMetricSource, at *field.Path) {
	c.identifier(&p.Metric, at.Child("metric"))
	c.target(&p.Target, at.Child("target"))
	if p.Target.AverageValue == nil {
		c.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue")
	}
}

func (c *check) resource(r *autoscalingv2.ResourceMetricSource, at *field.Path) {
	if r.Name == "" {
		c.Required(at.Child("name"), "must specify a resource name")
	}
	c.usage(&r.Target, at.Child("target"))
}

func (c *check) container(r *autoscalingv2.ContainerResourceMetricSource, at *field.Path) {
	if r.Name == "" {
		c.Required(at.Child("name"), "must specify a resource name")
	}
	if r.Container == "" {
		c.Required(at.Child("container"), "must specify a container")
	} else {
		c.Label(at.Child("container"), r.Container)
	}
	c.usage(&r.Target, at.Child("target"))
}

// usage checks the target of a resource: either a share of what is requested, or an amount.
func (c *check) usage(t *autoscalingv2.MetricTarget, at *field.Path) {
	c.target(t, at)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		c.Required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		c.Forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func (c *check) target(t *autoscalingv2.MetricTarget, at *field.Path) {
	switch t.Type {
	case "":
		c.Required(at.Child("type"), "must specify a metric target type")
		fallthrough
	default:
		c.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	}
	c.positive(t.Value, at.Child("value"))
	c.positive(t.AverageValue, at.Child("averageValue"))
	if n := t.AverageUtilization; n != nil && *n < 1 {
		c.Invalid(at.Child("averageUtilization"), *n, "must be greater than 0")
	}
}

func (c *check) positive(q *apiresource.Quantity, at *field.Path) {
	if q != nil && q.Sign() != 1 {
		c.Invalid(at, *q, "must be positive")
	}
}

func (c *check) identifier(m *autoscalingv2.MetricIdentifier, at *field.Path) {
	if m.Name == "" {
		c.Required(at.Child("name"), "must specify a metric name")
		return
	}
	c.Messages(at.Child("name"), m.Name, content.IsPathSegmentName(m.Name))
}

func (c *check) rules(r *autoscalingv2.HPAScalingRules, at *field.Path) {
	if r == nil {
		return
	}
	if n := r.StabilizationWindowSeconds; n != nil && *n < 0 {
		c.Invalid(at.Child("stabilizationWindowSeconds"), *n, "must be greater than or equal to zero")
	} else if n != nil && *n > longestWindow {
		c.Invalid(at.Child("stabilizationWindowSeconds"), *n, fmt.Sprintf("must be less than or equal to %v", longestWindow))
	}
	if p := r.SelectPolicy; p != nil {
		validate.OneOf(&c.List, at.Child("selectPolicy"), *p,
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if len(r.Policies) == 0 {
		c.Required(at.Child("policies"), "must specify at least one Policy")
	}
	for i := range r.Policies {
		c.policy(&r.Policies[i], at.Child("policies").Index(i))
	}
	if r.Tolerance != nil {
		c.Quantity(at.Child("tolerance"), *r.Tolerance, false)
	}
}

func (c *check) policy(p *autoscalingv2.HPAScalingPolicy, at *field.Path) {
	validate.OneOf(&c.List, at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if p.Value <= 0 {
		c.Invalid(at.Child("value"), p.Value, validate.NotPositive)
	}
	switch n := p.PeriodSeconds; {
	case n <= 0:
		c.Invalid(at.Child("periodSeconds"), n, validate.NotPositive)
	case n > longestPeriod:
		c.Invalid(at.Child("periodSeconds"), n, fmt.Sprintf("must be less than or equal to %v", longestPeriod))
	}
}
