package probe

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kinds of probes.
const (
	Startup   = "startup"
	Liveness  = "liveness"
	Readiness = "readiness"
)

// Verdict is what the probes of a container have found so far.
type Verdict struct {
	Started, Ready bool
	Failed         string // Startup or Liveness: the container is to be killed; empty: it is not
}

// Options say what to watch, and who is told. All functions are required; they are called from goroutines of the watch.
type Options struct {
	Container *corev1.Container
	Began     time.Time // when the container was started
	Before    *Verdict  // what an earlier process has found of this very container; nil: nothing has been
	Run       func(p *corev1.Probe) (Result, string, error)
	Tell      func(reason, message string) // an event to be written, a warning
	Count     func(kind string, r Result, took time.Duration)
	Changed   func() // the verdict has changed
}

// quickest is how soon a probe that has just failed is tried again while its container begins.
const quickest = 20 * time.Millisecond

// Watch runs the probes of one container from its start to its end. It has a timer for each probe, and a goroutine only while one runs.
//
// A container becomes ready as soon as it is, and not at the next full period: until a readiness or startup probe has succeeded once, or its first
// period is over, it is tried at growing intervals. Failures of that time are normal and neither counted nor told. From then on all is as
// Kubernetes documents it for periodSeconds, successThreshold and failureThreshold.
type Watch struct {
	o Options

	mu          sync.Mutex
	verdict     Verdict
	checks      []*check
	terminating bool
	stopped     bool
}

// check is one probe of the container.
type check struct {
	kind  string
	p     *corev1.Probe
	timer *time.Timer
	first time.Time // when it ran first
	pause time.Duration
	well  bool   // it has succeeded once
	last  Result // of those counted
	count int    // how often in a row
	held  bool   // it waits for the container to be started, or has ended
}

// Begin watches a container that has probes.
func Begin(o Options) *Watch {
	c := o.Container
	w := &Watch{o: o, verdict: Verdict{Started: c.StartupProbe == nil, Ready: c.ReadinessProbe == nil}}
	if o.Before != nil {
		w.verdict = *o.Before
	}
	for _, k := range []struct {
		kind string
		p    *corev1.Probe
	}{{Startup, c.StartupProbe}, {Liveness, c.LivenessProbe}, {Readiness, c.ReadinessProbe}} {
		if k.p != nil {
			w.checks = append(w.checks, &check{kind: k.kind, p: k.p, held: true})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.release()
	return w
}

// Has says that a container has probes.
func Has(c *corev1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

// release begins those checks whose turn has come. The caller holds mu.
func (w *Watch) release() {
	for _, c := range w.checks {
		if !c.held || (c.kind == Startup) == w.verdict.Started {
			continue
		}
		c.held = false
		delay := time.Until(w.o.Began.Add(time.Duration(c.p.InitialDelaySeconds) * time.Second))
		if w.o.Before != nil { // not all of a node's at once
			delay = max(delay, rand.N(period(c.p)))
		}
		w.after(c, delay)
	}
}

func period(p *corev1.Probe) time.Duration {
	return max(time.Duration(p.PeriodSeconds)*time.Second, time.Second)
}

func (w *Watch) after(c *check, d time.Duration) {
	c.timer = time.AfterFunc(max(d, 0), func() { w.run(c) })
}

// Verdict is what has been found by now.
func (w *Watch) Verdict() Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict
}

// Terminating ends what could kill the container: it is ending anyway.
func (w *Watch) Terminating() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.terminating, w.verdict.Failed = true, ""
}

// Stop ends the watch. A probe under way goes on to its end, and is not heard.
func (w *Watch) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for _, c := range w.checks {
		if c.timer != nil {
			c.timer.Stop()
		}
	}
}

func (w *Watch) over(c *check) bool {
	return w.stopped || c.held || w.terminating && c.kind != Readiness
}

// run tries one check, and sets its next time.
func (w *Watch) run(c *check) {
	w.mu.Lock()
	if w.over(c) {
		w.mu.Unlock()
		return
	}
	began := time.Now()
	if c.first.IsZero() {
		c.first = began
	}
	w.mu.Unlock()
	result, text, err := w.o.Run(c.p)
	now := time.Now()
	w.mu.Lock()
	if w.over(c) {
		w.mu.Unlock()
		return
	}
	beginning := w.o.Before == nil && !c.well && c.kind != Liveness && now.Sub(c.first) < period(c.p)
	if beginning && (result == Failure || err != nil) {
		c.pause = min(max(2*c.pause, quickest), period(c.p)-now.Sub(c.first))
		w.after(c, c.pause)
		w.mu.Unlock()
		w.o.Count(c.kind, result, now.Sub(began))
		return
	}
	w.after(c, period(c.p)-now.Sub(began))
	changed := err == nil && w.note(c, result)
	w.mu.Unlock()
	w.o.Count(c.kind, result, now.Sub(began))
	w.tell(c.kind, result, text, err)
	if changed {
		w.o.Changed()
	}
}

// tell says what went wrong.
func (w *Watch) tell(kind string, result Result, text string, err error) {
	title := map[string]string{Startup: "Startup", Liveness: "Liveness", Readiness: "Readiness"}[kind]
	switch {
	case err != nil:
		w.o.Tell("Unhealthy", fmt.Sprintf("%s probe errored and resulted in %s state: %v", title, result, err))
	case result == Failure:
		w.o.Tell("Unhealthy", fmt.Sprintf("%s probe failed: %s", title, text))
	case result == Warning:
		w.o.Tell("ProbeWarning", fmt.Sprintf("%s probe warning: %s", title, text))
	}
}

// note counts a result, and says whether the verdict changed by it. The caller holds mu.
func (w *Watch) note(c *check, result Result) bool {
	if result == Warning {
		result = Success
	}
	if result == c.last {
		c.count++
	} else {
		c.last, c.count = result, 1
	}
	c.well = c.well || result == Success
	if result == Failure && c.count < threshold(c.p.FailureThreshold, 3) || result == Success && c.count < threshold(c.p.SuccessThreshold, 1) {
		return false
	}
	before := w.verdict
	switch {
	case c.kind == Readiness:
		w.verdict.Ready = result == Success
	case result == Failure:
		w.verdict.Failed, c.held = c.kind, true // until the container is another one
		c.timer.Stop()
	case c.kind == Startup:
		w.verdict.Started, c.held = true, true
		c.timer.Stop()
		w.release()
	}
	return w.verdict != before
}

func threshold(n int32, normal int) int {
	if n <= 0 {
		return normal
	}
	return int(n)
}
