package netpol

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sampan.dev/internal/nft"
)

// canonical is a table in an order that does not depend on how it came to be.
func canonical(t nft.Table) nft.Table {
	t.Sets, t.Chains = slices.Clone(t.Sets), slices.Clone(t.Chains)
	slices.SortFunc(t.Sets, func(a, b nft.Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(t.Chains, func(a, b nft.Chain) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// TestPacketsGoWherePoliciesSay changes worlds step by step. After each step packets go where the documentation says, and the table is the one that would be made of
// all objects at once.
func TestPacketsGoWherePoliciesSay(t *testing.T) {
	dropped := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld()
		fake := &nft.Fake{Local: []netip.Addr{dns}}
		kernel := nft.Kernel(fake)
		if seed%15 == 0 && inKernel(t) {
			kernel = both{fake, nft.New()} // the steps are possible there, too
		}
		p := New(Config{Node: here, Network: Network{Table: table, Bridge: bridge}, View: w, Kernel: kernel, DNS: []netip.Addr{dns}})
		for range 10 {
			w.change(r)
		}
		apply := func(all bool) {
			changes, _ := p.take()
			for c := range changes {
				p.look(c)
			}
			if err := p.send(t.Context(), all); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		apply(true)
		for range 25 {
			for range 1 + r.IntN(3) {
				w.change(r)
			}
			apply(false)
			dropped += w.check(t, r, fake, 100)
			anew := New(Config{Node: here, Network: Network{Table: table, Bridge: bridge}, View: w, Kernel: fake, DNS: []netip.Addr{dns}})
			w.All(anew.mark)
			changes, _ := anew.take()
			for c := range changes {
				anew.look(c)
			}
			w.mark = p.mark
			if d := nft.Compare(canonical(fake.Table(table)), canonical(anew.program.table())); !d.Empty() {
				t.Fatalf("seed %d: a table made by steps differs from one made at once: %+v%s", seed, d, w.text())
			}
		}
	}
	if dropped < 10_000 {
		t.Errorf("only %d packets were to be dropped: the worlds are too kind", dropped)
	}
}
