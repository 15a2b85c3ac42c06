package event

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

func TestLeft(t *testing.T) {
	now := time.Unix(100_000, 0)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	created := metav1.ObjectMeta{CreationTimestamp: ago(50 * time.Minute)}
	for _, c := range []struct {
		name  string
		event corev1.Event
		want  time.Duration
	}{
		{"from its creation", corev1.Event{ObjectMeta: created}, 10 * time.Minute},
		{"from its last occurrence", corev1.Event{ObjectMeta: created, LastTimestamp: ago(20 * time.Minute)}, 40 * time.Minute},
		{"from its series", corev1.Event{ObjectMeta: created, Series: &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(ago(5 * time.Minute).Time)}}, 55 * time.Minute},
		{"from its time", corev1.Event{ObjectMeta: created, EventTime: metav1.NewMicroTime(ago(30 * time.Minute).Time)}, 30 * time.Minute},
		{"a time that lies ahead is not believed", corev1.Event{ObjectMeta: created, LastTimestamp: ago(-24 * time.Hour)}, 10 * time.Minute},
		{"an old one is due", corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: ago(2 * time.Hour)}}, -time.Hour},
	} {
		if got := Left(&c.event, now); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

type board struct {
	mu     sync.Mutex
	events map[loop.Key]*corev1.Event
	looks  int
}

func (b *board) Event(key loop.Key) *corev1.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looks++
	return b.events[key]
}

func (b *board) DeleteEvent(_ context.Context, key loop.Key, _ string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.events, key)
	return nil
}

func (b *board) put(c *Controller, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := loop.Key{Namespace: "shop", Name: name}
	b.events[key] = &corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()}, LastTimestamp: metav1.Now()}
	c.Changed(key)
}

func (b *board) there(name string) bool {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events[loop.Key{Namespace: "shop", Name: name}] != nil
}

func TestAnEventGoesAnHourAfterItsLastOccurrence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{events: map[loop.Key]*corev1.Event{}}
		c := New(b, b, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = c.Run(ctx) }()
		b.put(c, "once")
		b.put(c, "again")
		time.Sleep(30 * time.Minute)
		b.put(c, "again")
		time.Sleep(30 * time.Minute)
		if b.there("once") || !b.there("again") {
			t.Error("after an hour")
		}
		time.Sleep(29 * time.Minute)
		if !b.there("again") {
			t.Error("it went too early")
		}
		time.Sleep(2 * time.Minute)
		if b.there("again") {
			t.Error("it is still there")
		}
		if b.looks != 3 {
			t.Errorf("the events were looked at %d times: it polls", b.looks)
		}
	})
}
