package nodelifecycle

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		zone, cluster         State
		zoneSize, clusterSize int
		between               time.Duration
		halted                bool
	}{
		"all is well":                            {Well, Well, 10, 30, perNode, false},
		"a small zone lost most of its nodes":    {MostLost, Well, 10, 30, perNodeSlow, true},
		"a large zone lost most of its nodes":    {MostLost, Well, 51, 200, perNodeSlow, false},
		"a zone of 50 nodes is small":            {MostLost, Well, 50, 200, perNodeSlow, true},
		"a zone is lost, most others are well":   {AllLost, Well, 10, 30, perNode, false},
		"a zone is lost, and with it most nodes": {AllLost, MostLost, 3, 5, perNodeSlow, true},
		"the same in a large cluster":            {AllLost, MostLost, 300, 500, perNodeSlow, false},
		"all zones are lost":                     {AllLost, AllLost, 300, 900, perNode, true},
	} {
		t.Run(name, func(t *testing.T) {
			between, halted := Pace(c.zone, c.cluster, c.zoneSize, c.clusterSize)
			if halted != c.halted || !halted && between != c.between {
				t.Errorf("one in %v, halted: %v; want one in %v, halted: %v", between, halted, c.between, c.halted)
			}
		})
	}
}

// evicted counts the nodes that have the taint by which pods are evicted.
func (g *ground) evicted() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, node := range g.nodes {
		if has(node.Spec.Taints, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) {
			n++
		}
	}
	return n
}

func TestNodesAreEvictedOneAfterTheOther(t *testing.T) {
	during(t, Config{}, 80, func(g *ground) {
		for i := range 20 {
			g.die(fmt.Sprintf("n%d", i))
		}
		for g.evicted() == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		for i := range 20 {
			if n := g.evicted(); n != i+1 {
				t.Fatalf("%d s after the first, %d nodes are evicted", i, n)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := g.evicted(); n != 20 {
			t.Errorf("%d nodes are evicted of 20", n)
		}
	})
}

func TestALargeZoneThatLostMostIsEvictedSlowly(t *testing.T) {
	during(t, Config{}, 60, func(g *ground) {
		for i := range 40 {
			g.die(fmt.Sprintf("n%d", i))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := g.evicted() // those that were before most were lost
		time.Sleep(1000 * time.Second)
		synctest.Wait()
		if n := g.evicted() - before; n < 9 || n > 11 {
			t.Errorf("%d nodes in 1000 s", n)
		}
	})
}

func TestAZoneIsJudgedByItself(t *testing.T) {
	in := func(zone string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelTopologyZone: zone} }
	}
	during(t, Config{}, 0, func(g *ground) {
		for i := range 3 {
			g.say(fmt.Sprintf("a%d", i), corev1.ConditionTrue, in("a"))
		}
		for i := range 10 {
			g.say(fmt.Sprintf("b%d", i), corev1.ConditionTrue, in("b"))
		}
		g.die("a0", "a1")
		time.Sleep(20 * time.Second)
		g.expect("two of three of its zone", "a1", corev1.ConditionUnknown, "unreachable:NoSchedule")
		g.die("a2")
		time.Sleep(20 * time.Second)
		for _, n := range []string{"a0", "a1", "a2"} {
			g.expect("its zone is lost as a whole, the others are well", n, corev1.ConditionUnknown, both)
		}
	})
}

func TestOneThatDoesNotCount(t *testing.T) {
	out := func(n *corev1.Node) { n.Labels = map[string]string{exclude: ""} }
	during(t, Config{}, 2, func(g *ground) {
		g.say("x", corev1.ConditionFalse, out)
		g.say("y", corev1.ConditionFalse, out)
		g.die("n0")
		time.Sleep(20 * time.Second)
		g.expect("three of four are not ready, but only one of two counts", "n0", corev1.ConditionUnknown, both)
	})
}

// TestTaintsAreReachedAndKept: from any node, one step makes the taints what they are to be, and a second changes nothing; those of others stay.
func TestTaintsAreReachedAndKept(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	statuses := []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}
	now := time.Now()
	for range 3000 {
		n := &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: r.IntN(2) == 0}}
		for _, cause := range causes[1:] {
			if r.IntN(3) > 0 {
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: cause.condition, Status: statuses[r.IntN(3)]})
			}
		}
		for _, id := range append([]corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}, {Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoExecute}}, order...) {
			if r.IntN(3) == 0 {
				id.TimeAdded = &metav1.Time{Time: now.Add(-time.Hour)}
				n.Spec.Taints = append(n.Spec.Taints, id)
			}
		}
		rule := Rule(r.IntN(3))
		first := Taints(n, rule, now)
		after := n.DeepCopy()
		after.Spec.Taints = first
		if again := Taints(after, rule, now.Add(time.Minute)); !sameTaints(first, again) {
			t.Fatalf("%v becomes %v, and then %v", n.Spec.Taints, first, again)
		}
		for _, was := range n.Spec.Taints {
			id := corev1.Taint{Key: was.Key, Effect: was.Effect}
			if !ours(id) && !has(first, was.Key, was.Effect) {
				t.Fatalf("%v becomes %v: that of somebody else is gone", n.Spec.Taints, first)
			}
			for _, is := range first {
				if is.Key == was.Key && is.Effect == was.Effect && !is.TimeAdded.Equal(was.TimeAdded) {
					t.Fatalf("%v becomes %v: one that stays has another time", n.Spec.Taints, first)
				}
			}
		}
		evicts := has(first, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) || has(first, corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
		if due := executing(n) != ""; evicts && (!due || rule == Spare) || due && rule == Evict && !evicts {
			t.Fatalf("by rule %d, %v becomes %v", rule, n.Spec.Taints, first)
		}
	}
}

func TestOneThatBecomesUnreachableNeedsNoLeaveAgain(t *testing.T) {
	n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}
	got := Taints(n, Keep, time.Now())
	if len(got) != 2 || !has(got, corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule) || !has(got, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) {
		t.Errorf("the taints are %v", got)
	}
}
