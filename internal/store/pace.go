package store

import (
	"cmp"
	"fmt"
	"sync"
	"time"
)

// When a write counts as slow, and for how long that is told after it.
const (
	slowWrite = time.Second
	tellSlow  = 10 * time.Second
)

// Pace notes how long it takes to get writes onto disk, so that a slow disk can be told from other trouble, and for how much of the time the store stood still. Its zero
// value is ready.
type Pace struct {
	Of string // what is slow then; default: the disk

	mu      sync.Mutex
	begun   []*underWay   // in the order in which they began; the first one has not ended
	last    time.Duration // what the last slow one took
	ended   time.Time     // and when
	stood   []span        // apart from each other, the newest last: those that one which is still to be counted may reach back into
	stalled time.Duration // the length of all spans that there ever were
}

// underWay is a write that has begun.
type underWay struct {
	at   time.Time
	over bool
}

// span is a time in which the store stood still.
type span struct{ from, to time.Time }

// spansKept is how many spans are remembered one by one. Each is at least as long as slowWrite, and whoever counts one counts it again and again until it is over, from
// ten seconds after its beginning at the latest: none reaches back behind so many.
const spansKept = 16

// Begin notes that a write is under way, until the function it returns is called.
func (p *Pace) Begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &underWay{at: time.Now()}
	p.begun = append(p.begun, w)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		now := time.Now()
		p.count(now)
		if took := now.Sub(w.at); took >= slowWrite && !w.over {
			p.last, p.ended = took, now
		}
		w.over = true
		for len(p.begun) > 0 && p.begun[0].over {
			p.begun[0] = nil
			p.begun = p.begun[1:]
		}
	}
}

// Waiting is for how long the write that began first of those under way has been waiting; zero without one.
func (p *Pace) Waiting() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting(time.Now())
}

func (p *Pace) waiting(now time.Time) time.Duration {
	if len(p.begun) == 0 {
		return 0
	}
	return now.Sub(p.begun[0].at)
}

// Stalled is for how much of the time since the beginning the store stood still: some write, which may be under way yet, has been waiting then and waited for a second
// or longer in all, or Stood says so. It never becomes less.
func (p *Pace) Stalled() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(time.Now())
	return p.stalled
}

// Stood counts all of the time from then until now, no part of it twice. Whoever knows from elsewhere than writes that the store stands still says so every few seconds.
func (p *Pace) Stood(from time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.count(now)
	p.add(from, now)
}

// count counts those slow writes that are under way. All of them end now, so that the longest is the union.
func (p *Pace) count(now time.Time) {
	if p.waiting(now) >= slowWrite {
		p.add(p.begun[0].at, now)
	}
}

// add makes one span of this one, which no other is later than, and all that it touches.
func (p *Pace) add(from, to time.Time) {
	n := len(p.stood)
	for n > 0 && !p.stood[n-1].to.Before(from) {
		n--
		if was := p.stood[n]; was.from.Before(from) {
			from = was.from
		}
		p.stalled -= p.stood[n].to.Sub(p.stood[n].from)
	}
	p.stood = append(p.stood[:n], span{from, to})
	p.stalled += to.Sub(from)
	if len(p.stood) > spansKept {
		p.stood = p.stood[:copy(p.stood, p.stood[1:])]
	}
}

// Slow says how slow writes are, as an error; nil if they are not.
func (p *Pace) Slow() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := p.waiting(time.Now())
	what := cmp.Or(p.Of, "the disk")
	switch {
	case longest >= slowWrite:
		return fmt.Errorf("%s is slow: a write has been waiting for it for %v", what, longest.Round(100*time.Millisecond))
	case !p.ended.IsZero() && time.Since(p.ended) < tellSlow:
		return fmt.Errorf("%s is slow: %v ago a write took %v", what, time.Since(p.ended).Round(time.Second), p.last.Round(100*time.Millisecond))
	}
	return nil
}
