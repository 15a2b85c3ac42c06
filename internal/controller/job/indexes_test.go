package job

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestIndexesAreASetOfNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 24
	draw := func() (indexes, map[int]bool) {
		is := map[int]bool{}
		var list []int
		for range r.IntN(n) {
			i := r.IntN(n)
			is[i] = true
			list = append(list, i)
		}
		return indexesOf(list), is
	}
	for range 5000 {
		a, inA := draw()
		b, inB := draw()
		both := maps.Clone(inA)
		maps.Copy(both, inB)
		common := 0
		for i := range inA {
			if inB[i] {
				common++
			}
		}
		before := a.String()
		union := a.union(b)
		if a.String() != before {
			t.Fatalf("%s was changed into %s", before, a)
		}
		if union.total() != len(both) || a.common(b) != common || parseIndexes(union.String(), n).String() != union.String() {
			t.Fatalf("%s and %s: %s", a, b, union)
		}
		limit := 1 + r.IntN(n)
		missing := union.missing(limit, n)
		for i := range n {
			if union.has(i) != both[i] {
				t.Fatalf("%d in %s: %t", i, union, both[i])
			}
			if slices.Contains(missing, i) && both[i] {
				t.Fatalf("%d is missing in %s", i, union)
			}
		}
		if len(missing) != min(limit, n-len(both)) || !slices.IsSorted(missing) {
			t.Fatalf("missing in %s: %v", union, missing)
		}
	}
}

func TestIndexesAsText(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "3": "3", "0,1": "0,1", "0-1,2": "0-2", "1,3-5,7": "1,3-5,7", "1,3-50": "1,3-9", "8,9,10,11": "8,9", "12": "", "x,2,3-y,-4": "2", "5-3": "",
	} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
