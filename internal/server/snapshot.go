package server

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/leader"
	"sampan.dev/internal/store/snapshot"
)

// snapshots saves the store and brings it back. While it is brought back no loop runs, on any server: none shall act on half of a state.
type snapshots struct {
	*Server
	one sync.Mutex // at a time
}

func (s *snapshots) Save(ctx context.Context, w io.Writer) error {
	return snapshot.Stream(ctx, s.store, w, snapshot.Head{Time: time.Now().UTC()})
}

func (s *snapshots) Restore(ctx context.Context, r io.Reader) (snapshot.Changes, error) {
	s.one.Lock()
	defer s.one.Unlock()
	resume, err := s.rest(ctx)
	if err != nil {
		return snapshot.Changes{}, err
	}
	defer resume()
	s.log.Warn("the store is brought back to a snapshot")
	return snapshot.Replace(ctx, s.store, r, ofNow)
}

// ofNow says that a key tells of servers and nodes as they are now, and not of what people want: it is never brought back. Leases are of those who hold them; the
// servers' shared keys are on their disks too.
func ofNow(key string) bool {
	return strings.HasPrefix(key, "/registry/leases/") || strings.HasPrefix(key, "/sampan/")
}

// rest stops the loops, wherever they run, until resume is called.
func (s *Server) rest(ctx context.Context) (resume func(), err error) {
	if !s.shared {
		return s.gate.close(), nil
	}
	return s.depose(ctx)
}

// deposed is after how long a server that led has noticed that it does no more: it renews its Lease that often, and may have to wait for an answer.
const deposed = 5 * time.Second

// depose takes the leader's Lease for nobody, and keeps it so.
func (s *Server) depose(ctx context.Context) (resume func(), err error) {
	ctx = auth.WithUser(ctx, auth.System("system:sampan"))
	l, me := leases{s}, "restore_"+s.self.holder()
	hold := func(ctx context.Context) error {
		_, err := l.Put(ctx, leader.Taken(l.Lease(leaderLease), leaderLease, me, time.Now()))
		return err
	}
	for {
		err := hold(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("stop the control loops of all servers: %w", err)
		}
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var kept sync.WaitGroup
	kept.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := hold(keeping); err != nil && keeping.Err() == nil {
					s.log.Warn("the lease of the control loops was not kept", "error", err)
				}
			case <-keeping.Done():
				return
			}
		}
	})
	resume = func() {
		stop()
		kept.Wait()
		if now := l.Lease(leaderLease); now != nil {
			if _, err := l.Put(context.WithoutCancel(ctx), leader.Released(now, time.Now())); err != nil {
				s.log.Warn("the lease of the control loops was not left to others", "error", err)
			}
		}
	}
	select {
	case <-time.After(deposed):
		return resume, nil
	case <-ctx.Done():
		resume()
		return nil, ctx.Err()
	}
}

// gate lets something run, and rest when it is closed.
type gate struct {
	mu      sync.Mutex
	opened  chan struct{} // closed when it is open again; nil: it is open
	stop    context.CancelFunc
	stopped chan struct{} // closed when what ran has stopped
}

// run has what runs run again whenever the gate has been closed and is open again, until ctx ends or it fails.
func (g *gate) run(ctx context.Context, what func(context.Context) error) error {
	for ctx.Err() == nil {
		g.mu.Lock()
		if opened := g.opened; opened != nil {
			g.mu.Unlock()
			select {
			case <-opened:
			case <-ctx.Done():
			}
			continue
		}
		inner, cancel := context.WithCancel(ctx)
		stopped := make(chan struct{})
		g.stop, g.stopped = cancel, stopped
		g.mu.Unlock()
		err := what(inner)
		cancel()
		close(stopped)
		if err != nil {
			return err
		}
	}
	return nil
}

// close stops what runs, and returns when it has stopped. It is closed once at a time.
func (g *gate) close() (open func()) {
	g.mu.Lock()
	opened := make(chan struct{})
	g.opened = opened
	stop, stopped := g.stop, g.stopped
	g.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.opened = nil
		close(opened)
	}
}
