package endpoint

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// The index agrees with a look at all pods and Services, whatever has come, gone and changed, in whatever order.
func TestIndex(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		services, pods := map[string]map[string]string{}, map[string]labels.Set{}
		some := func(most int) map[string]string {
			m := map[string]string{}
			for range r.IntN(most + 1) {
				m[string(rune('a'+r.IntN(3)))] = string(rune('x' + r.IntN(2)))
			}
			return m
		}
		x := Index{List: func(string) iter.Seq2[string, labels.Labels] {
			return func(yield func(string, labels.Labels) bool) {
				for name, set := range pods {
					if !yield(name, set) {
						return
					}
				}
			}
		}}
		for range 60 {
			if name := fmt.Sprint("s", r.IntN(5)); r.IntN(2) == 0 {
				selector := some(2)
				if len(selector) == 0 {
					delete(services, name)
				} else {
					services[name] = selector
				}
				x.Set("ns", name, selector)
			} else {
				name = fmt.Sprint("p", r.IntN(6))
				var was, is labels.Labels
				before, there := pods[name]
				if there {
					was = before
				}
				if delete(pods, name); r.IntN(4) > 0 {
					pods[name] = some(4)
					is = pods[name]
				}
				x.Pod("ns", name, was, is)
				check(t, seed, &x, services, was, is)
			}
			for name, selector := range services {
				got, known := x.Pods("ns", name, selector)
				got = slices.DeleteFunc(got, func(p string) bool { return pods[p] != nil && !matches(selector, pods[p]) })
				if want := selected(pods, selector); !known || !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s %v selects %v, not %v of %v", seed, name, selector, got, want, pods)
				}
			}
		}
		for name := range services {
			x.Set("ns", name, nil)
		}
		if len(x.namespaces) != 0 {
			t.Fatalf("seed %d: it remembers %v", seed, x.namespaces)
		}
	}
}

func selected(pods map[string]labels.Set, selector map[string]string) (names []string) {
	for name, set := range pods {
		if matches(selector, set) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func check(t *testing.T, seed uint64, x *Index, services map[string]map[string]string, was, is labels.Labels) {
	t.Helper()
	for _, changed := range []bool{false, true} {
		var want []string
		for name, selector := range services {
			before, after := was != nil && matches(selector, was), is != nil && matches(selector, is)
			if before != after || before && changed {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		got := x.Concerned("ns", was, is, func() bool { return changed })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: from %v to %v concerns %v, not %v", seed, was, is, got, want)
		}
	}
	if got := x.Concerned("elsewhere", was, is, func() bool { return true }); len(got) != 0 {
		t.Fatalf("seed %d: it concerns %v elsewhere", seed, got)
	}
}

func TestAnIndexThatHasNotSeenTheSelectorKnowsNothing(t *testing.T) {
	var x Index
	x.Set("ns", "s", map[string]string{"app": "a"})
	for _, selector := range []map[string]string{{"app": "b"}, {"app": "a", "tier": "b"}, nil} {
		if _, known := x.Pods("ns", "s", selector); known {
			t.Errorf("it knows the pods of %v", selector)
		}
	}
}

// Whoever reads while the watch tells of a change of a slice finds it.
func TestASliceThatStaysIsThereAtEveryMoment(t *testing.T) {
	var x Slices
	x.Note("ns", "s", "s-a")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10000 {
			x.Move("ns", "s-a", "s", "s")
		}
	}()
	for {
		if got := x.Of("ns", "s"); len(got) != 1 {
			t.Fatal("it was gone for a moment")
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestSlices(t *testing.T) {
	var x Slices
	x.Note("ns", "s", "s-b")
	x.Note("ns", "s", "s-a")
	x.Note("ns", "s", "s-a")
	x.Note("other", "s", "s-c")
	if got := x.Of("ns", "s"); !slices.Equal(got, []string{"s-a", "s-b"}) {
		t.Error(got)
	}
	x.Move("ns", "s-a", "s", "s")
	x.Move("ns", "s-b", "s", "t")
	if s, t2 := x.Of("ns", "s"), x.Of("ns", "t"); !slices.Equal(s, []string{"s-a"}) || !slices.Equal(t2, []string{"s-b"}) {
		t.Error(s, t2)
	}
	x.Move("ns", "s-a", "s", "")
	x.Move("ns", "s-b", "t", "")
	x.Move("ns", "s-b", "t", "")
	x.Move("other", "s-c", "s", "")
	if len(x.services) != 0 {
		t.Error(x.services)
	}
	s := &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", UID: "u"}}}}
	if !Owned(s, "Service", "u") || Owned(s, "Endpoints", "u") || Owned(s, "Service", types.UID("v")) {
		t.Error("it does not know its owner")
	}
}

func TestAnEmptyNamespaceCostsNothing(t *testing.T) {
	var x Index
	x.Pod("ns", "p", nil, labels.Set{"app": "a"})
	x.Set("ns", "s", nil)
	if len(x.namespaces) != 0 {
		t.Error(x.namespaces)
	}
}
