package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

// Bounds on policies.
const (
	mostRules      = 20
	mostExitCodes  = 255
	mostPatterns   = 20
	longestIndexes = 64 * 1024 // characters of succeededIndexes
)

// oneOf demands one of the values, and names them where none is given.
func oneOf[T ~string](c *check, at *field.Path, value T, allowed ...T) {
	if value == "" {
		c.Required(at, fmt.Sprintf("valid values: %q", allowed))
		return
	}
	validate.OneOf(&c.List, at, value, allowed...)
}

func (c *check) failurePolicy(s *batchv1.JobSpec, at *field.Path) {
	at = at.Child("rules")
	c.TooMany(at, len(s.PodFailurePolicy.Rules), mostRules)
	for i := range s.PodFailurePolicy.Rules {
		rule, at := &s.PodFailurePolicy.Rules[i], at.Index(i)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			c.Invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set")
		}
		oneOf(c, at.Child("action"), rule.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		if rule.OnExitCodes != nil {
			c.exitCodes(rule.OnExitCodes, &s.Template.Spec, at.Child("onExitCodes"))
		}
		c.podConditions(rule.OnPodConditions, at.Child("onPodConditions"))
		switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
		case codes && conditions:
			c.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case !codes && !conditions:
			c.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
	}
}

func (c *check) podConditions(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, at *field.Path) {
	c.TooMany(at, len(patterns), mostPatterns)
	for i, p := range patterns {
		c.QualifiedName(at.Index(i).Child("type"), string(p.Type))
		oneOf(c, at.Index(i).Child("status"), p.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
	}
}

func (c *check) exitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.PodSpec, at *field.Path) {
	oneOf(c, at.Child("operator"), r.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil {
		named := func(container corev1.Container) bool { return container.Name == *r.ContainerName }
		if !slices.ContainsFunc(pod.Containers, named) && !slices.ContainsFunc(pod.InitContainers, named) {
			c.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template")
		}
	}
	at = at.Child("values")
	if len(r.Values) == 0 {
		c.Invalid(at, r.Values, "at least one value is required")
	}
	c.TooMany(at, len(r.Values), mostExitCodes)
	seen := map[int32]bool{}
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			c.Invalid(at.Index(i), code, "must not be 0 for the In operator")
		}
		if seen[code] {
			c.Add(field.Duplicate(at.Index(i), code))
		}
		seen[code] = true
	}
	if !slices.IsSorted(r.Values) {
		c.Invalid(at, r.Values, "must be ordered")
	}
}

func (c *check) successPolicy(s *batchv1.JobSpec, at *field.Path) {
	at = at.Child("rules")
	if len(s.SuccessPolicy.Rules) == 0 {
		c.Required(at, "at least one rules must be specified when the successPolicy is specified")
	}
	c.TooMany(at, len(s.SuccessPolicy.Rules), mostRules)
	if s.Completions == nil {
		return // which is an error of its own
	}
	for i, rule := range s.SuccessPolicy.Rules {
		at := at.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			c.Required(at, "at least one of succeededCount or succeededIndexes must be specified")
		}
		var total int32
		if text := rule.SucceededIndexes; text != nil {
			at := at.Child("succeededIndexes")
			if len(*text) > longestIndexes {
				c.Add(field.TooLong(at, *text, longestIndexes))
			}
			var err error
			if total, err = indexes(*text, *s.Completions); err != nil {
				c.Invalid(at, *text, "error parsing succeededIndexes: "+err.Error())
			}
		}
		if n := rule.SucceededCount; n != nil {
			at := at.Child("succeededCount")
			count(c, n, at)
			if *n > *s.Completions {
				c.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions))
			}
			if rule.SucceededIndexes != nil && *n > total {
				c.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
			}
		}
	}
}

// span is the indexes from first to last.
type span struct{ first, last int32 }

// indexes counts those that a text such as "1,3-5,7" names, if it is a text of that kind and names none from completions on.
func indexes(text string, completions int32) (total int32, err error) {
	if text == "" {
		return 0, nil
	}
	last := int32(-1)
	for part := range strings.SplitSeq(text, ",") {
		s, err := parseSpan(part, completions)
		if err != nil {
			return 0, err
		}
		if last >= s.first {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, s.first)
		}
		total += s.last - s.first + 1
		last = s.last
	}
	return total, nil
}

func parseSpan(text string, completions int32) (s span, err error) {
	limits := strings.Split(text, "-")
	if len(limits) > 2 {
		return s, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	if s.first, err = parseIndex(limits[0], completions); err != nil {
		return s, err
	}
	s.last = s.first
	if len(limits) == 2 {
		if s.last, err = parseIndex(limits[1], completions); err != nil {
			return s, err
		}
		if s.first >= s.last {
			return s, fmt.Errorf("non-increasing order, previous: %d, current: %d", s.first, s.last)
		}
	}
	return s, nil
}

func parseIndex(text string, completions int32) (int32, error) {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	case n >= int(completions):
		return 0, fmt.Errorf("too large index: %q", text)
	}
	return int32(n), nil // no sign can be in it: that is where a span is cut
}

// spans reads what makes sense of such a text; what is wrong with the rest is told elsewhere.
func spans(text string, completions int32) (all []span) {
	for part := range strings.SplitSeq(text, ",") {
		if s, err := parseSpan(part, completions); err == nil {
			all = append(all, s)
		}
	}
	return all
}

// overlap finds the first index that two ascending lists have in common.
func overlap(a, b []span) (index int32, found bool) {
	for len(a) > 0 && len(b) > 0 {
		if a[0].first <= b[0].last && b[0].first <= a[0].last {
			return max(a[0].first, b[0].first), true
		}
		if a[0].first <= b[0].first {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return 0, false
}
