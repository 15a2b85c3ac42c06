package etcd

import (
	"context"
	"sync"
)

// asking lets all who want to know the revision at the same time share one question: whoever comes while one is under way waits for the next, which is asked after
// they came, and so shows all that was written before.
type asking struct {
	mu   sync.Mutex
	now  *question // under way; nil: none
	next *question // to be asked when that is answered
}

type question struct {
	done     chan struct{}
	revision int64
	err      error
}

// Current asks etcd for its revision; see store.Store.
func (s *Store) Current(ctx context.Context) (int64, error) {
	q := s.ask()
	select {
	case <-q.done:
		return q.revision, q.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ask joins the next question, and begins it if none is under way.
func (s *Store) ask() *question {
	a := &s.asking
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = &question{done: make(chan struct{})}
	}
	q := a.next
	if a.now == nil {
		a.now, a.next = q, nil
		go s.answer()
	}
	return q
}

// answer asks until nobody waits.
func (s *Store) answer() {
	a := &s.asking
	for {
		q := a.now // only this goroutine changes it while it is set
		q.revision, q.err = s.current(s.base)
		close(q.done)
		a.mu.Lock()
		a.now, a.next = a.next, nil
		more := a.now != nil
		a.mu.Unlock()
		if !more {
			return
		}
	}
}
