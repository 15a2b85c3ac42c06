package loop

import (
	"container/heap"
	"time"
)

// fifo is a queue that gives its memory back: what has been taken is overwritten or dropped.
type fifo struct {
	keys  []Key
	head  int // of the next one in keys
	taken int // popped and not yet finished
}

func (f *fifo) len() int { return len(f.keys) - f.head }

func (f *fifo) push(key Key) { f.keys = append(f.keys, key) }

func (f *fifo) pop() (Key, bool) {
	if f.len() == 0 {
		return Key{}, false
	}
	key := f.keys[f.head]
	f.keys[f.head] = Key{}
	f.head++
	f.taken++
	switch {
	case f.head == len(f.keys):
		f.keys, f.head = f.keys[:0], 0
		if cap(f.keys) > 1024 {
			f.keys = nil
		}
	case f.head > 1024 && f.head > len(f.keys)/2:
		f.keys, f.head = append([]Key(nil), f.keys[f.head:]...), 0
	}
	return key, true
}

// timers keeps when to mark which key, and one timer for the earliest. Its loop's lock guards it.
type timers struct {
	due     func() // called, without the lock, when the earliest is due
	heap    timeHeap
	byKey   map[Key]*timed
	timer   *time.Timer // nil until started
	running bool
}

type timed struct {
	key   Key
	at    time.Time
	index int // in the heap
}

func (t *timers) add(key Key, at time.Time) {
	if old := t.byKey[key]; old != nil {
		if at.Before(old.at) {
			old.at = at
			heap.Fix(&t.heap, old.index)
			t.arm()
		}
		return
	}
	if t.byKey == nil {
		t.byKey = map[Key]*timed{}
	}
	entry := &timed{key: key, at: at}
	t.byKey[key] = entry
	heap.Push(&t.heap, entry)
	t.arm()
}

// take removes and returns the keys due at now.
func (t *timers) take(now time.Time) []Key {
	var keys []Key
	for len(t.heap) > 0 && !t.heap[0].at.After(now) {
		key := heap.Pop(&t.heap).(*timed).key
		delete(t.byKey, key)
		keys = append(keys, key)
	}
	t.arm()
	return keys
}

// arm sets the timer to the earliest entry.
func (t *timers) arm() {
	if !t.running || len(t.heap) == 0 {
		return
	}
	d := time.Until(t.heap[0].at)
	if t.timer == nil {
		t.timer = time.AfterFunc(d, t.due)
		return
	}
	t.timer.Reset(d)
}

func (t *timers) start() { t.running = true; t.arm() }

func (t *timers) stop() {
	t.running = false
	if t.timer != nil {
		t.timer.Stop()
	}
}

type timeHeap []*timed

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timeHeap) Push(x any) {
	entry := x.(*timed)
	entry.index = len(*h)
	*h = append(*h, entry)
}

func (h *timeHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
