// Package profile reads which profiles the scheduler has: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, made into plain values.
//
// It watches and writes nothing. Always: what Parse returns is whole, with Kubernetes' defaults in it, and every plugin named in it is known here; a field or
// a plugin that would have no effect is refused, in one sentence that says where it stands, and never left out silently.
package profile

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DefaultName is the schedulerName of pods that name none.
const DefaultName = corev1.DefaultSchedulerName

// Config is all that can be chosen about scheduling.
type Config struct {
	Profiles     []Profile // one at the least, no two of one name
	FirstBackoff time.Duration
	MostBackoff  time.Duration
}

// Profile is how pods of one spec.schedulerName are scheduled.
type Profile struct {
	Name    string
	Filters []string         // plugins that decide whether a node will do, in the order in which they are asked
	Weights map[string]int64 // of plugins that score nodes
	// Preempts says whether pods of lower priority may be pushed out.
	Preempts   bool
	Percentage int // of the nodes that a search is content with; 0: by the size of the cluster

	Fit        Fit
	Balanced   []corev1.ResourceName // whose shares are to be alike
	Spread     Spread
	InterPod   InterPod
	Added      *corev1.NodeAffinity // besides the pods' own; nil: none
	Candidates Candidates
}

// Strategy is which nodes NodeResourcesFit likes.
type Strategy string

// The strategies.
const (
	LeastAllocated           Strategy = "LeastAllocated"
	MostAllocated            Strategy = "MostAllocated"
	RequestedToCapacityRatio Strategy = "RequestedToCapacityRatio"
)

// Fit is how resources are looked at (NodeResourcesFitArgs).
type Fit struct {
	Ignored       []string // extended resources that no node has to have
	IgnoredGroups []string // and all whose names begin with these and a slash
	Strategy      Strategy
	Resources     []Weighted
	Shape         []Point // of RequestedToCapacityRatio, by rising use
}

// Weighted is a resource that counts so much.
type Weighted struct {
	Name   corev1.ResourceName
	Weight int64
}

// Point says what a use, in hundredths, is worth: from 0 to 10.
type Point struct{ Use, Score int64 }

// Spread is what pods without topologySpreadConstraints of their own are spread by (PodTopologySpreadArgs).
type Spread struct {
	System      bool // over nodes and zones, as wishes; Constraints is empty
	Constraints []corev1.TopologySpreadConstraint
}

// InterPod is how neighbours are looked at (InterPodAffinityArgs).
type InterPod struct {
	HardWeight   int64 // of being one near which another must be
	IgnoreOthers bool  // preferences of pods that are there, towards a pod that has none of its own
}

// Candidates bounds among how many nodes the best victims are looked for (DefaultPreemptionArgs).
type Candidates struct{ Percentage, Absolute int }

// Default is what holds without a file: one profile, with Kubernetes' defaults.
func Default() Config {
	c := Config{FirstBackoff: time.Second, MostBackoff: 10 * time.Second}
	p, errs := (&profileFile{SchedulerName: new(DefaultName)}).profile(nil)
	if len(errs) > 0 {
		panic(errs.ToAggregate())
	}
	c.Profiles = []Profile{p}
	return c
}

// Of is the profile of a schedulerName; nil if none has it. Pods that name none mean the default one.
func (c *Config) Of(name string) *Profile {
	if name == "" {
		name = DefaultName
	}
	for i := range c.Profiles {
		if c.Profiles[i].Name == name {
			return &c.Profiles[i]
		}
	}
	return nil
}
