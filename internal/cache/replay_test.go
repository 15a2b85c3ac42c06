package cache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Namespaces one of which begins another, so that the order of keys is not that of names.
var namespaces = []string{"a", "a-b", "a0", "b"}

func somePod(r *rand.Rand) *corev1.Pod {
	p := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	p.Labels = map[string]string{"app": []string{"web", "db", "job"}[r.IntN(3)]}
	if r.IntN(2) == 0 {
		p.Labels["tier"] = strconv.Itoa(r.IntN(2))
	}
	p.Spec.NodeName = []string{"", "n1", "n2"}[r.IntN(3)]
	p.Annotations = map[string]string{"salt": strconv.Itoa(r.Int())}
	return p
}

func manySelections(t testing.TB) []cache.Selection {
	t.Helper()
	web, err := labels.Parse("app in (web,db),tier!=1")
	if err != nil {
		t.Fatal(err)
	}
	return []cache.Selection{
		{},
		{Namespace: "a"},
		{Namespace: "a-b", Labels: web},
		{Labels: labels.SelectorFromSet(labels.Set{"app": "job"})},
		{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")},
		{Fields: fields.OneTermEqualSelector("spec.nodeName", "")},
		{Namespace: "a", Fields: fields.OneTermEqualSelector("spec.nodeName", "n2"), Labels: web},
		{Fields: fields.OneTermNotEqualSelector("spec.nodeName", "n1")},
		{Namespace: "b", Fields: fields.OneTermEqualSelector("metadata.name", "p3")},
		{Fields: fields.OneTermEqualSelector("metadata.name", "p3")},
		{Fields: fields.OneTermEqualSelector("metadata.namespace", "a")},
		{Fields: fields.AndSelectors(fields.OneTermEqualSelector("status.phase", "Running"), fields.OneTermNotEqualSelector("metadata.name", "p1"))},
	}
}

// state is what somebody who lists and watches believes to be there: "namespace/name" to revision.
type state map[string]int64

func listed(s *cache.Snapshot, k *resource.Kind, sel cache.Selection) state {
	out := state{}
	for o := range s.List(k, sel) {
		out[o.Namespace()+"/"+o.Name()] = o.Revision()
	}
	return out
}

// replay applies an event, and says what is wrong with it.
func (s state) replay(ev cache.Event) error {
	key := ev.Object.Namespace() + "/" + ev.Object.Name()
	_, there := s[key]
	if rv := ev.Object.Decoded().GetResourceVersion(); rv != strconv.FormatInt(ev.Revision, 10) || ev.Object.Revision() != ev.Revision {
		return fmt.Errorf("%s %s at %d: the object says %s", ev.Type, key, ev.Revision, rv)
	}
	switch {
	case ev.Type == watch.Added && !there, ev.Type == watch.Modified && there:
		s[key] = ev.Revision
	case ev.Type == watch.Deleted && there:
		delete(s, key)
	default:
		return fmt.Errorf("%s of %s at %d, which is there: %v", ev.Type, key, ev.Revision, there)
	}
	return nil
}

func (s state) differs(o state) string {
	for key, rev := range s {
		if o[key] != rev {
			return fmt.Sprintf("%s is at %d and %d", key, rev, o[key])
		}
	}
	for key := range o {
		if _, ok := s[key]; !ok {
			return key + " is there once only"
		}
	}
	return ""
}

// scribble makes random writes of pods.
func scribble(t testing.TB, m store.Store, k *resource.Kind, r *rand.Rand, n int) int64 {
	last := int64(0)
	for range n {
		ns, name := namespaces[r.IntN(len(namespaces))], "p"+strconv.Itoa(r.IntN(6))
		if _, err := m.Get(t.Context(), k.Key(ns, name)); err == nil && r.IntN(3) == 0 {
			if rec, err := m.Apply(t.Context(), store.Write{Key: k.Key(ns, name), Expect: store.Any}); err == nil {
				last = rec.Revision
			}
			continue
		}
		last = put(t, m, k, ns, name, somePod(r))
	}
	return last
}

// follower lists, watches, and comes back from time to time as a client does.
type follower struct {
	c    *cache.Cache
	k    *resource.Kind
	sel  cache.Selection
	at   int64
	seen state
}

func (f *follower) run(until func() int64, r *rand.Rand) error {
	snap := f.c.Snapshot()
	f.seen, f.at = listed(snap, f.k, f.sel), snap.Revision()
	for {
		w, err := f.c.Watch(f.k, f.sel, f.at)
		if err != nil {
			return fmt.Errorf("watch after %d: %w", f.at, err)
		}
		err = f.follow(w, until, r.IntN(100)+1)
		w.Stop()
		w.Stop()
		if err != nil {
			return err
		}
		if last := until(); last > 0 && f.at > last {
			return nil
		}
	}
}

// follow takes some events, then goes away.
func (f *follower) follow(w *cache.Watcher, until func() int64, most int) error {
	for range most {
		ev, ok := <-w.Events()
		if !ok {
			return fmt.Errorf("closed: %w", w.Err())
		}
		if ev.Revision <= f.at {
			return fmt.Errorf("event at %d after one at %d", ev.Revision, f.at)
		}
		f.at = ev.Revision
		if err := f.seen.replay(ev); err != nil {
			return err
		}
		if last := until(); last > 0 && f.at > last {
			return nil
		}
	}
	return nil
}

func TestEventsOverAListGiveTheListAtTheEnd(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	r := rand.New(rand.NewPCG(1, 2))
	scribble(t, m, k, r, 50)
	c := run(t, m)

	var mu sync.Mutex
	last := int64(0)
	until := func() int64 { mu.Lock(); defer mu.Unlock(); return last }
	sels := manySelections(t)
	followers := make([]*follower, 3*len(sels))
	errs := make([]error, len(followers))
	var wg sync.WaitGroup
	for i := range followers {
		followers[i] = &follower{c: c, k: k, sel: sels[i%len(sels)]}
		mine := rand.New(rand.NewPCG(uint64(i), 3))
		wg.Go(func() { errs[i] = followers[i].run(until, mine) })
	}
	var writers sync.WaitGroup
	for i := range 3 {
		mine := rand.New(rand.NewPCG(uint64(i), 4))
		writers.Go(func() { scribble(t, m, k, mine, 400) })
	}
	writers.Wait()
	mu.Lock()
	last = m.Revision()
	mu.Unlock()
	for i, sel := range sels { // each follower gets an event after last, and so knows that it has seen all before
		touch(t, m, k, sel, i)
	}
	wg.Wait()
	reach(t, c, m.Revision())
	for i, f := range followers {
		if errs[i] != nil {
			t.Errorf("%+v: %v", f.sel, errs[i])
			continue
		}
		then, err := c.At(f.at)
		if err != nil {
			t.Fatal(err)
		}
		if d := f.seen.differs(listed(then, k, f.sel)); d != "" {
			t.Errorf("%+v at %d: %s", f.sel, f.at, d)
		}
	}
}

// touch writes an object that the selection selects.
func touch(t testing.TB, m store.Store, k *resource.Kind, sel cache.Selection, i int) int64 {
	p := somePod(rand.New(rand.NewPCG(uint64(i), 5)))
	ns, name := sel.Namespace, "touched"
	if ns == "" {
		ns = "a"
	}
	if sel.Labels != nil {
		p.Labels = map[string]string{"app": "web"}
		if strings.Contains(sel.Labels.String(), "job") {
			p.Labels["app"] = "job"
		}
	}
	p.Spec.NodeName = "n2"
	if sel.Fields != nil {
		if v, ok := sel.Fields.RequiresExactMatch("spec.nodeName"); ok {
			p.Spec.NodeName = v
		}
		if v, ok := sel.Fields.RequiresExactMatch("metadata.name"); ok {
			name = v
		}
	}
	return put(t, m, k, ns, name, p)
}

// reference is a state written down beside the store, to compare with.
func reference(t testing.TB, m *memory, k *resource.Kind, sel cache.Selection, revision int64) []string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	there := map[string]store.Event{}
	for _, ev := range m.history {
		if ev.Revision > revision || !strings.HasPrefix(ev.Key, k.Prefix) {
			continue
		}
		if ev.Deleted {
			delete(there, ev.Key)
			continue
		}
		there[ev.Key] = ev
	}
	var out []string
	for key, ev := range there {
		obj, err := table().Decode(ev.Value)
		if err != nil {
			t.Fatal(err)
		}
		set := fields.Set(k.Fields(obj))
		if sel.Namespace != "" && sel.Namespace != obj.GetNamespace() ||
			sel.Labels != nil && !sel.Labels.Matches(labels.Set(obj.GetLabels())) ||
			sel.Fields != nil && !sel.Fields.Matches(set) {
			continue
		}
		out = append(out, key+"@"+strconv.FormatInt(ev.Revision, 10))
	}
	slices.Sort(out)
	return out
}

