// Package leader has one of several servers do what only one may: the one that holds a Lease.
//
// It watches and writes that Lease, as Kubernetes' components do theirs (coordination.k8s.io). Always: whoever leads has renewed within the deadline, and has stopped
// leading before the Lease is over for anybody else, as far as clocks run equally fast; a leader that goes of itself leaves the Lease to others at once.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where the Lease is.
const Namespace = metav1.NamespaceSystem

// Leases is where the Lease is kept.
type Leases interface {
	// Lease is the current one, shared; nil if there is none. It may be a little behind.
	Lease(name string) *coordination.Lease
	// Put creates the Lease, or updates it if it is still at the version that it carries; else it fails with an API conflict, or that it is there already.
	Put(ctx context.Context, lease *coordination.Lease) (*coordination.Lease, error)
	// OnChange has mark called when the Lease may have changed, until stop is called.
	OnChange(name string, mark func()) (stop func())
}

// Config says who wants to lead. Zero times are the defaults: Kubernetes' own: a Lease of 15 s, renewed every 2 s, and given up
// when 10 s have passed without success.
type Config struct {
	Name     string // of the Lease
	Me       string // of this process, and of no other
	Leases   Leases
	Lasts    time.Duration
	Deadline time.Duration // shorter than Lasts
	Every    time.Duration // shorter than Deadline
	Log      *slog.Logger
}

// Elector stands for election. Run does.
type Elector struct {
	Config
	wake chan struct{}
	seen sight
	own  *coordination.Lease // as we have written it last
}

const defaultLasts = 15 * time.Second

// New makes an elector; it starts nothing.
func New(c Config) *Elector {
	if c.Lasts == 0 {
		c.Lasts, c.Deadline, c.Every = defaultLasts, 10*time.Second, 2*time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Elector{Config: c, wake: make(chan struct{}, 1)}
}

// Run has lead run whenever this process leads, with a context that ends when it does not any more; lead must then return soon. It returns nil when ctx ends, and lead's
// error if it returns one.
func (e *Elector) Run(ctx context.Context, lead func(ctx context.Context) error) error {
	defer e.Leases.OnChange(e.Name, e.nudge)()
	for ctx.Err() == nil {
		if !e.stand(ctx) {
			return nil
		}
		e.Log.Info("this server leads: it runs the control loops", "lease", e.Name, "as", e.Me)
		if err := e.reign(ctx, lead); err != nil {
			return err
		}
	}
	return nil
}

func (e *Elector) nudge() {
	select {
	case e.wake <- struct{}{}:
	default: // a nudge is waiting
	}
}

// stand waits until the Lease is ours; false when ctx has ended before.
func (e *Elector) stand(ctx context.Context) bool {
	for {
		now := time.Now()
		lease := e.Leases.Lease(e.Name)
		e.seen = e.seen.look(lease, now)
		claim, next := e.seen.decide(e.Me, now, e.Every)
		if claim != wait {
			stored, err := e.Leases.Put(ctx, taken(lease, e.Name, e.Me, now, e.Lasts))
			if err == nil {
				e.own, e.seen = stored, sight{}
				return true
			}
			if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				e.Log.Warn("the lease of the control loops cannot be taken", "lease", e.Name, "error", err)
			}
		}
		if !e.rest(ctx, next) {
			return false
		}
	}
}

// rest waits for a time or a change; false when ctx has ended.
func (e *Elector) rest(ctx context.Context, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-e.wake:
	}
	return true
}

// errLost ends the leader's context.
var errLost = errors.New("the lease is lost")

// reign leads until ctx ends, the Lease is lost, or lead returns.
func (e *Elector) reign(ctx context.Context, lead func(ctx context.Context) error) error {
	leading, end := context.WithCancelCause(ctx)
	done := make(chan error, 1)
	go func() { done <- lead(leading) }()
	reason := e.hold(leading, done)
	end(reason)
	err := <-done
	switch {
	case err != nil && ctx.Err() == nil && !errors.Is(reason, errLost):
		return err
	case errors.Is(reason, errLost):
		e.Log.Warn("this server leads no longer", "lease", e.Name, "error", reason)
		return nil
	}
	e.release(ctx)
	return nil
}

// hold renews the Lease until that fails for too long, somebody else has it, or ctx ends. What lead returned is put back into done.
func (e *Elector) hold(ctx context.Context, done chan error) error {
	begun := time.Now()
	renewed := begun
	var failure error
	for {
		pause := time.NewTimer(time.Until(begun.Add(e.Every)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case err := <-done:
			pause.Stop()
			done <- err
			return nil
		case <-pause.C:
		}
		begun = time.Now()
		attempt, cancel := context.WithDeadline(ctx, renewed.Add(e.Deadline))
		stored, err := e.Leases.Put(attempt, taken(e.own, e.Name, e.Me, begun, e.Lasts))
		cancel()
		switch {
		case err == nil:
			e.own, renewed, failure = stored, begun, nil
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		}
		failure = err
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
			now := e.Leases.Lease(e.Name)
			switch {
			case now == nil:
				e.own = nil // somebody has deleted it
			case holderOf(now) == e.Me:
				e.own = now // somebody has changed something else of it, or a write whose answer was lost was made after all
			default:
				return fmt.Errorf("%w: %s has it", errLost, holderOf(now))
			}
		}
		if time.Since(renewed) >= e.Deadline {
			return fmt.Errorf("%w: not renewed for %v: %w", errLost, e.Deadline, failure)
		}
	}
}

// releaseTimeout bounds how long a stop waits for the Lease to be left to others.
const releaseTimeout = 2 * time.Second

func (e *Elector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if _, err := e.Leases.Put(ctx, Released(e.own, time.Now())); err != nil && !apierrors.IsConflict(err) {
		e.Log.Warn("the lease of the control loops was not left to others", "lease", e.Name, "error", err)
	}
}

func holderOf(l *coordination.Lease) string {
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
		return "nobody"
	}
	return *l.Spec.HolderIdentity
}

func microTime(t time.Time) *metav1.MicroTime {
	m := metav1.NewMicroTime(t)
	return &m
}
