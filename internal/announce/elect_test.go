package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestElect(t *testing.T) {
	lan := netip.MustParsePrefix("10.0.0.0/16")
	nodes := map[string][]netip.Addr{}
	for i := range 5 {
		nodes[fmt.Sprint("n", i)] = []netip.Addr{ip(fmt.Sprintf("10.0.0.%d", i+1))}
	}
	winners := map[netip.Addr]string{}
	count := map[string]int{}
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(1 + i/250), byte(i % 250)})
		winners[a] = Elect(a, lan, nodes)
		count[winners[a]]++
	}
	for name := range nodes {
		if count[name] < 140 || count[name] > 260 {
			t.Errorf("of 1000 addresses %s has %d", name, count[name])
		}
	}
	gone := nodes["n3"]
	delete(nodes, "n3")
	for a, winner := range winners {
		if now := Elect(a, lan, nodes); winner != "n3" && now != winner || now == "n3" {
			t.Errorf("%s moves from %s to %s when n3 goes", a, winner, now)
		}
	}
	nodes["n3"] = gone
	for a, winner := range winners {
		if now := Elect(a, lan, nodes); now != winner {
			t.Errorf("%s does not come back to %s: %s", a, winner, now)
		}
	}
	for name := range nodes {
		if name != "n2" {
			nodes[name] = []netip.Addr{ip("192.0.2.1")}
		}
	}
	for a := range winners {
		if now := Elect(a, lan, nodes); now != "n2" {
			t.Errorf("%s is announced by %s, which is not on its network", a, now)
		}
	}
	if got := Elect(ip("10.0.0.9"), lan, nil); got != "" {
		t.Errorf("of nobody %q is elected", got)
	}
}

func TestTurn(t *testing.T) {
	type step struct {
		after time.Duration // since the step before
		rival bool          // heard just before
		do    deed
		phase phase
	}
	take := []step{{0, false, probe, probing}, {probeEvery, false, probe, probing}, {probeEvery, false, probe, probing}, {probeEvery, false, announceIt, announcing}}
	told := append(take, step{announceEvery, false, announceIt, announcing}, step{announceEvery, false, announceIt, holding})
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"it is asked for three times and told three times", append(told, step{time.Hour, false, nothing, holding})},
		{"nothing is done before its time", []step{{0, false, probe, probing}, {probeEvery - 1, false, nothing, probing}, {1, false, probe, probing}}},
		{"another has it: it is looked at again", append(take[:2:2], step{0, true, nothing, blocked}, step{firstPause - 1, false, nothing, blocked}, step{1, false, probe, probing})},
		{"another has it still: that is told, once", []step{
			{0, false, probe, probing},
			{0, true, nothing, blocked},
			{firstPause, false, probe, probing},
			{0, true, complain, blocked},
			{mostPause, false, probe, probing},
			{0, true, nothing, blocked},
			{mostPause, false, probe, probing},
		}},
		{"the former holder tells late: the next words settle it", append(take[:4:4], step{announceEvery, true, announceIt, announcing}, step{announceEvery, false, announceIt, holding})},
		{"somebody takes it: it waits to be told that it has moved, then defends it", append(told[:6:6], step{time.Hour, true, nothing, holding}, step{announceEvery, false, defend, holding}, step{announceEvery, true, nothing, holding}, step{lookAgain, false, defend, holding})},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s turn
			now := time.Unix(1000, 0)
			for i, step := range c.steps {
				now = now.Add(step.after)
				if step.rival {
					s = s.heard(mac2, now)
				}
				var do deed
				do, s = s.next(now)
				if do != step.do || s.phase != step.phase {
					t.Fatalf("step %d: does %d and is in phase %d, want %+v", i+1, do, s.phase, step)
				}
				if wantAnswer := s.phase == announcing || s.phase == holding; s.answers() != wantAnswer {
					t.Errorf("step %d: answers: %v", i+1, s.answers())
				}
			}
		})
	}
}
