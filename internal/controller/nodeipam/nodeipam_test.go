package nodeipam

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

func node(name string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid of " + name)}}
	if n.Spec.PodCIDRs = cidrs; len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
	return n
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		ranges string
		nodes  []*corev1.Node
		want   string // NAME=BLOCKS, or NAME! for one that gets nothing
	}{
		"the first gets the lowest":               {"10.42.0.0/16", []*corev1.Node{node("a")}, "a=10.42.0.0/24"},
		"of both families":                        {"10.42.0.0/16 fd00:42::/48", []*corev1.Node{node("b"), node("a")}, "a=10.42.0.0/24,fd00:42::/64 b=10.42.1.0/24,fd00:42:0:1::/64"},
		"a gap is filled":                         {"10.42.0.0/16", []*corev1.Node{node("c"), node("x", "10.42.0.0/24"), node("y", "10.42.2.0/24"), node("d")}, "c=10.42.1.0/24 d=10.42.3.0/24"},
		"what a node brings is kept":              {"10.42.0.0/16", []*corev1.Node{node("x", "192.0.2.0/24"), node("a")}, "a=10.42.0.0/24"},
		"what a node brings may be larger":        {"10.42.0.0/16", []*corev1.Node{node("x", "10.42.0.0/22"), node("a")}, "a=10.42.4.0/24"},
		"or smaller":                              {"10.42.0.0/16", []*corev1.Node{node("x", "10.42.0.128/25"), node("a")}, "a=10.42.1.0/24"},
		"or the whole":                            {"10.42.0.0/16", []*corev1.Node{node("x", "10.0.0.0/8"), node("a")}, "a!"},
		"used up":                                 {"10.42.0.0/23", []*corev1.Node{node("a"), node("b"), node("c")}, "a=10.42.0.0/24 b=10.42.1.0/24 c!"},
		"used up in one family: neither is given": {"10.42.0.0/16 fd00::/63", []*corev1.Node{node("x", "fd00::/63"), node("a")}, "a!"},
		"a range of one block":                    {"10.42.7.0/24", []*corev1.Node{node("a"), node("b")}, "a=10.42.7.0/24 b!"},
		"a range smaller than a block":            {"10.42.7.0/25", []*corev1.Node{node("a")}, "a!"},
		"no range: nobody gets anything":          {"", []*corev1.Node{node("a")}, ""},
		"one that is not a range is the node's":   {"10.42.0.0/16", []*corev1.Node{node("a", "nonsense")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := Decide(c.nodes, Config{Ranges: prefixes(strings.Fields(c.ranges)...), Size4: 24, Size6: 64})
			var got []string
			for _, g := range p.Give {
				var blocks []string
				for _, b := range g.Blocks {
					blocks = append(blocks, b.String())
				}
				got = append(got, g.Node.Name+"="+strings.Join(blocks, ","))
			}
			for _, n := range p.Without {
				got = append(got, n.Name+"!")
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func TestNoTwoNodesOverlapWhateverComesAndGoes(t *testing.T) {
	c := Config{Ranges: prefixes("10.42.0.0/18", "fd00:42::/56"), Size4: 24, Size6: 64}
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 1))
		var nodes []*corev1.Node
		for step := range 100 {
			switch r.IntN(4) {
			case 0:
				if len(nodes) > 0 {
					i := r.IntN(len(nodes))
					nodes = slices.Delete(nodes, i, i+1)
				}
			case 1:
				own := fmt.Sprintf("10.42.%d.0/%d", r.IntN(64), 22+r.IntN(5))
				p := netip.MustParsePrefix(own).Masked()
				if !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return Of(n)[0].Overlaps(p) }) {
					nodes = append(nodes, node(fmt.Sprint("own", step), p.String()))
				}
			default:
				nodes = append(nodes, node(fmt.Sprint("n", step)))
			}
			p := Decide(nodes, c)
			for _, g := range p.Give {
				for _, b := range g.Blocks {
					g.Node.Spec.PodCIDRs = append(g.Node.Spec.PodCIDRs, b.String())
				}
			}
			nodes = slices.DeleteFunc(nodes, func(n *corev1.Node) bool { return len(n.Spec.PodCIDRs) == 0 })
			for i, a := range nodes {
				for _, b := range nodes[:i] {
					for _, p := range Of(a) {
						for _, q := range Of(b) {
							if p.Overlaps(q) {
								t.Fatalf("seed %d, step %d: %s has %s and %s has %s", seed, step, a.Name, p, b.Name, q)
							}
						}
					}
				}
			}
			if again := Decide(nodes, c); len(again.Give)+len(again.Without) > 0 {
				t.Fatalf("seed %d, step %d: all have one, and it plans %+v", seed, step, again)
			}
		}
	}
}

// fleet is nodes, of which writes may find that somebody else was faster.
type fleet struct {
	c *Controller

	mu    sync.Mutex // guards the fields below
	nodes map[string]*corev1.Node
	other int // how many writes still come too late
	told  []string
}

func (f *fleet) Nodes() (all []*corev1.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		all = append(all, n)
	}
	return all
}

func (f *fleet) UpdateNode(_ context.Context, n *corev1.Node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.other > 0 {
		f.other--
		return apierrors.NewConflict(corev1.Resource("nodes"), n.Name, nil)
	}
	f.nodes[n.Name] = n
	return nil
}

func (f *fleet) Record(obj runtime.Object, _, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, reason+": "+message)
}

func TestWhatANodeHadIsFreeWhenItGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{nodes: map[string]*corev1.Node{"a": node("a"), "b": node("b"), "c": node("c")}, other: 2}
		f.c = New(Config{Ranges: prefixes("10.42.0.0/23")}, f, f, f, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.c.Run(ctx) }()
		for range 3 {
			f.c.NodeChanged()
			time.Sleep(time.Second)
		}
		if a, b, c := f.nodes["a"].Spec, f.nodes["b"].Spec, f.nodes["c"].Spec; a.PodCIDR != "10.42.0.0/24" || b.PodCIDR != "10.42.1.0/24" || c.PodCIDR != "" || len(a.PodCIDRs) != 1 {
			t.Errorf("they have %+v, %+v and %+v", a, b, c)
		}
		if want := []string{"CIDRNotAvailable: Node c status is now: CIDRNotAvailable"}; !slices.Equal(f.told, want) {
			t.Errorf("told %q, want %q: once, however often it is looked at", f.told, want)
		}
		f.mu.Lock()
		delete(f.nodes, "a")
		f.mu.Unlock()
		f.c.NodeChanged()
		synctest.Wait()
		if got := f.nodes["c"].Spec.PodCIDR; got != "10.42.0.0/24" {
			t.Errorf("the range of the node that has gone is not given again: c has %q", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
