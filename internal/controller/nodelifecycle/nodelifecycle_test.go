package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ground is nodes and pods, the API by which they are written, and what is told.
type ground struct {
	t testing.TB
	c *Controller

	mu     sync.Mutex // guards the fields below
	nodes  map[string]*corev1.Node
	pods   []*corev1.Pod
	told   []string // but for nodes that come and go, which are in known
	known  []string
	dead   map[string]bool
	slow   time.Duration // each proof takes so long
	broken bool          // the store takes nothing
	still  chan struct{} // closed when the store works again; nil while it does
	proof  func()        // each does this besides, if it is there
	looks  int           // at Nodes
}

func (g *ground) Node(name string) *corev1.Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looks++
	return g.nodes[name]
}

func (g *ground) PodsOn(node string) (list []*corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pods {
		if p.Spec.NodeName == node {
			list = append(list, p)
		}
	}
	return list
}

// put stores the node, if it is based on what is there.
func (g *ground) put(node *corev1.Node) error {
	g.mu.Lock()
	old := g.nodes[node.Name]
	if old != nil && old.ResourceVersion != node.ResourceVersion {
		g.mu.Unlock()
		return apierrors.NewConflict(corev1.Resource("nodes"), node.Name, nil)
	}
	n, _ := strconv.Atoi(node.ResourceVersion)
	node = node.DeepCopy()
	node.ResourceVersion = strconv.Itoa(n + 1)
	g.nodes[node.Name] = node
	g.mu.Unlock()
	g.c.NodeChanged(node.Name, old, node)
	return nil
}

func (g *ground) UpdateNode(_ context.Context, node *corev1.Node) error       { return g.put(node) }
func (g *ground) UpdateNodeStatus(_ context.Context, node *corev1.Node) error { return g.put(node) }

func (g *ground) UpdatePodStatus(_ context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range g.pods {
		if p.Name == pod.Name {
			p = p.DeepCopy()
			change(&p.Status)
			g.pods[i] = p
		}
	}
	return nil
}

func (g *ground) Prove(context.Context) error {
	g.mu.Lock()
	slow, broken, proof := g.slow, g.broken, g.proof
	g.mu.Unlock()
	if proof != nil {
		proof()
	}
	time.Sleep(slow)
	if broken {
		return errors.New("the disk is full")
	}
	return nil
}

// stands is what is closed once the store works again; nil if it does.
func (g *ground) stands() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.still
}

func (g *ground) Record(obj runtime.Object, _, reason, message string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if reason == "RegisteredNode" || reason == "RemovingNode" {
		g.known = append(g.known, message)
		return
	}
	g.told = append(g.told, fmt.Sprintf("%s %s: %s", obj.(metav1.Object).GetName(), reason, message))
}

// say is what the agent of a node writes of it.
func (g *ground) say(name string, ready corev1.ConditionStatus, change ...func(*corev1.Node)) {
	g.t.Helper()
	for {
		err := g.put(g.said(name, ready, change...))
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) { // the controller has written it meanwhile
			g.t.Fatal(err)
		}
	}
}

// said is the node as its agent would have it.
func (g *ground) said(name string, ready corev1.ConditionStatus, change ...func(*corev1.Node)) *corev1.Node {
	var next *corev1.Node
	if old := g.Node(name); old != nil {
		next = old.DeepCopy()
	} else {
		next = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	next.Status.Conditions = slices.DeleteFunc(next.Status.Conditions, func(c corev1.NodeCondition) bool { return slices.Contains(heard, c.Type) })
	for _, kind := range heard {
		c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.Now()}
		if kind == corev1.NodeReady {
			c.Status = ready
		}
		next.Status.Conditions = append(next.Status.Conditions, c)
	}
	for _, ch := range change {
		ch(next)
	}
	return next
}

// die ends the node's agent, live begins one.
func (g *ground) die(names ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		g.dead[name] = true
	}
}

