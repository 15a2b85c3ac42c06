package scheduler

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/loop"
)

// place is where a waiting pod stands.
type place string

const (
	active        place = "active"        // to be tried next
	backingOff    place = "backoff"       // tried too often lately, until its time has come
	unschedulable place = "unschedulable" // fits nowhere until something changes
	gated         place = "gated"         // held by its scheduling gates
)

// waiting is a pod without a node.
type waiting struct {
	key      loop.Key
	need     *Need
	place    place
	failed   Filters   // by which the last attempt failed; none: there was no node at all
	attempts int       // so far
	tried    time.Time // the last time
	added    time.Time // since when it could be scheduled
	order    uint64    // of its turn among pods of one priority
	until    time.Time // the end of its backoff
	index    int       // in the heap of its place
}

func (w *waiting) pod() *corev1.Pod { return w.need.Pod }

func (w *waiting) priority() int32 {
	if p := w.pod().Spec.Priority; p != nil {
		return *p
	}
	return 0
}

// queue holds all pods without a node that are ours. One goroutine uses it.
type queue struct {
	pods    map[loop.Key]*waiting
	active  pile
	backoff pile
	turn    uint64
	first   time.Duration // backoff, which doubles with each further attempt, up to most
	most    time.Duration
	count   map[place]int
	moved   func(to place, why string) // for the metrics; may be nil
}

func newQueue(first, most time.Duration) *queue {
	return &queue{
		first: first, most: most,
		pods:    map[loop.Key]*waiting{},
		count:   map[place]int{},
		active:  pile{less: byPriorityThenTurn},
		backoff: pile{less: func(a, b *waiting) bool { return a.until.Before(b.until) }},
	}
}

func byPriorityThenTurn(a, b *waiting) bool {
	if d := cmp.Compare(b.priority(), a.priority()); d != 0 {
		return d < 0
	}
	return a.order < b.order
}

// sortByTurn puts those first whose turn came first.
func sortByTurn(list []*waiting) {
	slices.SortFunc(list, func(a, b *waiting) int { return cmp.Compare(a.order, b.order) })
}

// put moves the pod to a place, wherever it was before.
func (q *queue) put(w *waiting, to place, why string) {
	q.leave(w)
	w.place = to
	q.pods[w.key] = w
	q.count[to]++
	switch to {
	case active:
		q.turn++
		w.order = q.turn
		heap.Push(&q.active, w)
	case backingOff:
		heap.Push(&q.backoff, w)
	}
	if q.moved != nil {
		q.moved(to, why)
	}
}

// leave takes the pod out of its place.
func (q *queue) leave(w *waiting) {
	if q.pods[w.key] != w {
		return
	}
	delete(q.pods, w.key)
	q.count[w.place]--
	switch w.place {
	case active:
		heap.Remove(&q.active, w.index)
	case backingOff:
		heap.Remove(&q.backoff, w.index)
	}
}

// backoffOf is how long after an attempt the pod is tried again at the earliest. The first repetition is free: what
// woke the pod has been seen to help it.
func (q *queue) backoffOf(w *waiting) time.Duration {
	if w.attempts < 2 {
		return 0
	}
	backoff := q.first
	for range w.attempts - 2 {
		if backoff *= 2; backoff >= q.most {
			return q.most
		}
	}
	return min(backoff, q.most)
}

// wake lets the pod be tried again, as soon as its backoff has passed.
func (q *queue) wake(w *waiting, now time.Time, why string) {
	w.until = w.tried.Add(q.backoffOf(w))
	if now.Before(w.until) {
		q.put(w, backingOff, why)
		return
	}
	q.put(w, active, why)
}

// pop takes out the pod whose turn it is, or nil.
func (q *queue) pop(now time.Time) *waiting {
	for len(q.backoff.list) > 0 && !q.backoff.list[0].until.After(now) {
		q.put(q.backoff.list[0], active, "BackoffComplete")
	}
	if len(q.active.list) == 0 {
		return nil
	}
	w := q.active.list[0]
	q.leave(w)
	return w
}

// next is when the next backoff ends; the zero time if none runs.
func (q *queue) next() time.Time {
	if len(q.backoff.list) == 0 {
		return time.Time{}
	}
	return q.backoff.list[0].until
}

// pile is a heap of waiting pods.
type pile struct {
	list []*waiting
	less func(a, b *waiting) bool
}

func (p *pile) Len() int           { return len(p.list) }
func (p *pile) Less(i, j int) bool { return p.less(p.list[i], p.list[j]) }
func (p *pile) Swap(i, j int) {
	p.list[i], p.list[j] = p.list[j], p.list[i]
	p.list[i].index, p.list[j].index = i, j
}

func (p *pile) Push(x any) {
	w := x.(*waiting)
	w.index = len(p.list)
	p.list = append(p.list, w)
}

func (p *pile) Pop() any {
	last := p.list[len(p.list)-1]
	p.list[len(p.list)-1] = nil
	p.list = p.list[:len(p.list)-1]
	return last
}
