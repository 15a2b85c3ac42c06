package agent

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/probe"
)

// Sandbox is a pod's sandbox as the runtime tells of it.
type Sandbox struct {
	ID      string
	Attempt uint32
	Ready   bool
	Created time.Time
	IPs     []string // none on the host's network
}

// State is a container's state.
type State int

// States of a container. One that was created and never started is what a crash between the two leaves.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is a container as the runtime tells of it.
type Container struct {
	ID       string
	Sandbox  string
	Name     string
	Attempt  uint32
	State    State
	Created  time.Time
	Started  time.Time
	Finished time.Time
	ExitCode int32
	Reason   string
	Message  string
	Image    string // as the pod names it
	ImageID  string
	Hash     string        // of the part of the spec that a change of restarts it
	Delay    time.Duration // to wait after its end, before the next: kept with the container, so that a restart of the agent forgets nothing
	User     *corev1.ContainerUser
}

// Observed is what runs of one pod.
type Observed struct {
	Sandboxes  []Sandbox   // the newest first
	Containers []Container // the newest of a name first
	Grace      int64       // seconds, as the runtime remembers it for a pod that the API no longer knows
}

// Newest returns the newest container of a name, or nil.
func (o Observed) Newest(name string) *Container {
	for i := range o.Containers {
		if o.Containers[i].Name == name {
			return &o.Containers[i]
		}
	}
	return nil
}

// Current returns the sandbox that containers can be started in, or nil.
func (o Observed) Current() *Sandbox {
	if len(o.Sandboxes) > 0 && o.Sandboxes[0].Ready {
		return &o.Sandboxes[0]
	}
	return nil
}

// Failure says that something went wrong, and when to try again.
type Failure struct {
	Reason  string
	Message string
	At      time.Time
	Retry   time.Time
	// Disrupted says that a pod ends for the node's sake.
	Disrupted bool
}

// Image is what is known of the image of a container that is to be started. It is forgotten once the container has started.
type Image struct {
	Pulling bool
	Ref     string // what to start it with; empty if it is not there
	Failure *Failure
}

// Work is what a worker knows beside what can be observed: what is under way, and what failed. A restart of the agent loses it,
// and with it nothing but the time until it is tried again.
type Work struct {
	Rejected  *Failure             // not admitted to this node
	Evicted   *Failure             // made to end by this node
	Prepared  bool                 // directories, cgroup and volumes are there
	Unready   *Failure             // why they are not
	NoSandbox *Failure             // why there is no sandbox
	Images    map[string]Image     // by container
	Failed    map[string]Failure   // by container: creating or starting it failed
	Stopping  map[string]time.Time // by container id: it is being stopped, and killed then
	DownSince time.Time            // the pod is being taken down since, with the present grace
	Cleaned   Cleaning             // how much of it has been removed from the node
}

// Input is all that a decision rests on.
type Input struct {
	Pod      *corev1.Pod // nil: the API does not know it
	Seen     Observed
	Work     Work
	Probed   map[string]probe.Verdict // by container ID, of those that have probes and run
	Behind   bool                     // connections to some Service went to it until its deletion
	Left     time.Time                // since when they do not any more; zero: they do
	Drain    bool                     // all pods of the node are to stop, and to be started again later
	Fenced   bool                     // this one is, since no server is reached: it may be made again elsewhere
	Shutdown shutdown                 // the machine goes down
	Now      time.Time
	Delay    time.Duration // first delay between restarts
	MaxDelay time.Duration
}

// Plan is the next step for a pod, as a plain value: nothing has happened yet.
type Plan struct {
	Prepare         bool        // make directories, cgroup and volumes
	NewSandbox      *NewSandbox // make a sandbox
	Images          []string    // containers whose images to look for, and to pull
	Start           []Start     // containers to create and start
	Stop            []Stop      // containers to stop
	StopSandboxes   []string
	Remove          []Container // dead containers that nobody asks for any more
	RemoveSandboxes []string
	Clean           Cleaning
	Delete          bool // from the API

	// Waiting says why a container that is to run does not, for the pod's status.
	Waiting map[string]corev1.ContainerStateWaiting
	// Ended says that the pod as a whole has ended, or is to, and why if it is not by its own containers.
	Ended  bool
	Down   bool // the pod is being taken down
	Reason *Failure
	Wake   time.Time // when to look again, though nothing happens; zero: never
}

// Cleaning is how much of a pod that is down is removed.
type Cleaning int

// A pod that is still in the API keeps its dead containers and their logs; of one that is not, nothing stays.
const (
	CleanNothing Cleaning = iota
	CleanVolumes
	CleanAll
)

// NewSandbox is a sandbox to make.
type NewSandbox struct {
	Attempt uint32
	Changed bool // another was there before
}

// Start is a container to create and start.
type Start struct {
	Name    string
	Attempt uint32
	Delay   time.Duration // before the one after it
	Image   string        // reference of the runtime's
}

// Stop is a container to stop.
type Stop struct {
	ID      string
	Name    string
	Kill    time.Time // when to stop asking
	Message string    // of the event
}

// Idle says that there is nothing to do now.
func (p Plan) Idle() bool {
	return !p.Prepare && p.NewSandbox == nil && len(p.Images)+len(p.Start)+len(p.Stop)+len(p.StopSandboxes)+len(p.Remove)+len(p.RemoveSandboxes) == 0 &&
		p.Clean == CleanNothing && !p.Delete
}

func (p *Plan) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

func (p *Plan) wait(name, reason, message string) {
	if p.Waiting == nil {
		p.Waiting = map[string]corev1.ContainerStateWaiting{}
	}
	p.Waiting[name] = corev1.ContainerStateWaiting{Reason: reason, Message: message}
}
