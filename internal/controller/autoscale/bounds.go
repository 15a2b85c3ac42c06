package autoscale

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// downscaleWindow is for how long the highest recommendation counts where a behavior does not say.
const downscaleWindow = 5 * time.Minute

// Memory is what is known of an autoscaler's past: what was recommended, and how it was scaled. It is a value: nothing changes what it holds.
type Memory struct {
	recommended []point // replicas, before they were bounded
	up, down    []point // by how many
}

type point struct {
	n  int32
	at time.Time
}

// since keeps the points after a moment.
func since(points []point, moment time.Time) []point {
	return slices.DeleteFunc(slices.Clone(points), func(p point) bool { return !p.at.After(moment) })
}

// scaled notes a change, and forgets those that no policy asks for any longer.
func (m Memory) scaled(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) Memory {
	if b == nil {
		return m // nobody asks
	}
	longest := func(r *autoscalingv2.HPAScalingRules) time.Duration {
		var n int32
		if r != nil {
			for _, p := range r.Policies {
				n = max(n, p.PeriodSeconds)
			}
		}
		return seconds(n)
	}
	keep := now.Add(-max(longest(b.ScaleUp), longest(b.ScaleDown)))
	m.up, m.down = since(m.up, keep), since(m.down, keep)
	if to > from {
		m.up = append(m.up, point{to - from, now})
	} else {
		m.down = append(m.down, point{from - to, now})
	}
	return m
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// bounded is a recommendation brought within bounds, and what is to be said of that.
type bounded struct {
	replicas      int32
	able, limited verdict
	capped        bool // what was asked for (after it was stabilized) is not what it gets
}

type verdict struct{ reason, words string }

var (
	downStabilized = verdict{"ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	upStabilized   = verdict{"ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
	readyForNew    = verdict{"ReadyForNewScale", "recommended size matches current size"}
	upLimit        = verdict{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	downLimit      = verdict{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
	tooMany        = verdict{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	tooFew         = verdict{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	inRange        = verdict{"DesiredWithinRange", "the desired count is within the acceptable range"}
)

// bound brings what the metrics ask for within the bounds of spec, time and behavior.
func bound(s *autoscalingv2.HorizontalPodAutoscalerSpec, m Memory, current, asked int32, now time.Time) (bounded, Memory) {
	if s.Behavior == nil {
		return boundUsual(s, m, current, asked, now)
	}
	up, down := rulesOf(s.Behavior.ScaleUp, 0), rulesOf(s.Behavior.ScaleDown, downscaleWindow)
	steady := stabilize(m, up.window, down.window, current, asked, now)
	out := bounded{able: readyForNew}
	if steady != asked {
		if out.able = downStabilized; asked >= current {
			out.able = upStabilized
		}
	}
	m.recommended = append(since(m.recommended, now.Add(-max(up.window, down.window))), point{asked, now})
	out.replicas, out.limited = m.rate(s, up, down, current, steady, now)
	out.capped = out.replicas != steady
	return out, m
}

// boundUsual is how it is done where nothing is said: up to twice as many or four at once, and down to the most that was asked for lately.
func boundUsual(s *autoscalingv2.HorizontalPodAutoscalerSpec, m Memory, current, asked int32, now time.Time) (bounded, Memory) {
	out := bounded{able: readyForNew, limited: inRange}
	steady := asked
	m.recommended = since(m.recommended, now.Add(-downscaleWindow-1)) // one that is just so old counts
	for _, p := range m.recommended {
		steady = max(steady, p.n)
	}
	m.recommended = append(m.recommended, point{asked, now})
	if steady != asked {
		out.able = downStabilized
	}
	least, most, why := leastOf(s), s.MaxReplicas, tooMany
	if limit := clamp(max(2*float64(current), 4)); most > limit {
		most, why = limit, upLimit
	}
	switch out.replicas = steady; {
	case steady < least:
		out.replicas, out.limited = least, tooFew
	case steady > most:
		out.replicas, out.limited = most, why
	}
	out.capped = out.replicas != steady
	return out, m
}

func leastOf(s *autoscalingv2.HorizontalPodAutoscalerSpec) int32 {
	if s.MinReplicas == nil {
		return 1
	}
	return *s.MinReplicas
}

// rules are the rules of one direction, with all of them set.
type rules struct {
	window   time.Duration
	policy   autoscalingv2.ScalingPolicySelect
	policies []autoscalingv2.HPAScalingPolicy
}

func rulesOf(r *autoscalingv2.HPAScalingRules, window time.Duration) rules {
	out := rules{window: window, policy: autoscalingv2.MaxChangePolicySelect}
	if r == nil {
		return out
	}
	out.policies = r.Policies
	if r.StabilizationWindowSeconds != nil {
		out.window = seconds(*r.StabilizationWindowSeconds)
	}
	if r.SelectPolicy != nil {
		out.policy = *r.SelectPolicy
	}
	return out
}

// stabilize moves from what there is only as far as all recommendations of the window agree.
func stabilize(m Memory, up, down time.Duration, current, asked int32, now time.Time) int32 {
	low, high := asked, asked
	for _, p := range m.recommended {
		if p.at.After(now.Add(-up)) {
			low = min(low, p.n)
		}
		if p.at.After(now.Add(-down)) {
			high = max(high, p.n)
		}
	}
	return min(max(current, low), high)
}

// rate bounds a change by the policies and by the spec.
func (m Memory) rate(s *autoscalingv2.HorizontalPodAutoscalerSpec, up, down rules, current, asked int32, now time.Time) (int32, verdict) {
	switch {
	case asked > current:
		most, why := s.MaxReplicas, tooMany
		if limit := max(m.limit(up, 1, current, now), current); most > limit {
			most, why = limit, upLimit
		}
		if asked > most {
			return most, why
		}
	case asked < current:
		least, why := leastOf(s), tooFew
		if limit := min(m.limit(down, -1, current, now), current); least < limit {
			least, why = limit, downLimit
		}
		if asked < least {
			return least, why
		}
	}
	return asked, inRange
}

// limit is how far the policies let it go in a direction: 1 up, -1 down.
func (m Memory) limit(r rules, direction float64, current int32, now time.Time) int32 {
	if r.policy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	highest := (r.policy != autoscalingv2.MinChangePolicySelect) == (direction > 0) // of what the policies propose
	limit := int32(math.MaxInt32)
	if highest {
		limit = math.MinInt32
	}
	for _, p := range r.policies {
		moment := now.Add(-seconds(p.PeriodSeconds))
		begun := float64(current) - added(m.up, moment) + added(m.down, moment) // replicas at the period's begin
		proposed := begun + direction*float64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			// Up it is rounded up, else few replicas would never become more; down it is cut off.
			if proposed = begun * (1 + direction*float64(p.Value)/100); direction > 0 {
				proposed = math.Ceil(proposed)
			}
		}
		if highest {
			limit = max(limit, clamp(proposed))
		} else {
			limit = min(limit, clamp(proposed))
		}
	}
	return limit
}

func added(points []point, after time.Time) (n float64) {
	for _, p := range points {
		if p.at.After(after) {
			n += float64(p.n)
		}
	}
	return n
}