func keysOf(k *resource.Kind, s *cache.Snapshot, sel cache.Selection) []string {
	var out []string
	for o := range s.List(k, sel) {
		out = append(out, k.Key(o.Namespace(), o.Name())+"@"+strconv.FormatInt(o.Revision(), 10))
	}
	return out
}

func bare(keys []string) []string {
	out := slices.Clone(keys)
	for i, key := range out {
		out[i], _, _ = strings.Cut(key, "@")
	}
	return out
}

func TestListsShowEachRevisionInOrderOfKeys(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	c := run(t, m)
	r := rand.New(rand.NewPCG(7, 7))
	scribble(t, m, k, r, 200)
	put(t, m, kindOf(t, "configmaps"), "a", "between", &corev1.ConfigMap{})
	scribble(t, m, k, r, 100)
	reach(t, c, m.Revision())
	for revision := store.First; revision <= m.Revision(); revision += 7 {
		snap, err := c.At(revision)
		if err != nil {
			t.Fatalf("at %d: %v", revision, err)
		}
		if snap.Revision() != revision {
			t.Fatalf("asked for %d, got %d", revision, snap.Revision())
		}
		for _, sel := range manySelections(t) {
			got, want := keysOf(k, snap, sel), reference(t, m, k, sel, revision)
			if !slices.IsSorted(bare(got)) {
				t.Fatalf("at %d %+v: not in order of keys: %v", revision, sel, got)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("at %d %+v:\n got %v\nwant %v", revision, sel, got, want)
			}
		}
		if n := snap.Count(k); n != len(reference(t, m, k, cache.Selection{}, revision)) {
			t.Fatalf("at %d: count %d", revision, n)
		}
	}
	if _, err := c.At(m.Revision() + 1); err == nil {
		t.Error("the future was shown")
	}
	if _, err := c.At(0); !errors.Is(err, cache.ErrExpired) {
		t.Errorf("at 0: %v", err)
	}
}

