package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// TestSteps: whatever Services come, change and go, in whatever order, the steps lead to the same table as making it anew, and none of them fails.
func TestSteps(t *testing.T) { steps(t, 200, func() nft.Kernel { return &nft.Fake{} }) }

// TestStepsInTheKernel: the kernel takes them all as well.
func TestStepsInTheKernel(t *testing.T) {
	newSpace(t).do(func() {
		conn := nft.New()
		steps(t, 10, func() nft.Kernel { return conn })
	})
}

func steps(t *testing.T, seeds uint64, kernelOf func() nft.Kernel) {
	for seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 1))
		p, kernel := newProgram(network), kernelOf()
		table, err := p.table()
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.Replace(t.Context(), table); err != nil {
			t.Error(err)
			return
		}
		now := map[loop.Key]Plan{}
		for step := range 30 {
			plans := map[loop.Key]Plan{}
			for range 1 + random.IntN(3) {
				key := loop.Key{Namespace: "default", Name: fmt.Sprint("s", random.IntN(5))}
				plans[key] = anyPlan(random, key.Name)
			}
			change, again, _ := p.set(plans)
			maps.Copy(now, plans)
			if err := kernel.Change(t.Context(), change); err != nil {
				t.Errorf("seed %d, step %d: %v", seed, step, err)
				return
			}
			for len(again) > 0 { // as the loop does
				plans := map[loop.Key]Plan{}
				for _, key := range again {
					plans[key] = now[key]
				}
				change, again, _ = p.set(plans)
				if err := kernel.Change(t.Context(), change); err != nil {
					t.Errorf("seed %d, step %d: %v", seed, step, err)
					return
				}
			}
			if fake, is := kernel.(*nft.Fake); is {
				compare(t, fmt.Sprintf("seed %d, step %d", seed, step), p, fake.Table(network.Table), now)
			}
			if t.Failed() {
				return
			}
		}
	}
}

// anyPlan is a Service of some sort with some of ten ends.
func anyPlan(random *rand.Rand, name string) Plan {
	change := []func(*corev1.Service){}
	if random.IntN(2) == 0 {
		change = append(change, nodePort(int32(30000+random.IntN(3)))) // others may have it
	}
	if random.IntN(4) == 0 {
		change = append(change, loadBalancer(balancer, "10.0.0.0/8", "10.1.0.0/16"))
	}
	if random.IntN(3) == 0 {
		change = append(change, externalLocal)
	}
	if random.IntN(3) == 0 {
		change = append(change, sticky(int32(60*(1+random.IntN(2)))))
	}
	var ends []discovery.Endpoint
	for i := range 10 {
		if a := netip.AddrFrom4([4]byte{10, 244, 0, byte(10 + i)}); random.IntN(3) == 0 {
			ends = append(ends, at(a))
		}
	}
	if random.IntN(6) == 0 {
		return Decide(nil, nil, here) // it is deleted
	}
	return Decide(service(name, "10.96.0."+name[1:], change...), []*discovery.EndpointSlice{slice(8080, ends...)}, here)
}

// compare holds a table against the one made anew, and against what the plans say.
func compare(t *testing.T, when string, p *program, table nft.Table, plans map[loop.Key]Plan) {
	t.Helper()
	anew, err := p.table()
	if err != nil {
		t.Fatal(err)
	}
	contents := func(table nft.Table) map[string]map[nft.Bytes]nft.Element {
		all := map[string]map[nft.Bytes]nft.Element{}
		for _, s := range table.Sets {
			if len(s.Elements) == 0 {
				continue // sets that were needed once stay
			}
			all[s.Name] = map[nft.Bytes]nft.Element{}
			for _, e := range s.Elements {
				all[s.Name][e.Key] = e
			}
		}
		return all
	}
	got, want := contents(table), contents(anew)
	for name := range maps.All(want) {
		if !maps.Equal(got[name], want[name]) {
			t.Errorf("%s: set %s holds %v, and made anew %v", when, name, got[name], want[name])
		}
	}
	taken := map[Front]bool{}
	for key, plan := range plans {
		for _, r := range plan.Routes {
			f := p.fronts[r.Front]
			if f == nil || f.owner != key {
				continue
			}
			taken[r.Front] = true
			var ends []netip.AddrPort
			for _, a := range f.slots {
				if a.IsValid() {
					ends = append(ends, a)
				}
			}
			slices.SortFunc(ends, netip.AddrPort.Compare)
			if !slices.Equal(ends, r.Ends) {
				t.Errorf("%s: %v leads to %v, want %v", when, r.Front, ends, r.Ends)
			}
		}
	}
	for key, plan := range plans {
		for _, r := range plan.Routes {
			if p.fronts[r.Front] == nil && (len(r.Ends) > 0 || !r.Outside) {
				t.Errorf("%s: nobody has %v, which %v asks for", when, r.Front, key)
			}
		}
	}
	for f := range p.fronts {
		if !taken[f] {
			t.Errorf("%s: %v is there, and no Service asks for it", when, f)
		}
	}
}

