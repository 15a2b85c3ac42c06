// Package scheduler gives each pod without a node the node it should run on.
//
// It watches Pods, Nodes and what they have to do with storage, and reads Namespaces and PodDisruptionBudgets; it writes Bindings, the claims that volumes are for, the PodScheduled condition and the nominated node of pods that fit
// nowhere, and Events; and it deletes pods of lower priority that have to make room.
// Always: it binds only pods whose spec.schedulerName one of its profiles has, that have no node, no scheduling gates and are not being
// deleted; what a pod takes of a node is counted from the moment it is decided, before any cache can show it; a pod
// that fits nowhere is tried again when something has changed that lets it fit, and not before.
//
// Pick decides and is pure. One goroutine owns the queue and the nodes; watchers only mark what has changed, and what
// needs the API is done beside it.
package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/scheduler/profile"
)

// Name is the spec.schedulerName of pods that name none, and of the profile that there is without a configuration.
const Name = profile.DefaultName

// Source shows the current objects, which are shared and must not be changed. Nil: there is none.
type Source interface {
	Pod(key loop.Key) *corev1.Pod
	Node(name string) *corev1.Node
	// NamespaceLabels are those of a namespace; nil if there is none.
	NamespaceLabels(name string) map[string]string
	// Budgets are the PodDisruptionBudgets of a namespace.
	Budgets(namespace string) []Budget
	// Services are the selectors of a namespace's Services that have one.
	Services(namespace string) []labels.Selector
}

// API is what the scheduler writes.
type API interface {
	Bind(ctx context.Context, binding *corev1.Binding) error
	// SetCondition sets a condition of the pod, unless the pod has been replaced by one of another UID.
	SetCondition(ctx context.Context, key loop.Key, uid types.UID, condition corev1.PodCondition) error
	// Nominate says on the pod which node room is made on for it; empty: none any more.
	Nominate(ctx context.Context, key loop.Key, uid types.UID, node string) error
	// Evict sets the condition on a pod that is to make room, and deletes it with its own grace.
	Evict(ctx context.Context, key loop.Key, uid types.UID, condition corev1.PodCondition) error
}

// Recorder tells what happened to a pod.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Config is what a scheduler works with. Source, API and Recorder must be there.
type Config struct {
	Source   Source
	API      API
	Storage  Storage                         // nil: claims of pods ask for nothing
	Recorder func(component string) Recorder // events of a profile come from a component of its name
	Profiles profile.Config                  // without any: Kubernetes' default one
	Metrics  *Metrics                        // nil counts nothing
	Log      *slog.Logger
	Writes   int // to the API at once, 64 if zero; deciding waits when all are under way
}

// Scheduler decides where pods run. Its Changed methods may be called from anywhere, before Run too.
type Scheduler struct {
	Config
	wake   chan struct{} // one is enough
	slots  chan struct{} // of writes
	writes sync.WaitGroup

	mu      sync.Mutex // guards what watchers and writers hand to Run's goroutine
	changed changes

	plans     *Plans
	recorders map[string]Recorder // by profile

	// Run's goroutine alone:
	nodes  *Nodes
	queue  *queue
	placed map[loop.Key]*placement

	stowing map[loop.Key]*stowing   // pods whose claims are being bound
	awaited map[loop.Key][]loop.Key // those pods, by claim
}

// placement is a pod that is counted on a node.
type placement struct {
	uid     types.UID
	node    *Node
	use     use
	assumed *waiting // decided here, and not yet seen in the source
}

// changes wait to be looked at, each object once, in the order they were marked.
type changes struct {
	pods, nodes         []loop.Key
	podMarks, nodeMarks map[loop.Key]struct{}
	failures            []failure
	storageMarks
}

// failure is a binding that was refused.
type failure struct {
	key       loop.Key
	placement *placement
}

