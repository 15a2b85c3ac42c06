package store

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceTellsOfSlowWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		told := func(want string) {
			t.Helper()
			got := ""
			if err := p.Slow(); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("after %q, want %q", got, want)
			}
		}
		told("")
		end := p.Begin()
		time.Sleep(900 * time.Millisecond)
		told("")
		p.Begin()() // others are quick
		time.Sleep(600 * time.Millisecond)
		told("the disk is slow: a write has been waiting for it for 1.5s")
		time.Sleep(500 * time.Millisecond)
		end()
		time.Sleep(3 * time.Second)
		p.Begin()()
		told("the disk is slow: 3s ago a write took 2s")
		time.Sleep(8 * time.Second)
		told("")
	})
}

func TestPaceCountsForHowLongTheStoreStoodStill(t *testing.T) {
	type at = time.Duration
	second := time.Second
	for name, c := range map[string]struct {
		writes [][2]at // when each begins and ends, in order of their beginnings; no end: it is under way yet
		stood  [][2]at // from when, and when that is said
		want   time.Duration
	}{
		"nothing was written":                                {},
		"quick writes do not count":                          {writes: [][2]at{{0, 900 * time.Millisecond}, {second, 2*second - 1}}},
		"a slow one counts whole":                            {writes: [][2]at{{second, 3 * second}}, want: 2 * second},
		"one that has waited for a second counts already":    {writes: [][2]at{{18 * second}}, want: 2 * second},
		"one that has waited for less does not yet":          {writes: [][2]at{{19*second + 1}}},
		"two at the same time count once":                    {writes: [][2]at{{0, 3 * second}, {second, 3 * second}}, want: 3 * second},
		"two that overlap count from the first to the last":  {writes: [][2]at{{0, 3 * second}, {second, 5 * second}}, want: 5 * second},
		"two that touch, too":                                {writes: [][2]at{{0, 3 * second}, {3 * second, 5 * second}}, want: 5 * second},
		"two apart count each":                               {writes: [][2]at{{0, 3 * second}, {4 * second, 5 * second}}, want: 4 * second},
		"a long one counts those within it once":             {writes: [][2]at{{0, 10 * second}, {second, 3 * second}, {5 * second, 7 * second}}, want: 10 * second},
		"what ended within a slow one adds nothing":          {writes: [][2]at{{0, 10 * second}, {second, 2*second - 1}}, want: 10 * second},
		"six in a row count each":                            {writes: [][2]at{{0, 2 * second}, {2 * second, 4 * second}, {4 * second, 6 * second}, {6 * second, 8 * second}, {8 * second, 10 * second}, {10 * second, 12 * second}}, want: 12 * second},
		"what is known from elsewhere counts":                {stood: [][2]at{{2 * second, 10 * second}}, want: 8 * second},
		"said again it counts once":                          {stood: [][2]at{{2 * second, 10 * second}, {2 * second, 12 * second}}, want: 10 * second},
		"with slow writes before, within and after it, too":  {writes: [][2]at{{0, 3 * second}, {5 * second, 7 * second}, {9 * second, 12 * second}}, stood: [][2]at{{2 * second, 10 * second}}, want: 12 * second},
		"said when a write that was longer has ended before": {writes: [][2]at{{0, 9 * second}}, stood: [][2]at{{2 * second, 10 * second}}, want: 10 * second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p Pace
				for _, w := range c.writes {
					time.AfterFunc(w[0], func() {
						end := p.Begin()
						if w[1] > 0 {
							time.Sleep(w[1] - w[0])
							end()
						}
					})
				}
				begun := time.Now()
				for _, s := range c.stood {
					time.AfterFunc(s[1], func() { p.Stood(begun.Add(s[0])) })
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if got := p.Stalled(); got != c.want {
					t.Errorf("stalled for %v, want %v", got, c.want)
				}
			})
		})
	}
}

// Whatever is written and asked in whatever order: what is counted is the union of all spans, and never becomes less.
func TestPaceCountsTheUnion(t *testing.T) {
	const step = 50 * time.Millisecond
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			type write struct {
				from, to int // in steps; to -1: under way
				end      func()
			}
			var p Pace
			var writes []*write
			var stood [][2]int
			begun, silent, was := time.Now(), -1, time.Duration(0)
			for now := range 2000 { // 100 s
				if r.IntN(15) == 0 {
					writes = append(writes, &write{from: now, to: -1, end: p.Begin()})
				}
				for _, w := range writes {
					if w.to < 0 && r.IntN(12) == 0 {
						w.to = now
						w.end()
					}
				}
				switch { // silence is known after eight seconds, and said twice a second from then on
				case silent < 0 && r.IntN(300) == 0:
					silent = now
				case silent >= 0 && r.IntN(400) == 0:
					silent = -1
				case silent >= 0 && now-silent >= 160 && now%10 == 0:
					stood = append(stood, [2]int{silent, now})
					p.Stood(begun.Add(time.Duration(silent) * step))
				}
				if r.IntN(10) == 0 {
					counted := make([]bool, now)
					mark := func(from, to int) {
						for i := from; i < to; i++ {
							counted[i] = true
						}
					}
					for _, w := range writes {
						to := w.to
						if to < 0 {
							to = now
						}
						if time.Duration(to-w.from)*step >= slowWrite {
							mark(w.from, to)
						}
					}
					for _, s := range stood {
						mark(s[0], s[1])
					}
					want := time.Duration(0)
					for _, is := range counted {
						if is {
							want += step
						}
					}
					got := p.Stalled()
					if got != want || got < was {
						t.Fatalf("seed %d, after %v: stalled for %v, want %v; it was %v", seed, time.Duration(now)*step, got, want, was)
					}
					was = got
				}
				time.Sleep(step)
			}
			if len(p.begun) > len(writes)/2 || len(p.stood) > spansKept {
				t.Errorf("seed %d: it remembers %d writes and %d spans", seed, len(p.begun), len(p.stood))
			}
		})
	}
}
