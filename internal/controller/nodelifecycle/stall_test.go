package nodelifecycle

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/store"
)

// stalling is a store that stands still at times. The controller has only its own writes to see that by, unless somebody else is busy writing.
type stalling struct {
	g    *ground
	pace store.Pace
}

// stalls lets a controller run in fake time, over such a store.
func stalls(t *testing.T, nodes int, do func(s *stalling)) {
	t.Helper()
	s := &stalling{}
	during(t, Config{Stalled: s.pace.Stalled}, nodes, func(g *ground) {
		s.g = g
		g.mu.Lock()
		g.proof = s.write
		g.mu.Unlock()
		do(s)
	})
}

// write is one, by the server that the controller is in.
func (s *stalling) write() {
	defer s.pace.Begin()()
	for still := s.g.stands(); still != nil; still = s.g.stands() {
		<-still
	}
}

// still stands for so long. No agent's write comes through meanwhile, nor after it unless the store works for longer than they take to try again.
func (s *stalling) still(d time.Duration) {
	works := make(chan struct{})
	s.g.mu.Lock()
	s.g.still = works
	s.g.mu.Unlock()
	time.Sleep(d)
	s.g.mu.Lock()
	s.g.still = nil
	s.g.mu.Unlock()
	close(works)
}

func TestStallsInARowMakeNoNodeSilent(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		last  time.Duration
		works time.Duration // in between
	}{
		"six of two seconds, and the store works for a moment in between": {6, 2 * time.Second, 20 * time.Millisecond},
		"six of ten seconds":                   {6, 10 * time.Second, 500 * time.Millisecond},
		"one of an hour":                       {1, time.Hour, 0},
		"six of four seconds, working for one": {6, 4 * time.Second, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			stalls(t, 3, func(s *stalling) {
				all := []string{"n0", "n1", "n2"}
				s.g.die(all...) // so that nothing they write comes through
				for range c.times {
					s.still(c.last)
					for _, n := range all {
						s.g.expect("a stall has ended", n, corev1.ConditionTrue, "")
					}
					time.Sleep(c.works)
				}
				s.g.mu.Lock()
				s.g.dead = map[string]bool{}
				s.g.mu.Unlock()
				for _, n := range all {
					s.g.c.LeaseChanged(n, Grace)
				}
				time.Sleep(time.Minute)
				for _, n := range all {
					s.g.expect("all is well again", n, corev1.ConditionTrue, "")
				}
				if len(s.g.told) > 0 {
					t.Errorf("told %q", s.g.told)
				}
			})
		})
	}
}

func TestANodeThatDiesDuringAStallIsNoticed(t *testing.T) {
	for name, stall := range map[string]time.Duration{"a short one": 3 * time.Second, "one as long as the grace": Grace, "a long one": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			stalls(t, 3, func(s *stalling) {
				s.g.die("n1")
				busy, stop := context.WithCancel(context.Background())
				defer stop()
				go func() {
					for busy.Err() == nil {
						s.write()
						time.Sleep(10 * time.Millisecond)
					}
				}()
				s.still(stall)
				time.Sleep(Grace - Renew - time.Second)
				s.g.expect("its grace is not over", "n1", corev1.ConditionTrue, "")
				time.Sleep(Renew + time.Second + pulse)
				s.g.expect("the store has worked for as long as its grace", "n1", corev1.ConditionUnknown, both)
				s.g.expect("its neighbour", "n2", corev1.ConditionTrue, "")
			})
		})
	}
}

// The other side of the rule, which takes pods for dead, counts by the same clock.
func TestSilenceCountsWhileTheStoreWorks(t *testing.T) {
	stalls(t, 3, func(s *stalling) {
		s.g.die("n1")
		before, _ := s.g.c.Silence("n1")
		time.Sleep(20 * time.Second)
		end := s.pace.Begin()
		time.Sleep(10 * time.Minute)
		if silent, _ := s.g.c.Silence("n1"); silent != before+20*time.Second {
			t.Errorf("silent for %v while the store stands still, want %v", silent, before+20*time.Second)
		}
		end()
		time.Sleep(20 * time.Second)
		if silent, _ := s.g.c.Silence("n1"); silent != before+40*time.Second {
			t.Errorf("silent for %v after it, want %v", silent, before+40*time.Second)
		}
		s.pace.Begin() // a stall that had begun before the node is heard, and shows after it
		time.Sleep(800 * time.Millisecond)
		s.g.c.LeaseChanged("n1", Grace)
		time.Sleep(400 * time.Millisecond)
		if silent, _ := s.g.c.Silence("n1"); silent != 0 {
			t.Errorf("silent for %v, want none: all of it the store stood still", silent)
		}
	})
}