// TestOneChange: how much is sent for one endpoint has nothing to do with how many Services there are.
func TestOneChange(t *testing.T) {
	p := newProgram(network)
	plans := map[loop.Key]Plan{}
	for i := range 500 {
		s := service(fmt.Sprint("s", i), fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), nodePort(int32(30000+i)))
		plans[loop.Key{Name: s.Name}] = Decide(s, []*discovery.EndpointSlice{slice(8080, at(podA), at(podB))}, here)
	}
	p.set(plans)
	s := service("s7", "10.96.0.8", nodePort(30007))
	change, _, _ := p.set(map[loop.Key]Plan{{Name: "s7"}: Decide(s, []*discovery.EndpointSlice{slice(8080, at(podA), at(podC))}, here)})
	elements := 0
	for _, list := range [][]nft.Elements{change.Add, change.Delete} {
		for _, e := range list {
			elements += len(e.List)
		}
	}
	// One end less and one more, by the address and by the node port; and two addresses that reach themselves or do not.
	if elements > 6 || len(change.Sets)+len(change.Chains)+len(change.Rules) > 0 {
		t.Errorf("one endpoint replaced sends %d elements: %+v", elements, change)
	}
}

func TestPlace(t *testing.T) {
	end := func(i int) netip.AddrPort {
		if i == 0 {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)
	}
	list := func(numbers ...int) (all []netip.AddrPort) {
		for _, i := range numbers {
			all = append(all, end(i))
		}
		return all
	}
	for name, c := range map[string]struct {
		old, ends, want []netip.AddrPort
		sticky          bool
	}{
		"the first ones":                         {nil, list(1, 2), list(1, 2), false},
		"one more comes last":                    {list(2, 1), list(1, 2, 3), list(2, 1, 3), false},
		"the last one fills the hole":            {list(1, 2, 3), list(2, 3), list(3, 2), false},
		"a new one fills the hole":               {list(1, 2, 3), list(2, 3, 4), list(4, 2, 3), false},
		"all go":                                 {list(1, 2), nil, nil, false},
		"two go and one comes":                   {list(1, 2, 3, 4), list(2, 4, 5), list(5, 2, 4), false},
		"a sticky front keeps its hole":          {list(1, 2, 3), list(2, 3), list(0, 2, 3), true},
		"a new one fills a sticky front's hole":  {list(0, 2, 3), list(2, 3, 4), list(4, 2, 3), true},
		"a sticky front's last hole is no hole":  {list(1, 0, 3), list(1), list(1), true},
		"a hole of what was sticky is filled up": {list(1, 0, 3), list(1, 3), list(1, 3), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := place(c.old, c.ends, c.sticky); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestSticky: a client stays with its end while that is there, whatever happens to the others.
func TestSticky(t *testing.T) {
	p, kernel := newProgram(network), &nft.Fake{Local: []netip.Addr{nodeAddr, gateway}}
	table, err := p.table()
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.Replace(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	show := func(ends ...discovery.Endpoint) {
		t.Helper()
		change, _, _ := p.set(map[loop.Key]Plan{{Name: "s"}: Decide(service("s", "10.96.0.9", sticky(60)), []*discovery.EndpointSlice{slice(8080, ends...)}, here)})
		if err := kernel.Change(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	stays := func() string {
		t.Helper()
		first := ""
		for range 20 {
			end, _ := ask(kernel, try{from: "outside", to: "10.96.0.9:80"})
			if first != "" && end != first {
				t.Fatalf("a client of %s is sent to %s", first, end)
			}
			first = end
		}
		return first
	}
	show(at(podA))
	if got := stays(); got != "podA" {
		t.Fatalf("with one end it goes to %q", got)
	}
	show(at(podA), at(podB), at(podC))
	if got := stays(); got != "podA" {
		t.Errorf("with more ends the client of podA is sent to %s", got)
	}
	show(at(podB), at(podC))
	second := stays()
	if second == "podA" || second == "" {
		t.Errorf("its end has gone, and it is sent to %q", second)
	}
	show(at(podA), at(podB), at(podC))
	if got := stays(); got != second {
		t.Errorf("an end has come where the first was, and the client of %s is sent to %s", second, got)
	}
}