// New makes a scheduler; Run starts it.
func New(c Config) *Scheduler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Writes == 0 {
		c.Writes = 64
	}
	if len(c.Profiles.Profiles) == 0 {
		c.Profiles = profile.Default()
	}
	s := &Scheduler{
		plans: NewPlans(c.Profiles), recorders: map[string]Recorder{},
		Config: c, wake: make(chan struct{}, 1), slots: make(chan struct{}, c.Writes),
		nodes: NewNodes(), queue: newQueue(c.Profiles.FirstBackoff, c.Profiles.MostBackoff), placed: map[loop.Key]*placement{},
		stowing: map[loop.Key]*stowing{}, awaited: map[loop.Key][]loop.Key{},
	}
	if c.Storage != nil {
		s.nodes.shelf = newShelf(c.Storage)
	}
	for i := range c.Profiles.Profiles {
		name := c.Profiles.Profiles[i].Name
		s.recorders[name] = c.Recorder(name)
	}
	s.plans.Services = c.Source.Services
	s.nodes.Namespaces = c.Source.NamespaceLabels
	s.changed.reset()
	s.queue.moved = c.Metrics.moved
	return s
}

func (c *changes) reset() {
	*c = changes{podMarks: map[loop.Key]struct{}{}, nodeMarks: map[loop.Key]struct{}{}}
}

// PodChanged says that the pod may have changed, come or gone. It never blocks.
func (s *Scheduler) PodChanged(key loop.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, marked := s.changed.podMarks[key]; marked {
		return
	}
	s.changed.podMarks[key] = struct{}{}
	s.changed.pods = append(s.changed.pods, key)
	s.nudge()
}

// NodeChanged says that the node may have changed, come or gone. It never blocks.
func (s *Scheduler) NodeChanged(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := loop.Key{Name: name}
	if _, marked := s.changed.nodeMarks[key]; marked {
		return
	}
	s.changed.nodeMarks[key] = struct{}{}
	s.changed.nodes = append(s.changed.nodes, key)
	s.nudge()
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // a nudge is waiting
	}
}

// Run schedules until ctx ends, and returns nil once all that it is writing is written.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.writes.Wait()
	for ctx.Err() == nil {
		s.catchUp(ctx, time.Now())
		s.Metrics.pending(s.queue.count)
		if w := s.queue.pop(time.Now()); w != nil {
			s.schedule(ctx, w)
			continue
		}
		s.rest(ctx)
	}
	return nil
}

// rest waits for a nudge or the end of a backoff.
func (s *Scheduler) rest(ctx context.Context) {
	var end <-chan time.Time
	next := s.queue.next()
	if late := s.giveUp(ctx, time.Now()); next.IsZero() || !late.IsZero() && late.Before(next) {
		next = late
	}
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		end = timer.C
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-end:
	}
}

// schedule decides about one pod, which is in no queue, and starts writing what was decided.
func (s *Scheduler) schedule(ctx context.Context, w *waiting) {
	begun, of := time.Now(), w.need.plan.name
	w.attempts++
	w.tried = begun
	node, refusal := Pick(w.need, s.nodes)
	if refusal != nil {
		s.Metrics.attempted(of, "unschedulable", time.Since(begun))
		w.failed = refusal.failed
		s.preempt(ctx, w, refusal)
		s.queue.put(w, unschedulable, "ScheduleAttemptFailure")
		pod := w.pod() // what is told must not read what this goroutine changes
		s.write(ctx, func() { s.tellUnschedulable(ctx, pod, refusal.Error()) })
		return
	}
	s.nodes.forget(w.key)
	p := &placement{uid: w.pod().UID, use: w.need.use, assumed: w}
	p.node = s.nodes.add(node.Name, p.use)
	s.nodes.join(memberOf(w.pod(), p.use), p.node)
	s.placed[w.key] = p
	pod, name := w.pod(), node.Name // the binding must not read what this goroutine changes
	attempts, added := w.attempts, w.added
	bind := func() {
		if s.bind(ctx, pod, name, p) {
			s.Metrics.attempted(of, "scheduled", time.Since(begun))
			s.Metrics.scheduled(attempts, time.Since(added))
		} else {
			s.Metrics.attempted(of, "error", time.Since(begun))
		}
	}
	if c := w.need.chosen(node); c != nil {
		s.stow(ctx, p, pod, *c, func() { s.write(ctx, bind) })
		return
	}
	s.write(ctx, bind)
}

// write does something beside the scheduler's goroutine, as soon as a slot is free.
func (s *Scheduler) write(ctx context.Context, do func()) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		do()
	})
}
