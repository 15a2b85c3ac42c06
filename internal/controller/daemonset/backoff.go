package daemonset

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pods that failed on a node are replaced after a while, which doubles each time: mostly the node refuses them.
const (
	backoffFirst = time.Second
	backoffMost  = 15 * time.Minute
)

// place is a set, as of a generation, on a node.
type place struct {
	set        types.UID
	generation int64
	node       string
}

type backoff struct {
	mu    sync.Mutex
	since map[place]failure
}

type failure struct {
	at    time.Time
	delay time.Duration
}

// wait is how long the place still has to wait.
func (b *backoff) wait(p place, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.since[p]
	if !ok {
		return 0
	}
	return max(f.delay-now.Sub(f.at), 0)
}

// failed notes that a pod there is being replaced. Places where none has been for long are forgotten.
func (b *backoff) failed(p place, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, f := range b.since {
		if now.Sub(f.at) > 2*backoffMost {
			delete(b.since, p)
		}
	}
	delay := backoffFirst
	if f, ok := b.since[p]; ok {
		delay = min(2*f.delay, backoffMost)
	}
	b.since[p] = failure{now, delay}
}
