package cache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
)

type world struct {
	t     testing.TB
	store *local.Store
	table *resource.Table
	cache *cache.Cache
	pods  *resource.Kind
}

func newWorld(t testing.TB) *world {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	table := kinds.Table()
	pods, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	w := &world{t: t, store: s, table: table, cache: cache.New(table, s, slog.New(slog.DiscardHandler)), pods: pods}
	t.Cleanup(func() { s.Close() })
	return w
}

func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.cache.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	<-w.cache.Ready()
}

func (w *world) put(ns, name, node string, set map[string]string) int64 {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: set}, Spec: corev1.PodSpec{NodeName: node}}
	if set["app"] == "a" {
		p.OwnerReferences = []metav1.OwnerReference{{UID: "other"}, {UID: types.UID("of-" + node), Controller: new(true)}}
	}
	value, err := w.table.Encode(p)
	if err != nil {
		w.t.Fatal(err)
	}
	rec, err := w.store.Apply(context.Background(), store.Write{Key: w.pods.Key(ns, name), Value: value, Expect: store.Any})
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Revision
}

func (w *world) remove(ns, name string) int64 {
	rec, err := w.store.Apply(context.Background(), store.Write{Key: w.pods.Key(ns, name), Expect: store.Any})
	if errors.Is(err, store.ErrNotFound) {
		return w.store.Revision()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Revision
}

func (w *world) wait(revision int64) *cache.Snapshot {
	w.t.Helper()
	if err := w.cache.Wait(context.Background(), revision); err != nil {
		w.t.Fatal(err)
	}
	return w.cache.Snapshot()
}

// state is what a list shows: names with the revision of each.
func (w *world) state(s *cache.Snapshot, sel cache.Selection) map[string]int64 {
	m := map[string]int64{}
	last := ""
	for o := range s.List(w.pods, sel) {
		if key := w.pods.Key(o.Namespace(), o.Name()); sel.Fields == nil && key <= last {
			w.t.Fatalf("%s comes after %s", key, last)
		} else {
			last = key
		}
		m[o.Key()] = o.Revision()
	}
	return m
}

func selections() map[string]cache.Selection {
	app := labels.SelectorFromSet(labels.Set{"app": "a"})
	return map[string]cache.Selection{
		"all":            {},
		"a namespace":    {Namespace: "n1"},
		"a label":        {Labels: app},
		"a node":         {Fields: fields.OneTermEqualSelector("spec.nodeName", "node1")},
		"a node in a ns": {Namespace: "n1", Fields: fields.OneTermEqualSelector("spec.nodeName", "node1")},
		"a controller":   {Fields: fields.OneTermEqualSelector(cache.ControllerField, "of-node1")},
		"none in a ns":   {Namespace: "n1-x", Fields: fields.OneTermEqualSelector(cache.ControllerField, "")},
		"a name":         {Namespace: "n1", Fields: fields.OneTermEqualSelector("metadata.name", "p3")},
		"not on a node":  {Fields: fields.OneTermNotEqualSelector("spec.nodeName", "node1"), Labels: app},
	}
}

func (w *world) random(r *rand.Rand) int64 {
	ns, name := []string{"n1", "n1-x", "n2"}[r.IntN(3)], fmt.Sprintf("p%d", r.IntN(8))
	if r.IntN(4) == 0 {
		return w.remove(ns, name)
	}
	return w.put(ns, name, []string{"", "node1", "node2"}[r.IntN(3)], map[string]string{"app": []string{"a", "b"}[r.IntN(2)]})
}

// Watching from any list gives, event by event, the next list: for every selection, and at every revision on the way.
func TestAListAndItsWatchGiveTheNextList(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t)
		r := rand.New(rand.NewPCG(seed, 1))
		for range 30 {
			w.random(r)
		}
		w.run()
		type follower struct {
			state map[string]int64
			watch *cache.Watcher
		}
		followers := map[string]follower{}
		start := w.cache.Snapshot()
		var last int64
		past := map[int64]map[string]int64{start.Revision(): w.state(start, cache.Selection{})}
		for range 60 {
			last = w.random(r)
			s := w.wait(last)
			past[s.Revision()] = w.state(s, cache.Selection{})
			if r.IntN(6) == 0 { // a watch may begin at any time from any revision that is kept
				for name, sel := range selections() {
					if f, ok := followers[name]; ok {
						f.watch.Stop()
					}
					watcher, err := w.cache.Watch(w.pods, sel, start.Revision())
					if err != nil {
						t.Fatal(err)
					}
					followers[name] = follower{w.state(start, sel), watcher}
				}
			}
		}
		w.put("n1", "p3", "node1", map[string]string{"app": "a", "end": "yes"})
		last = w.put("n1", "p3", "node1", map[string]string{"app": "a", "end": "very"})
		end := w.wait(last)
		for name, f := range followers {
			for {
				if rev, ok := f.watch.Progress(); ok && rev >= last {
					break
				}
				var ev cache.Event
				select {
				case ev = <-f.watch.Events():
				default: // on its way into the channel
					runtime.Gosched()
					continue
				}
				key := ev.Object.Key()
				_, was := f.state[key]
				switch ev.Type {
				case watch.Added:
					if was {
						t.Fatalf("%s: %s is added twice", name, key)
					}
					f.state[key] = ev.Object.Revision()
				case watch.Modified:
					if !was || f.state[key] >= ev.Object.Revision() {
						t.Fatalf("%s: %s goes from %d to %d", name, key, f.state[key], ev.Object.Revision())
					}
					f.state[key] = ev.Object.Revision()
				case watch.Deleted:
					if !was || cache.Typed[*corev1.Pod](ev.Object).ResourceVersion != fmt.Sprint(ev.Revision) {
						t.Fatalf("%s: %s is deleted, was there: %v, version %s at %d", name, key, was, cache.Typed[*corev1.Pod](ev.Object).ResourceVersion, ev.Revision)
					}
					delete(f.state, key)
				}
			}
			if want := w.state(end, selections()[name]); !maps.Equal(f.state, want) {
				t.Errorf("seed %d, %s: the watch led to %v, the list says %v", seed, name, f.state, want)
			}
			f.watch.Stop()
		}
		for revision, want := range past {
			s, err := w.cache.At(revision)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.state(s, cache.Selection{}); !maps.Equal(got, want) {
				t.Errorf("seed %d: at %d there was %v, At says %v", seed, revision, want, got)
			}
		}
	}
}

