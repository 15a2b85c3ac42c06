package volume

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// renewals remembers when which pod's tokens are to be renewed. One timer waits for the next.
type renewals struct {
	mu    sync.Mutex // guards the fields below
	due   map[types.UID]time.Time
	timer *time.Timer
}

// set says when a pod's turn is; the zero time: never. call is called then, once, with what is due.
func (r *renewals) set(uid types.UID, at time.Time, call func(types.UID)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.IsZero() || call == nil {
		delete(r.due, uid)
	} else {
		if r.due == nil {
			r.due = map[types.UID]time.Time{}
		}
		r.due[uid] = at
	}
	r.wait(call)
}

// wait sets the timer for the next. The caller holds mu.
func (r *renewals) wait(call func(types.UID)) {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	var next time.Time
	for _, at := range r.due {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if !next.IsZero() && call != nil {
		r.timer = time.AfterFunc(time.Until(next), func() { r.fire(call) })
	}
}

// fire calls for all whose time has come.
func (r *renewals) fire(call func(types.UID)) {
	now := time.Now()
	var ready []types.UID
	r.mu.Lock()
	for uid, at := range r.due {
		if !at.After(now) {
			ready = append(ready, uid)
			delete(r.due, uid)
		}
	}
	r.wait(call)
	r.mu.Unlock()
	for _, uid := range ready {
		call(uid)
	}
}

// Close stops waiting for tokens' renewals, until the next Setup.
func (m *Manager) Close() {
	m.renewals.mu.Lock()
	defer m.renewals.mu.Unlock()
	m.renewals.due = nil
	m.renewals.wait(nil)
}