func (g *ground) live(name string) {
	g.mu.Lock()
	delete(g.dead, name)
	g.mu.Unlock()
	g.c.LeaseChanged(name, Grace)
	g.say(name, corev1.ConditionTrue)
}

// renew renews the leases of all nodes that live.
func (g *ground) renew(ctx context.Context) {
	for ctx.Err() == nil {
		g.mu.Lock()
		var live []string
		for name := range g.nodes {
			if !g.dead[name] {
				live = append(live, name)
			}
		}
		g.mu.Unlock()
		for _, name := range live {
			g.c.LeaseChanged(name, Grace)
		}
		time.Sleep(Renew)
	}
}

// taints are the node's, in words.
func (g *ground) taints(name string) string {
	var words []string
	for _, t := range g.Node(name).Spec.Taints {
		words = append(words, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func (g *ground) status(name string) corev1.ConditionStatus {
	return condition(g.Node(name).Status.Conditions, corev1.NodeReady).Status
}

func (g *ground) expect(what, name string, status corev1.ConditionStatus, taints string) {
	g.t.Helper()
	synctest.Wait()
	if got := g.status(name); got != status {
		g.t.Errorf("%s: %s is ready: %s, want %s", what, name, got, status)
	}
	if got := g.taints(name); got != taints {
		g.t.Errorf("%s: %s has the taints %q, want %q", what, name, got, taints)
	}
}

// during lets a controller run in fake time, with that many nodes n0, n1, …, whose agents live.
func during(t *testing.T, c Config, nodes int, do func(g *ground)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &ground{t: t, nodes: map[string]*corev1.Node{}, dead: map[string]bool{}}
		g.c = New(c, g, g, g, nil, nil)
		for i := range nodes {
			g.say(fmt.Sprintf("n%d", i), corev1.ConditionTrue)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.c.Run(ctx) }()
		go g.renew(ctx)
		time.Sleep(time.Minute + Renew/2) // the last renewal is half of Renew ago
		do(g)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(Renew)
	})
}

const both = "unreachable:NoExecute unreachable:NoSchedule"

// At rest a node costs no look at its Node, whatever Stalled is; and what comes later is still seen.
func TestANodeAtRestIsNotLookedAt(t *testing.T) {
	for _, stalled := range []func() time.Duration{nil, func() time.Duration { return 0 }} {
		during(t, Config{Stalled: stalled}, 20, func(g *ground) {
			looks := func() int {
				g.mu.Lock()
				defer g.mu.Unlock()
				return g.looks
			}
			before := looks()
			time.Sleep(10 * time.Minute)
			if n := looks() - before; n > 0 {
				t.Errorf("20 nodes at rest were looked at %d times in ten minutes", n)
			}
			g.say("n3", corev1.ConditionFalse)
			time.Sleep(time.Second)
			g.expect("it says that it is not ready", "n3", corev1.ConditionFalse, "not-ready:NoExecute not-ready:NoSchedule")
			g.die("n7")
			time.Sleep(10 * time.Second)
			g.expect("it is lost", "n7", corev1.ConditionUnknown, both)
		})
	}
}

func TestALostNodeIsNoticedInTenSeconds(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		pod := func(name, node string) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			}}
		}
		g.mu.Lock()
		g.pods = []*corev1.Pod{pod("a", "n1"), pod("b", "n2")}
		g.mu.Unlock()
		g.die("n1")
		time.Sleep(Grace - Renew)
		g.expect("not yet", "n1", corev1.ConditionTrue, "")
		time.Sleep(10*time.Second - (Grace - Renew))
		g.expect("after 10 s", "n1", corev1.ConditionUnknown, both)
		g.expect("its neighbour", "n2", corev1.ConditionTrue, "")
		for _, kind := range heard {
			c := condition(g.Node("n1").Status.Conditions, kind)
			if c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
				t.Errorf("condition %+v", c)
			}
		}
		if ready(g.PodsOn("n1")[0]) || !ready(g.PodsOn("n2")[0]) {
			t.Error("exactly the lost node's pod is not ready any more")
		}
		want := []string{"n1 NodeNotReady: Node n1 status is now: NodeNotReady", "a NodeNotReady: Node is not ready"}
		if !slices.Equal(g.told, want) {
			t.Errorf("told %q, want %q", g.told, want)
		}
		time.Sleep(time.Hour)
		g.expect("an hour later", "n1", corev1.ConditionUnknown, both)
		g.live("n1")
		g.expect("it is back", "n1", corev1.ConditionTrue, "")
		g.die("n1")
		time.Sleep(10 * time.Second)
		g.expect("it is lost again", "n1", corev1.ConditionUnknown, both)
	})
}

