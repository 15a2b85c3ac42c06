package volume

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// busy lets one at a time work on a pod's volumes: containers that start together all ask for them.
type busy struct {
	mu   sync.Mutex // guards held
	held map[types.UID]*turn
}

// turn is a pod's lock, there as long as somebody has it or waits for it.
type turn struct {
	sync.Mutex
	users int // guarded by busy.mu
}

// lock waits for the pod's turn, and returns what ends it.
func (b *busy) lock(uid types.UID) (unlock func()) {
	b.mu.Lock()
	t := b.held[uid]
	if t == nil {
		if b.held == nil {
			b.held = map[types.UID]*turn{}
		}
		t = &turn{}
		b.held[uid] = t
	}
	t.users++
	b.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(b.held, uid)
		}
	}
}
