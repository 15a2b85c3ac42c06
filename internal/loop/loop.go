// Package loop is what every control loop runs on: a queue of keys, workers, retries and timers.
//
// It watches and writes nothing itself: whoever watches marks the keys of objects that may need work, and the loop
// calls reconcile for each. Always: a key is reconciled after its last mark, however often it was marked meanwhile;
// one key is in one worker's hands at a time; a key that failed comes back, later each time, until it succeeds.
// A key that is not marked costs nothing, a loop without work has no workers.
package loop

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Key names an object; Namespace is empty for kinds outside namespaces.
type Key struct{ Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Options are a loop's particulars; the zero value works.
type Options struct {
	Workers      int           // reconciles at once, 1 if zero
	BackoffFirst time.Duration // before the first retry of a key, doubled for each further one; 5 ms if zero
	BackoffMost  time.Duration // no retry waits longer; 5 minutes if zero
	Jitter       float64       // share of a delay that is drawn by lot and added; zero makes delays exact
	Resync       time.Duration // mark All this often, as a net below missed marks; zero never does
	All          func() iter.Seq[Key]
	Metrics      *Metrics // nil counts nothing
	Log          *slog.Logger
}

// Loop calls its reconcile function for marked keys. Its methods may be called from anywhere, before Run too.
type Loop struct {
	name      string
	reconcile func(ctx context.Context, key Key) error
	o         Options
	log       *slog.Logger
	work      sync.WaitGroup // workers, resync

	mu      sync.Mutex      // guards the fields below
	ctx     context.Context // Run's, for the workers it hires; nil before and after
	keys    map[Key]*state  // those waiting, in work, or failed lately
	ready   fifo
	workers int
	later   timers
}

// state is where a key stands. A key that is none of these has none.
type state struct {
	queued   bool      // in ready
	working  bool      // in a worker's hands
	dirty    bool      // marked while in work: to be queued again after it
	failures int       // since it last succeeded
	since    time.Time // queued, or begun
}

// New makes a loop of that name (as metrics and logs give it). Run starts it.
func New(name string, reconcile func(ctx context.Context, key Key) error, o Options) *Loop {
	o.Workers = cmp.Or(o.Workers, 1)
	o.BackoffFirst = cmp.Or(o.BackoffFirst, 5*time.Millisecond)
	o.BackoffMost = cmp.Or(o.BackoffMost, 5*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Loop{name: name, reconcile: reconcile, o: o, log: o.Log.With("loop", name), keys: map[Key]*state{}}
	l.later.due = l.due
	o.Metrics.add(l)
	return l
}

// Mark asks for the key to be reconciled soon. It never blocks.
func (l *Loop) Mark(key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark(key)
}

// MarkAfter asks for the key to be reconciled once d has passed. Of several such wishes for a key the earliest counts,
// and a Mark does not take it back.
func (l *Loop) MarkAfter(key Key, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d <= 0 {
		l.mark(key)
		return
	}
	l.later.add(key, time.Now().Add(d))
}

// Run reconciles until ctx ends, and returns nil once all workers have returned. A loop runs once.
func (l *Loop) Run(ctx context.Context) error {
	l.mu.Lock()
	l.ctx = ctx
	l.later.start()
	l.hire()
	l.mu.Unlock()
	if l.o.Resync > 0 && l.o.All != nil {
		l.work.Go(func() { l.resync(ctx) })
	}
	<-ctx.Done()
	l.mu.Lock()
	l.ctx = nil
	l.later.stop()
	l.mu.Unlock()
	l.work.Wait()
	return nil
}

// mark queues the key. The caller holds mu.
func (l *Loop) mark(key Key) {
	s := l.keys[key]
	if s == nil {
		s = &state{}
		l.keys[key] = s
	}
	if s.queued || s.dirty {
		return
	}
	l.o.Metrics.added(l.name)
	if s.working {
		s.dirty = true
		return
	}
	l.push(key, s)
	l.hire()
}

func (l *Loop) push(key Key, s *state) {
	s.queued, s.since = true, time.Now()
	l.ready.push(key)
}

// hire starts as many workers as there is work for. The caller holds mu.
func (l *Loop) hire() {
	for l.ctx != nil && l.workers < l.o.Workers && l.workers-l.inWork() < l.ready.len() {
		l.workers++
		ctx := l.ctx
		l.work.Go(func() { l.serve(ctx) })
	}
}

// inWork is how many workers are busy with a key; the others are about to take one.
func (l *Loop) inWork() int { return l.ready.taken }

// serve takes key after key, and ends when none waits.
func (l *Loop) serve(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.workers-- }()
	for ctx.Err() == nil {
		key, ok := l.ready.pop()
		if !ok {
			return
		}
		s := l.keys[key]
		now := time.Now()
		l.o.Metrics.begun(l.name, now.Sub(s.since))
		s.queued, s.working, s.since = false, true, now
		err := l.outside(ctx, key)
		l.o.Metrics.done(l.name, time.Since(now))
		l.finish(ctx, key, s, err)
	}
}

// outside calls reconcile without the lock, and takes it again even if reconcile panics: the panic goes on, and ends the process.
func (l *Loop) outside(ctx context.Context, key Key) error {
	l.mu.Unlock()
	defer l.mu.Lock()
	return l.reconcile(ctx, key)
}

// finish puts the key where it belongs after one reconcile. The caller holds mu.
func (l *Loop) finish(ctx context.Context, key Key, s *state, err error) {
	l.ready.taken--
	s.working = false
	if err == nil {
		s.failures = 0
	} else if ctx.Err() == nil {
		s.failures++
		delay := l.backoff(s.failures)
		l.later.add(key, time.Now().Add(delay))
		l.o.Metrics.retried(l.name)
		l.log.Warn("failed, will try again", "key", key, "attempt", s.failures, "delay", delay, "error", err)
	}
	if s.dirty {
		s.dirty = false
		l.push(key, s)
	} else if s.failures == 0 {
		delete(l.keys, key)
	}
}

// backoff is how long a key waits that has failed so often.
func (l *Loop) backoff(failures int) time.Duration {
	d := l.o.BackoffFirst
	for range failures - 1 {
		if d *= 2; d >= l.o.BackoffMost {
			d = l.o.BackoffMost
			break
		}
	}
	if l.o.Jitter > 0 {
		d += time.Duration(l.o.Jitter * rand.Float64() * float64(d))
	}
	return min(d, l.o.BackoffMost)
}

// due marks the keys whose time has come. The timer calls it.
func (l *Loop) due() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		return
	}
	for _, key := range l.later.take(time.Now()) {
		l.mark(key)
	}
}

func (l *Loop) resync(ctx context.Context) {
	ticker := time.NewTicker(l.o.Resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for key := range l.o.All() {
				l.Mark(key)
			}
		}
	}
}