func TestNodesThatComeAndGoAreTold(t *testing.T) {
	during(t, Config{}, 1, func(g *ground) {
		g.say("n1", corev1.ConditionTrue)
		g.c.NodeChanged("n1", g.Node("n1"), nil)
		want := []string{"Node n0 event: Registered Node n0 in Controller", "Node n1 event: Registered Node n1 in Controller", "Node n1 event: Removing Node n1 from Controller"}
		if !slices.Equal(g.known, want) {
			t.Errorf("told %q, want %q", g.known, want)
		}
	})
}

func TestALeaseThatLastsLongerIsBelieved(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		g.die("n1")
		g.c.LeaseChanged("n1", 40*time.Second)
		time.Sleep(39 * time.Second)
		g.expect("its lease is good", "n1", corev1.ConditionTrue, "")
		time.Sleep(2 * time.Second)
		g.expect("it has run out", "n1", corev1.ConditionUnknown, both)
	})
}

func TestANodeThatNeverSaysHowItIs(t *testing.T) {
	during(t, Config{}, 2, func(g *ground) {
		g.die("new")
		if err := g.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "new"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(StartupGrace - time.Second)
		synctest.Wait()
		if len(g.Node("new").Status.Conditions) > 0 {
			t.Error("it has little time to begin")
		}
		time.Sleep(2 * time.Second)
		g.expect("it never spoke", "new", corev1.ConditionUnknown, both)
		if c := condition(g.Node("new").Status.Conditions, corev1.NodeReady); c.Reason != "NodeStatusNeverUpdated" || c.Message != "Kubelet never posted node status." {
			t.Errorf("condition %+v", c)
		}
		if len(g.told) > 0 {
			t.Errorf("told %q of a node that never was ready", g.told)
		}
	})
}

func TestAStoreThatStoodStillIsNoDeadNode(t *testing.T) {
	during(t, Config{}, 4, func(g *ground) {
		// For 10 s nothing is written: not what agents write, nor what we do.
		g.die("n0", "n1", "n2", "n3")
		g.mu.Lock()
		g.slow = 5 * time.Second
		g.mu.Unlock()
		time.Sleep(12 * time.Second)
		for _, n := range []string{"n0", "n1", "n2", "n3"} {
			g.expect("during the stall", n, corev1.ConditionTrue, "")
		}
		g.mu.Lock()
		g.slow, g.dead = 0, map[string]bool{"n3": true}
		g.mu.Unlock()
		time.Sleep(20 * time.Second)
		g.expect("it was only slow", "n0", corev1.ConditionTrue, "")
		g.expect("it has died meanwhile", "n3", corev1.ConditionUnknown, both)
	})
}

func TestALeaseThatLastsShorterFromNowOn(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		g.c.LeaseChanged("n1", time.Hour)
		g.die("n1")
		time.Sleep(time.Minute)
		g.expect("its lease is good", "n1", corev1.ConditionTrue, "")
		g.c.LeaseChanged("n1", time.Second)
		time.Sleep(Grace + time.Second)
		g.expect("it has the grace that all have", "n1", corev1.ConditionUnknown, both)
	})
}

