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

// Pace notes how long it takes to get writes onto disk, so that a slow disk can be told from other trouble. Its zero value is ready.
type Pace struct {
	Of string // what is slow then; default: the disk

	mu    sync.Mutex
	next  int
	begun map[int]time.Time // under way
	last  time.Duration     // what the last slow one took
	ended time.Time         // and when
}

// Begin notes that a write is under way, until the function it returns is called.
func (p *Pace) Begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, now := p.next, time.Now()
	p.next++
	if p.begun == nil {
		p.begun = map[int]time.Time{}
	}
	p.begun[id] = now
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.begun, id)
		if took := time.Since(now); took >= slowWrite {
			p.last, p.ended = took, time.Now()
		}
	}
}

// Slow says how slow writes are, as an error; nil if they are not.
func (p *Pace) Slow() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var longest time.Duration
	for _, t := range p.begun {
		longest = max(longest, time.Since(t))
	}
	what := cmp.Or(p.Of, "the disk")
	switch {
	case longest >= slowWrite:
		return fmt.Errorf("%s is slow: a write has been waiting for it for %v", what, longest.Round(100*time.Millisecond))
	case !p.ended.IsZero() && time.Since(p.ended) < tellSlow:
		return fmt.Errorf("%s is slow: %v ago a write took %v", what, time.Since(p.ended).Round(time.Second), p.last.Round(100*time.Millisecond))
	}
	return nil
}
