package nodelifecycle

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestAnAgentWhoseConnectionBreaks plays what can follow: silence, a renewal by another server, and the agent's return.
func TestAnAgentWhoseConnectionBreaks(t *testing.T) {
	var all Connections
	during(t, Config{Connections: &all}, 8, func(g *ground) {
		for _, n := range []string{"n1", "n2", "n3"} {
			all.Began(n)
			all.Began(n)
		}
		time.Sleep(2*Renew - time.Second/2) // all renew in half a second
		g.die("n1", "n3")
		for _, n := range []string{"n1", "n2", "n3"} {
			all.Ended(n)
		}
		time.Sleep(Doubt)
		g.expect("it watches still", "n1", corev1.ConditionTrue, "")
		time.Sleep(Grace)
		g.expect("its renewals count, whatever it watches", "n1", corev1.ConditionUnknown, both)
		g.live("n1")
		g.live("n3")
		time.Sleep(2 * time.Second) // evictions begin of one node a second
		g.expect("it is back", "n1", corev1.ConditionTrue, "")

		g.c.LeaseChanged("n1", Grace)
		g.c.LeaseChanged("n3", Grace)
		g.die("n1", "n3")
		for _, n := range []string{"n1", "n2", "n3"} {
			all.Ended(n)
		}
		time.Sleep(Doubt / 2)
		all.Began("n3")
		time.Sleep(Doubt/2 - 100*time.Millisecond)
		g.expect("it may come back", "n1", corev1.ConditionTrue, "")
		time.Sleep(200 * time.Millisecond)
		g.expect("it has not: no pod is evicted yet", "n1", corev1.ConditionUnknown, "unreachable:NoSchedule")
		g.expect("it renews by another server", "n2", corev1.ConditionTrue, "")
		g.expect("it has come back", "n3", corev1.ConditionTrue, "")
		g.live("n3")
		time.Sleep(Grace - Doubt - 200*time.Millisecond)
		g.expect("the grace has not passed", "n1", corev1.ConditionUnknown, "unreachable:NoSchedule")
		time.Sleep(time.Second)
		g.expect("it has", "n1", corev1.ConditionUnknown, both)
		g.live("n1")
		g.expect("it is back", "n1", corev1.ConditionTrue, "")
	})
}

// TestADoubtIsDeniedByAStallOfTheStore has a connection break while nobody can renew.
func TestADoubtIsDeniedByAStallOfTheStore(t *testing.T) {
	var all Connections
	stalled := time.Duration(0)
	during(t, Config{Connections: &all, Stalled: func() time.Duration { return stalled }}, 4, func(g *ground) {
		all.Began("n1")
		g.c.LeaseChanged("n1", Grace)
		g.die("n1")
		all.Ended("n1")
		time.Sleep(Doubt - time.Second)
		stalled += Doubt - time.Second
		time.Sleep(Doubt - time.Second)
		g.expect("the store had stood still", "n1", corev1.ConditionTrue, "")
		time.Sleep(2 * time.Second)
		g.expect("and it works for long enough", "n1", corev1.ConditionUnknown, "unreachable:NoSchedule")
	})
}

func TestAConnectionThatBrokeBeforeWeBeganAnew(t *testing.T) {
	var all Connections
	during(t, Config{Connections: &all}, 4, func(g *ground) {
		all.Began("n1")
		g.die("n1", "n2")
		time.Sleep(3 * time.Second)
		all.Ended("n1")
		time.Sleep(2 * time.Second)
		g.c.watch.begin(time.Now())
		time.Sleep(Grace - time.Second)
		g.expect("its connection broke 9 s ago", "n1", corev1.ConditionUnknown, both)
		g.expect("nobody knows of this one's", "n2", corev1.ConditionTrue, "")
	})
}
