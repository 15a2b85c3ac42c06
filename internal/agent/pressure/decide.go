package pressure

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Seen is what was measured of each signal. One that is missing could not be.
type Seen map[Signal]Level

// Level is how much is left, of how much.
type Level struct{ Available, Capacity int64 }

// State is when each pressure was measured last: what one decision leaves for the next.
type State map[corev1.NodeConditionType]time.Time

// Plan is what follows from a measurement.
type Plan struct {
	Short      []Threshold                // those that are crossed now, the most urgent first
	Conditions []corev1.NodeConditionType // those that the node has, in the order of its status
	State      State
}

// Decide compares what is left with what has to be. A condition that is over lasts for the hold.
func Decide(thresholds []Threshold, seen Seen, state State, hold time.Duration, now time.Time) Plan {
	p := Plan{State: maps.Clone(state)}
	if p.State == nil {
		p.State = State{}
	}
	for _, t := range thresholds {
		level, known := seen[t.Signal]
		if !known || t.Signal.Condition() == "" {
			continue
		}
		if needed := t.Of(level.Capacity); needed.CmpInt64(level.Available) > 0 {
			p.Short = append(p.Short, t)
			p.State[t.Signal.Condition()] = now
		}
	}
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		last, ever := p.State[c]
		switch {
		case ever && (now.Sub(last) < hold || last.Equal(now)):
			p.Conditions = append(p.Conditions, c)
		case ever:
			delete(p.State, c)
		}
	}
	return p
}

// Reserved is what thresholds keep back of a resource, so that it is nobody's to ask for: of a node with that much of it.
func Reserved(thresholds []Threshold, signal Signal, capacity int64) int64 {
	for _, t := range thresholds {
		if t.Signal == signal {
			q := t.Of(capacity)
			return min(q.Value(), capacity)
		}
	}
	return 0
}

// text is an amount of a resource as messages have it.
func text(name corev1.ResourceName, n int64) string {
	format := resource.BinarySI
	if name == inodes || name == pids {
		format = resource.DecimalSI
	}
	return resource.NewQuantity(n, format).String()
}
