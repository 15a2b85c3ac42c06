package etcd

import (
	"sync"
	"time"
)

// silentAfter is for how long nothing may come before etcd counts as silent. A member that stands still is left for another in less, so that only a server that is cut
// off, or an etcd without a majority, is silent; and whoever then asks another server has been without news for less than ten seconds.
const silentAfter = 8 * time.Second

// silence tells whoever passes on what etcd sends that it may be passing on nothing.
type silence struct {
	mu    sync.Mutex // guards the fields below
	now   chan struct{}
	is    bool      // now is closed
	since time.Time // when something last came, or there was a reason to expect nothing
}

// Silence returns what is closed once nothing has come of etcd for a while, or is closed already if so it is. When something comes again, a later call returns another.
func (s *Store) Silence() <-chan struct{} {
	s.silence.mu.Lock()
	defer s.silence.mu.Unlock()
	return s.silence.channel()
}

func (q *silence) channel() chan struct{} {
	if q.now == nil {
		q.now = make(chan struct{})
	}
	return q.now
}

// set notes whether etcd is silent, and says whether that is news.
func (q *silence) set(is bool) (news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.is == is {
		return false
	}
	q.is = is
	if is {
		close(q.channel())
	} else {
		q.now = nil
	}
	return true
}

// quiet is for how long nothing has come of etcd although there are watches. Once that is silence it is counted as a time in which the store stood still, all of it.
func (s *Store) quiet() time.Duration {
	s.silence.mu.Lock()
	defer s.silence.mu.Unlock()
	since := &s.silence.since
	if since.IsZero() || s.pulse.watchers.Load() == 0 {
		*since = time.Now()
	}
	if heard := s.pulse.lastHeard(); heard.After(*since) {
		*since = heard
	}
	quiet := time.Since(*since)
	if quiet > silentAfter {
		s.pace.Stood(*since)
	}
	return quiet
}

// listen notices silence. It looks more often than watches are asked how far they are, and never waits for a member.
func (s *Store) listen() {
	tick := time.NewTicker(pulseEvery / 3)
	defer tick.Stop()
	for {
		select {
		case <-s.base.Done():
			return
		case <-tick.C:
		}
		quiet := s.quiet()
		if s.silence.set(quiet > silentAfter) {
			if quiet > silentAfter {
				s.cfg.Log.Warn("etcd is silent: watches end, so that those who have them ask another server", "for", quiet.Round(time.Second))
			} else {
				s.cfg.Log.Info("etcd is heard again")
			}
		}
	}
}