func TestPagesOfAListAreTheListAtTheirRevision(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	c := run(t, m)
	r := rand.New(rand.NewPCG(8, 8))
	scribble(t, m, k, r, 100)
	for _, sel := range manySelections(t) {
		first := reach(t, c, m.Revision())
		want := keysOf(k, first, sel)
		for limit := 1; limit < 6; limit++ {
			var got []string
			page := sel
			for {
				snap, err := c.At(first.Revision())
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for o := range snap.List(k, page) {
					got = append(got, k.Key(o.Namespace(), o.Name())+"@"+strconv.FormatInt(o.Revision(), 10))
					page.After = o.Key()
					if n++; n == limit {
						break
					}
				}
				if n < limit {
					break
				}
				reach(t, c, scribble(t, m, k, r, 2))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%+v by %d:\n got %v\nwant %v", sel, limit, got, want)
			}
		}
	}
}

func TestTheBytesServedAreTheObjectWithItsVersion(t *testing.T) {
	m, k := newMemory(), kindOf(t, "pods")
	c := run(t, m)
	r := rand.New(rand.NewPCG(9, 9))
	for i, p := range []*corev1.Pod{
		{},
		somePod(r),
		{ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 3, Finalizers: []string{"a/b"}, CreationTimestamp: metav1.Unix(1e9, 0)}},
		{ObjectMeta: metav1.ObjectMeta{GenerateName: "g", OwnerReferences: []metav1.OwnerReference{{Name: "o"}}}, Spec: corev1.PodSpec{NodeName: "n", Hostname: strings.Repeat("h", 500)}},
	} {
		name := "p" + strconv.Itoa(i)
		rev := put(t, m, k, "ns", name, p)
		o := reach(t, c, rev).Get(k, "ns", name)
		p.ResourceVersion = strconv.FormatInt(rev, 10)
		want, err := table().Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != string(o.Protobuf()) {
			t.Errorf("%s: %d bytes served, %d when encoded\n%q\n%q", name, len(o.Protobuf()), len(want), o.Protobuf(), want)
		}
		body, err := p.Marshal()
		if err != nil || string(body) != string(o.ProtobufBody()) {
			t.Errorf("%s: body differs (%v)", name, err)
		}
		if o.Revision() != rev || cache.Typed[*corev1.Pod](o).ResourceVersion != p.ResourceVersion || !strings.Contains(string(o.JSON()), `"resourceVersion":"`+p.ResourceVersion+`"`) {
			t.Errorf("%s: version %d is not told", name, rev)
		}
		if !strings.Contains(string(o.JSON()), `"kind":"Pod"`) {
			t.Errorf("%s: JSON has no kind: %s", name, o.JSON())
		}
	}
}

func onNode(name string) cache.Selection {
	return cache.Selection{Fields: fields.OneTermEqualSelector("spec.nodeName", name)}
}
