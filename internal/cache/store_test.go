package cache_test

import (
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

func podWrite(t testing.TB, k *resource.Kind, ns, name, node string) store.Write {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	data, err := table().Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return store.Write{Key: k.Key(ns, name), Value: data, Expect: store.Any}
}

func TestAWatchOfTheStoreThatEndsIsTakenUpWhereItWas(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	c := run(t, m)
	w, err := c.Watch(k, cache.Selection{}, c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		rev := put(t, m, k, "a", "p", &corev1.Pod{})
		m.breakOff()
		if ev := <-w.Events(); ev.Revision != rev {
			t.Fatalf("write %d: event at %d, want %d", i, ev.Revision, rev)
		}
	}
}

func TestWhatNoWatchToldIsFoundByAList(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	for _, name := range []string{"stays", "changes", "goes"} {
		put(t, m, k, "a", name, &corev1.Pod{})
	}
	c := cache.New(table(), m, slog.New(slog.DiscardHandler))
	var handled []string
	c.OnChange(k, func(old, new *cache.Object) {
		switch {
		case old == nil:
			handled = append(handled, "+"+new.Name())
		case new == nil:
			handled = append(handled, "-"+old.Name())
		default:
			handled = append(handled, "~"+new.Name())
		}
	})
	start(t, c)
	before := c.Snapshot().Revision()
	w, err := c.Watch(k, cache.Selection{}, before)
	if err != nil {
		t.Fatal(err)
	}
	// Written in an order that is not that of the keys.
	m.lose(podWrite(t, k, "z", "comes", ""), podWrite(t, k, "a", "changes", "n1"), store.Write{Key: k.Key("a", "goes")})
	snap := reach(t, c, m.Revision())
	seen := state{"a/stays": 2, "a/changes": 3, "a/goes": 4}
	for at := before; len(seen.differs(listed(snap, k, cache.Selection{}))) > 0; {
		ev, ok := <-w.Events()
		if !ok || ev.Revision < at {
			t.Fatalf("%+v after %d, %v", ev, at, w.Err())
		}
		at = ev.Revision
		if err := seen.replay(ev); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Watch(k, cache.Selection{}, before); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("a watch from before what was lost: %v", err)
	}
	if _, err := c.At(before); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("the state before what was lost: %v", err)
	}
	again, err := c.Watch(k, cache.Selection{}, snap.Revision())
	if err != nil {
		t.Fatal(err)
	}
	last := put(t, m, k, "a", "stays", &corev1.Pod{})
	for _, w := range []*cache.Watcher{w, again} {
		if ev := <-w.Events(); ev.Type != watch.Modified || ev.Revision != last {
			t.Errorf("the next event is %+v", ev)
		}
	}
	reach(t, c, put(t, m, k, "a", "stays", &corev1.Pod{}))
	want := []string{"+stays", "+changes", "+goes", "+comes", "~changes", "-goes", "~stays"}
	for i, step := range want {
		if handled[i] != step {
			t.Fatalf("handlers were told %v, want %v", handled, want)
		}
	}
}

func TestAWatchGoesOnOverARestart(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	put(t, m, k, "a", "old", &corev1.Pod{})
	seen := state{"a/old": m.Revision()}
	at := m.Revision()
	put(t, m, k, "a", "old", &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1"}})
	put(t, m, k, "a", "new", &corev1.Pod{})
	put(t, m, k, "a", "old", nil)
	put(t, m, k, "a", "short", &corev1.Pod{})
	put(t, m, k, "a", "short", nil)
	c := run(t, m)
	w, err := c.Watch(k, cache.Selection{}, at)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := seen.replay(<-w.Events()); err != nil {
			t.Fatal(err)
		}
	}
	if d := seen.differs(listed(c.Snapshot(), k, cache.Selection{})); d != "" {
		t.Error(d)
	}
	if _, err := c.At(at); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("a state whose objects are not known in full: %v", err)
	}
	rev := put(t, m, k, "a", "new", &corev1.Pod{})
	if ev := <-w.Events(); ev.Type != watch.Modified || ev.Revision != rev {
		t.Errorf("then comes %+v", ev)
	}
}

func TestWhatTheStoreForgotIsNotRemembered(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	first := put(t, m, k, "a", "p", &corev1.Pod{})
	m.lose(podWrite(t, k, "a", "p", "n1"))
	c := run(t, m)
	if _, err := c.Watch(k, cache.Selection{}, first); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("a watch from before: %v", err)
	}
}