func TestPagesGiveTheWholeList(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(7, 7))
	for range 60 {
		w.random(r)
	}
	w.run()
	s := w.cache.Snapshot()
	for name, sel := range selections() {
		want := w.state(s, sel)
		got := map[string]int64{}
		for page := sel; ; {
			n := 0
			for o := range s.List(w.pods, page) {
				got[o.Key()] = o.Revision()
				page.After = o.Key()
				if n++; n == 2 {
					break
				}
			}
			if n < 2 {
				break
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: pages give %v, the list %v", name, got, want)
		}
	}
}

func TestASlowWatcherIsClosedAndDelaysNobody(t *testing.T) {
	w := newWorld(t)
	w.run()
	slow, err := w.cache.Watch(w.pods, cache.Selection{}, w.cache.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for i := range 200 {
		last = w.put("n", "p", "", map[string]string{"i": fmt.Sprint(i)})
	}
	w.wait(last) // though nobody takes the watcher's events
	n := 0
	for range slow.Events() {
		if n++; n == 200 {
			slow.Stop()
		}
	}
	if n != 200 || slow.Err() != nil {
		t.Errorf("got %d of 200 events, %v", n, slow.Err())
	}
}

func TestOldRevisionsExpireAndFutureOnesAreNotThere(t *testing.T) {
	w := newWorld(t)
	first := w.put("n", "p", "", nil)
	last := w.put("n", "p", "node1", nil)
	if err := w.store.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	w.run()
	if _, err := w.cache.Watch(w.pods, cache.Selection{}, first); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("a watch from before what the store keeps: %v", err)
	}
	if _, err := w.cache.At(first); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("the state before the start: %v", err)
	}
	if _, err := w.cache.At(last + 5); !errors.Is(err, cache.ErrFuture) {
		t.Errorf("the state to come: %v", err)
	}
}

func TestHandlersSeeEverythingInOrder(t *testing.T) {
	w := newWorld(t)
	w.put("n", "before", "", nil)
	seen := map[string]int64{}
	reached := make(chan int64, 200)
	w.cache.OnChange(w.pods, func(old, new *cache.Object) {
		switch {
		case new == nil:
			delete(seen, old.Key())
			return
		case old != nil && seen[old.Key()] != old.Revision():
			t.Errorf("%s comes from %d, seen was %d", old.Key(), old.Revision(), seen[old.Key()])
		}
		seen[new.Key()] = new.Revision()
		reached <- new.Revision()
	})
	w.run()
	r := rand.New(rand.NewPCG(3, 3))
	for range 100 {
		w.random(r)
	}
	// Handlers run after the snapshot is published, so that one who waits for a revision may be there before them.
	last := w.put("n", "after", "", nil)
	for at := int64(0); at < last; {
		at = <-reached
	}
	if want := w.state(w.wait(last), cache.Selection{}); !maps.Equal(seen, want) {
		t.Errorf("handlers saw %v, the list says %v", seen, want)
	}
}

func BenchmarkTakeWith200Watchers(b *testing.B) {
	w := newWorld(b)
	w.run()
	for range 200 {
		watcher, err := w.cache.Watch(w.pods, cache.Selection{}, w.cache.Snapshot().Revision())
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			for ev := range watcher.Events() {
				_ = ev.Object.Protobuf()
			}
		}()
	}
	var last int64
	for i := 0; b.Loop(); i++ {
		last = w.put("n", fmt.Sprintf("p%d", i%100), "node1", map[string]string{"app": "a"})
	}
	w.wait(last)
}

func BenchmarkListOf10000(b *testing.B) {
	w := newWorld(b)
	done := make(chan struct{})
	for g := range 100 {
		go func() {
			for i := range 100 {
				w.put("n", fmt.Sprintf("pod-%d-%d", g, i), "node1", map[string]string{"app": "a"})
			}
			done <- struct{}{}
		}()
	}
	for range 100 {
		<-done
	}
	w.run()
	var buf []byte
	for b.Loop() {
		buf = buf[:0]
		for o := range w.cache.Snapshot().List(w.pods, cache.Selection{}) {
			buf = append(buf, o.ProtobufBody()...)
		}
	}
}