func TestAStoreThatTakesNothingIsNoDeadNode(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		g.die("n0", "n1", "n2")
		g.mu.Lock()
		g.broken = true
		g.mu.Unlock()
		time.Sleep(time.Hour)
		g.mu.Lock()
		g.broken, g.dead = false, map[string]bool{}
		g.mu.Unlock()
		time.Sleep(time.Hour)
		g.expect("all can write again", "n1", corev1.ConditionTrue, "")
		if len(g.told) > 0 {
			t.Errorf("told %q", g.told)
		}
	})
}

func TestThisProcessStoodStill(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		g.die("n0", "n1", "n2")
		w := &g.c.watch
		w.mu.Lock() // as if a minute had passed since the last pulse, in which nobody was seen because nobody looked
		w.ran = w.ran.Add(-time.Minute)
		for _, s := range w.nodes {
			s.at.Time = s.at.Add(-time.Minute)
		}
		w.mu.Unlock()
		g.c.NodeChanged("n0", g.Node("n0"), g.Node("n0"))
		time.Sleep(Grace - time.Second)
		g.expect("it counts from when we woke", "n0", corev1.ConditionTrue, "")
		time.Sleep(3 * time.Second)
		g.expect("and then no longer", "n0", corev1.ConditionUnknown, "unreachable:NoSchedule")
	})
}

func TestTaintsFollowConditions(t *testing.T) {
	during(t, Config{}, 3, func(g *ground) {
		g.say("n1", corev1.ConditionFalse)
		g.expect("it says that it is not ready", "n1", corev1.ConditionFalse, "not-ready:NoExecute not-ready:NoSchedule")
		g.die("n1")
		time.Sleep(10 * time.Second)
		g.expect("and then nothing", "n1", corev1.ConditionUnknown, both)
		g.live("n1")
		g.say("n1", corev1.ConditionTrue, func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoSchedule})
			condition(n.Status.Conditions, corev1.NodeMemoryPressure).Status = corev1.ConditionTrue
		})
		g.expect("pressed and cordoned", "n1", corev1.ConditionTrue, "memory-pressure:NoSchedule mine:NoSchedule unschedulable:NoSchedule")
		g.say("n1", corev1.ConditionTrue, func(n *corev1.Node) {
			n.Spec.Unschedulable = false
			condition(n.Status.Conditions, corev1.NodeDiskPressure).Status = corev1.ConditionTrue
			condition(n.Status.Conditions, corev1.NodePIDPressure).Status = corev1.ConditionTrue
		})
		g.expect("pressed elsewhere", "n1", corev1.ConditionTrue, "disk-pressure:NoSchedule mine:NoSchedule pid-pressure:NoSchedule")
		g.say("n1", corev1.ConditionTrue)
		g.expect("well", "n1", corev1.ConditionTrue, "mine:NoSchedule")
	})
}

func TestWhenMostAreLostNothingIsEvicted(t *testing.T) {
	for name, c := range map[string]struct {
		nodes, lost int
		want        string
	}{
		"one of two":    {2, 1, both},
		"one of three":  {3, 1, both},
		"two of three":  {3, 2, "unreachable:NoSchedule"},
		"half of eight": {8, 4, both},
		"five of eight": {8, 5, "unreachable:NoSchedule"},
		"all of three":  {3, 3, "unreachable:NoSchedule"},
		"the only one":  {1, 1, "unreachable:NoSchedule"},
	} {
		t.Run(name, func(t *testing.T) {
			during(t, Config{}, c.nodes, func(g *ground) {
				for i := range c.lost {
					g.die(fmt.Sprintf("n%d", i))
				}
				time.Sleep(30 * time.Second)
				for i := range c.lost {
					g.expect(name, fmt.Sprintf("n%d", i), corev1.ConditionUnknown, c.want)
				}
				for i := range c.lost - 1 {
					g.live(fmt.Sprintf("n%d", i))
				}
				time.Sleep(time.Second)
				if c.nodes > 1 {
					g.expect("all others are back", fmt.Sprintf("n%d", c.lost-1), corev1.ConditionUnknown, both)
				}
			})
		})
	}
}
