package etcd

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

const (
	pulseEvery  = 1500 * time.Millisecond // how often watches are asked how far they are
	pulseMissed = 4 * time.Second         // without an answer for so long they go elsewhere
)

// pulse sees to it that no watch stands still with a member that says nothing: all watches share one stream, which is asked for its progress.
type pulse struct {
	watchers atomic.Int64
	suspect  chan struct{} // has one when a request was not answered for a while
	began    time.Time
	heard    atomic.Int64 // when anything last came from a watch, in nanoseconds since began: by a clock that nobody sets

	mu         sync.Mutex // guards the fields below
	generation int        // which stream; streams of different contexts' metadata are different
	renew      chan struct{}
}

// hear notes that something has come from a watch, and lastHeard says when it did.
func (p *pulse) hear()                { p.heard.Store(int64(time.Since(p.began))) }
func (p *pulse) lastHeard() time.Time { return p.began.Add(time.Duration(p.heard.Load())) }

// stream returns a context for the stream that watches share now, and what is closed when they are to take another.
func (p *pulse) stream(ctx context.Context) (context.Context, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx = metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "sampan-stream", strconv.Itoa(p.generation))
	return ctx, p.renew
}

// leave makes all watches take another stream.
func (p *pulse) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	close(p.renew)
	p.renew = make(chan struct{})
}

// suspected has the members asked which of them answer.
func (p *pulse) suspected() {
	select {
	case p.suspect <- struct{}{}:
	default:
	}
}

// keepPulse asks for progress, which also keeps Revision near to what other servers write, and leaves members that do not answer.
func (s *Store) keepPulse() {
	since := time.Now() // when there was last a reason to expect nothing
	narrowed := false
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.base.Done():
			return
		case <-tick.C:
		case <-s.pulse.suspect:
			narrowed = true
		}
		if narrowed {
			narrowed = s.narrow()
		}
		if s.pulse.watchers.Load() == 0 {
			since = time.Now()
			continue
		}
		if heard := s.pulse.lastHeard(); heard.After(since) {
			since = heard
		}
		if time.Since(since) > pulseMissed {
			s.cfg.Log.Warn("etcd sends nothing; watches go to another member", "silent", time.Since(since).Round(time.Second))
			narrowed = s.narrow()
			s.pulse.leave()
			since = time.Now()
			continue
		}
		ctx, _ := s.pulse.stream(s.base)
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		_ = s.client.RequestProgress(ctx) // that it fails shows in the silence
		cancel()
	}
}

// narrow uses only the endpoints whose members answer and know a leader, if there are any, and says whether that is not all of them.
func (s *Store) narrow() bool {
	all := s.Members(s.base)
	var good []string
	for _, m := range all {
		if m.Err == nil && m.Leads != 0 {
			good = append(good, m.Endpoint)
		}
	}
	if len(good) == 0 {
		good = s.cfg.Endpoints
	}
	if used := s.client.Endpoints(); !same(used, good) {
		s.client.SetEndpoints(good...)
	}
	return len(good) < len(all)
}

// same compares endpoints without regard to their order.
func same(a, b []string) bool {
	count := map[string]int{}
	for _, e := range a {
		count[e]++
	}
	for _, e := range b {
		count[e]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
