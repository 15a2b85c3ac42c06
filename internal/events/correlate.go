package events

import (
	"container/list"
	"hash/maphash"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kubernetes' own figures.
const (
	remembered      = 4096             // events, groups and objects remembered, each
	similarMax      = 10               // different messages of one reason about one object within similarWithin …
	similarWithin   = 10 * time.Minute // … after which they are told as one
	spamBurst       = 25               // events of one source about one object at once …
	spamRefill      = 5 * time.Minute  // … and one more for each of these
	combinedMessage = "(combined from similar events): "
)

// correlator decides what becomes of an event: written new, counted on one that is there, or silenced.
// It is used by one goroutine.
type correlator struct {
	now    func() time.Time
	seed   maphash.Seed
	said   *recent[spoken]
	groups *recent[group]
	spam   *recent[bucket]
}

type spoken struct {
	name  string // of the event that is counted up
	count int32
	first time.Time
}

type group struct {
	messages map[uint64]struct{}
	last     time.Time
}

type bucket struct {
	tokens float64
	last   time.Time
}

func newCorrelator(now func() time.Time) *correlator {
	return &correlator{
		now: now, seed: maphash.MakeSeed(),
		said: newRecent[spoken](remembered), groups: newRecent[group](remembered), spam: newRecent[bucket](remembered),
	}
}

// The keys are comparable values, hashed: a remembered key must not hold on to an object's strings.
type groupKey struct {
	source       corev1.EventSource
	object       corev1.ObjectReference
	kind, reason string
}

type saidKey struct {
	group   groupKey
	message string
}

type spamKey struct {
	source corev1.EventSource
	object corev1.ObjectReference
}

// meeting is what becomes of an event.
type meeting struct {
	silenced bool   // not to be written
	again    bool   // it counts up the event of its name
	key      uint64 // of said
}

// meet decides about an event, which it may change: its message, and name and count if it counts up an earlier one.
func (c *correlator) meet(e *corev1.Event) meeting {
	now := c.now()
	object := e.InvolvedObject
	object.ResourceVersion = "" // the same object, whatever its revision
	key := saidKey{group: groupKey{source: e.Source, object: object, kind: e.Type, reason: e.Reason}, message: e.Message}
	if c.combine(key.group, e, now) {
		key.message = combinedMessage // whatever it says in full, it is one event
	}
	m := meeting{key: maphash.Comparable(c.seed, key)}
	said, known := c.said.get(m.key)
	if known {
		m.again = true
		e.Name, e.Count = said.name, said.count+1
		e.FirstTimestamp.Time = said.first
	}
	*said = spoken{name: e.Name, count: e.Count, first: e.FirstTimestamp.Time}

	object.FieldPath = ""
	m.silenced = !c.allow(spamKey{source: e.Source, object: object}, now)
	return m
}

// combine turns the message into the combined one if there were too many different ones of its group lately.
func (c *correlator) combine(key groupKey, e *corev1.Event, now time.Time) bool {
	g, known := c.groups.get(maphash.Comparable(c.seed, key))
	if !known || now.Sub(g.last) > similarWithin {
		*g = group{messages: map[uint64]struct{}{}}
	}
	g.last = now
	message := maphash.String(c.seed, e.Message)
	if _, said := g.messages[message]; said {
		return false
	}
	if len(g.messages) < similarMax-1 {
		g.messages[message] = struct{}{}
		return false
	}
	e.Message = combinedMessage + e.Message
	return true
}

// allow takes a token from the object's bucket, if there is one.
func (c *correlator) allow(key spamKey, now time.Time) bool {
	b, known := c.spam.get(maphash.Comparable(c.seed, key))
	if !known {
		*b = bucket{tokens: spamBurst, last: now}
	}
	b.tokens = min(spamBurst, b.tokens+now.Sub(b.last).Seconds()/spamRefill.Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// recent remembers the values used last, up to a number of them.
type recent[V any] struct {
	size  int
	byKey map[uint64]*list.Element
	order *list.List // used last at the front
}

type remembering[V any] struct {
	key   uint64
	value V
}

func newRecent[V any](size int) *recent[V] {
	return &recent[V]{size: size, byKey: map[uint64]*list.Element{}, order: list.New()}
}

// get returns the key's value to read and change, and whether it was there before.
func (r *recent[V]) get(key uint64) (*V, bool) {
	if e, ok := r.byKey[key]; ok {
		r.order.MoveToFront(e)
		return &e.Value.(*remembering[V]).value, true
	}
	if r.order.Len() >= r.size {
		oldest := r.order.Back()
		delete(r.byKey, oldest.Value.(*remembering[V]).key)
		r.order.Remove(oldest)
	}
	v := &remembering[V]{key: key}
	r.byKey[key] = r.order.PushFront(v)
	return &v.value, false
}