func TestAWatcherThatTakesNothingIsClosedInTheEnd(t *testing.T) {
	m, k := newMemory(), kindOf(t, "configmaps")
	c := run(t, m)
	slow, err := c.Watch(k, cache.Selection{}, c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Stop()
	other, err := c.Watch(k, cache.Selection{}, c.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop()
	taken := make(chan int)
	go func() {
		n := 0
		for range other.Events() {
			if n++; n == 25_000 {
				break
			}
		}
		taken <- n
	}()
	for i := range 25_000 {
		if rev := put(t, m, k, "a", "c", &corev1.ConfigMap{}); i%100 == 0 {
			reach(t, c, rev) // the one who takes shall have time to
		}
	}
	if n := <-taken; n != 25_000 {
		t.Errorf("the other one got %d events: %v", n, other.Err())
	}
	for range slow.Events() {
	}
	if !errors.Is(slow.Err(), cache.ErrSlow) {
		t.Errorf("the end of the slow one: %v", slow.Err())
	}
}

func TestAWatchFromTheFutureWaitsForIt(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	c := run(t, m)
	w, err := c.Watch(k, cache.Selection{}, c.Snapshot().Revision()+2)
	if err != nil {
		t.Fatal(err)
	}
	put(t, m, k, "a", "p", &corev1.Pod{})
	put(t, m, k, "a", "p", &corev1.Pod{})
	rev := put(t, m, k, "a", "p", &corev1.Pod{})
	if ev := <-w.Events(); ev.Revision != rev {
		t.Errorf("got the event at %d, asked for those after %d", ev.Revision, rev-1)
	}
}

func TestAKeptStateOutlivesItsHistoryForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, k := newMemory(), kindOf(t, "pods")
		c := run(t, m)
		put(t, m, k, "a", "p", &corev1.Pod{})
		page := reach(t, c, m.Revision())
		c.Keep(page)
		want := keysOf(k, page, cache.Selection{})
		m.lose(podWrite(t, k, "a", "q", ""), podWrite(t, k, "a", "p", "n1"))
		reach(t, c, m.Revision())
		for range 3 { // each use makes it last longer
			time.Sleep(4 * time.Minute)
			reach(t, c, put(t, m, k, "b", "x", &corev1.Pod{}))
			s, err := c.At(page.Revision())
			if err != nil {
				t.Fatal(err)
			}
			if got := keysOf(k, s, cache.Selection{}); len(got) != 1 || got[0] != want[0] {
				t.Fatalf("shows %v, was %v", got, want)
			}
		}
		time.Sleep(6 * time.Minute)
		reach(t, c, put(t, m, k, "b", "x", &corev1.Pod{}))
		if _, err := c.At(page.Revision()); !errors.Is(err, cache.ErrExpired) {
			t.Errorf("long after its last use: %v", err)
		}
	})
}

func TestHistoryIsLetGoWithTimeAndSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, k := newMemory(), kindOf(t, "pods")
		c := run(t, m)
		first := reach(t, c, put(t, m, k, "a", "p", &corev1.Pod{})).Revision()
		for range 300 {
			put(t, m, k, "a", "p", &corev1.Pod{})
		}
		reach(t, c, m.Revision())
		watches := func(after int64) error {
			w, err := c.Watch(k, cache.Selection{}, after)
			if err == nil {
				w.Stop()
			}
			return err
		}
		if err := watches(first); err != nil {
			t.Errorf("more events than are kept for ever, but young: %v", err)
		}
		time.Sleep(6 * time.Minute)
		reach(t, c, put(t, m, kindOf(t, "configmaps"), "a", "another", &corev1.ConfigMap{}))
		if err := watches(first); !errors.Is(err, cache.ErrExpired) {
			t.Errorf("old ones, though only another kind was written since: %v", err)
		}
		if err := watches(m.Revision() - 200); err != nil {
			t.Errorf("the youngest stay whatever their age: %v", err)
		}
		large := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": string(make([]byte, 1<<20))}}}
		first = put(t, m, k, "a", "large", large)
		for i := range 12 {
			large.Labels = map[string]string{"i": strconv.Itoa(i)}
			put(t, m, k, "a", "large", large)
		}
		reach(t, c, m.Revision())
		if err := watches(first); !errors.Is(err, cache.ErrExpired) {
			t.Errorf("12 MB of events: %v", err)
		}
	})
}

// A store that forgets what happened, and does not answer just then, ends no cache: whoever runs on it waits.
func TestTheStateIsReadAgainUntilItCanBe(t *testing.T) {
	m := newMemory()
	k := kindOf(t, "pods")
	c := run(t, m)
	m.mu.Lock()
	m.refuse = 3
	m.mu.Unlock()
	m.lose(podWrite(t, k, "a", "p", "n1"))
	if err := c.Wait(t.Context(), m.Revision()); err != nil {
		t.Fatal(err)
	}
	if c.Snapshot().Get(k, "a", "p") == nil {
		t.Error("the pod is not there")
	}
}
