package endpointslice

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"sampan.dev/internal/endpoint"
)

// content is what slices say: each endpoint with its family and ports.
func content(all []*discovery.EndpointSlice) (lines []string) {
	for _, s := range all {
		for i := range s.Endpoints {
			one := *s
			one.Name, one.Endpoints = "", s.Endpoints[i:i+1]
			lines = append(lines, words(&one))
		}
	}
	slices.Sort(lines)
	return lines
}

// From whatever slices there are: one plan makes them say what a fresh start would, each endpoint once, and none is planned after it.
func TestFromAnySlicesAPlanReachesWhatIsWanted(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 4))
		random := func() (*corev1.Service, []*corev1.Pod) {
			service := newService([]change{func(*corev1.Service) {}, dualStack, headless, onlySix}[r.IntN(4)], []change{func(*corev1.Service) {}, named, publish, labelled("team", "c")}[r.IntN(4)],
				[]change{func(*corev1.Service) {}, prefer("PreferClose"), prefer("PreferSameNode")}[r.IntN(3)])
			var all []*corev1.Pod
			for n := range []int{3, 90, 260}[r.IntN(3)] {
				if r.IntN(3) > 0 {
					plain := func(*corev1.Pod) {}
					all = append(all, newPod(n, []func(*corev1.Pod){plain, plain, unready, going, ended, hosted}[r.IntN(6)], []func(*corev1.Pod){plain, plain, portNumber(4000), on("n2"), on("n0"), onlyFour}[r.IntN(6)]))
				}
			}
			return service, all
		}
		var existing []*discovery.EndpointSlice
		for range r.IntN(3) { // somebody's slices of other times, side by side
			service, all := random()
			for _, s := range made(t, service, all) {
				s.Name = fmt.Sprintf("web-%d", len(existing)+1)
				if r.IntN(8) == 0 {
					s.OwnerReferences[0].UID = "old"
				}
				if r.IntN(8) == 0 && len(s.Endpoints) > 0 {
					s.Endpoints = append(s.Endpoints, s.Endpoints[0])
				}
				existing = append(existing, s)
			}
		}
		service, all := random()
		after := settle(t, service, all, existing)
		fresh := made(t, service, all)
		if got, want := content(after), content(fresh); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v\nwant %v", seed, got, want)
		}
		seen := map[string]bool{}
		for _, s := range after {
			if len(s.Endpoints) > Capacity+1 {
				t.Errorf("seed %d: %d endpoints in one slice", seed, len(s.Endpoints))
			}
			for i := range s.Endpoints {
				key := fmt.Sprint(s.AddressType, endpoint.PortsKey(s.Ports), endpoint.KeyOf(&s.Endpoints[i]))
				if seen[key] {
					t.Errorf("seed %d: %s twice", seed, key)
				}
				seen[key] = true
			}
		}
	}
}

// One pod's change of readiness, coming or going writes one slice, and moves no other endpoint.
func TestOnePodsChangeWritesOneSlice(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		service, all := newService(), pods(0, 1+r.IntN(350))
		existing := made(t, service, all)
		for range 10 {
			i := r.IntN(len(all))
			next := slices.Clone(all)
			switch r.IntN(4) {
			case 0:
				next[i] = newPod(1000+r.IntN(1000), unready)
			case 1:
				next = append(next, newPod(2000+r.IntN(1000)))
			case 2:
				if len(next) > 1 {
					next = slices.Delete(next, i, i+1)
				}
			case 3:
				next[i] = next[i].DeepCopy()
				unready(next[i])
			}
			p := Decide(service, next, zones, existing)
			if n := len(p.Create) + len(p.Update) + len(p.Delete); n > 1 {
				t.Fatalf("seed %d: %s", seed, p)
			}
			at := place(existing)
			existing = settle(t, service, next, existing)
			for pod, slice := range place(existing) {
				if was := at[pod]; was != "" && was != slice {
					t.Fatalf("seed %d: %s moved from %s to %s", seed, pod, was, slice)
				}
			}
			all = next
		}
	}
}

func place(all []*discovery.EndpointSlice) map[string]string {
	m := map[string]string{}
	for _, s := range all {
		for i := range s.Endpoints {
			m[s.Endpoints[i].TargetRef.Name] = s.Name
		}
	}
	return m
}

func BenchmarkOneChangeOf100(b *testing.B) {
	service, all := newService(), pods(0, 100)
	existing := made(b, service, all)
	all[50] = newPod(50, unready)
	b.ReportAllocs()
	for b.Loop() {
		if p := Decide(service, all, zones, existing); len(p.Update) != 1 {
			b.Fatal(p)
		}
	}
}

func BenchmarkNothingToDoFor1(b *testing.B) {
	service, all := newService(), pods(0, 1)
	existing := made(b, service, all)
	b.ReportAllocs()
	for b.Loop() {
		if p := Decide(service, all, zones, existing); len(p.Update) != 0 {
			b.Fatal(p)
		}
	}
}
