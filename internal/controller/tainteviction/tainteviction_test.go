package tainteviction

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// ground is one node n1 with pods.
type ground struct {
	c *Controller

	mu     sync.Mutex // guards the fields below
	node   *corev1.Node
	pods   map[string]*corev1.Pod
	told   []string
	silent time.Time // since when the node is
	behind bool      // the node was heard of, and it has not been seen yet
}

func (g *ground) Pod(key loop.Key) *corev1.Pod {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pods[key.Name]
}

func (g *ground) Node(string) *corev1.Node { g.mu.Lock(); defer g.mu.Unlock(); return g.node }

func (g *ground) PodsOn(string) (all []*corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pods {
		all = append(all, p)
	}
	return all
}

func (g *ground) Silence(string) (silent, grace time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.silent), 8 * time.Second
}

// Prove shows what was written before: that the node is heard of, if behind says so.
func (g *ground) Prove(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.behind {
		g.silent = time.Now()
	}
	return nil
}

// change stores a changed pod: none if change says so.
func (g *ground) change(name string, change func(*corev1.Pod) *corev1.Pod) {
	g.mu.Lock()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: "n1", TerminationGracePeriodSeconds: new(int64(30))}}
	if old := g.pods[name]; old != nil {
		pod = old.DeepCopy()
	}
	if pod = change(pod); pod == nil {
		delete(g.pods, name)
	} else {
		g.pods[name] = pod
	}
	g.mu.Unlock()
	g.c.PodChanged(loop.Key{Namespace: "shop", Name: name}, "n1")
}

func (g *ground) UpdatePodStatus(_ context.Context, pod *corev1.Pod, change func(*corev1.PodStatus)) error {
	g.change(pod.Name, func(p *corev1.Pod) *corev1.Pod { change(&p.Status); return p })
	return nil
}

func (g *ground) EndPod(_ context.Context, pod *corev1.Pod) error {
	g.say("end " + pod.Name)
	g.change(pod.Name, func(p *corev1.Pod) *corev1.Pod { p.DeletionTimestamp = &metav1.Time{Time: time.Now()}; return p })
	return nil
}

func (g *ground) DeletePod(_ context.Context, pod *corev1.Pod) error {
	g.say("delete " + pod.Name)
	g.change(pod.Name, func(p *corev1.Pod) *corev1.Pod { return nil })
	return nil
}

func (g *ground) Record(_ runtime.Object, _, reason, message string) { g.say(reason + ": " + message) }

func (g *ground) say(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = append(g.told, what)
}

// taint gives the node these taints with NoExecute, added now, and no others.
func (g *ground) taint(keys ...string) {
	g.mu.Lock()
	g.node = g.node.DeepCopy()
	g.node.Spec.Taints = nil
	for _, key := range keys {
		at := metav1.Now()
		g.node.Spec.Taints = append(g.node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at})
	}
	node := g.node
	g.mu.Unlock()
	g.c.NodeChanged("n1", node)
}

func (g *ground) expect(t *testing.T, what string, told ...string) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.told, told) {
		t.Errorf("%s: got %q, want %q", what, g.told, told)
	}
	g.told = nil
}

func during(t *testing.T, do func(t *testing.T, g *ground)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &ground{node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, pods: map[string]*corev1.Pod{}}
		g.c = New(Config{}, g, g, g, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.c.Run(ctx) }()
		do(t, g)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func with(tolerations ...corev1.Toleration) func(*corev1.Pod) *corev1.Pod {
	return func(p *corev1.Pod) *corev1.Pod { p.Spec.Tolerations = tolerations; return p }
}

func TestAPodGoesWhenItsTimeIsUp(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.change("a", with(tolerates("mine", 30)))
		g.change("stays", with(tolerates("mine", -1)))
		g.taint("mine")
		time.Sleep(29 * time.Second)
		g.expect(t, "it has a second left")
		g.taint()
		g.expect(t, "the taint goes", "TaintManagerEviction: Cancelling deletion of Pod shop/a")
		time.Sleep(time.Minute)
		g.expect(t, "long after")
		g.taint("mine")
		time.Sleep(29 * time.Second)
		g.expect(t, "a new taint is a new time")
		g.change("new", with())
		g.expect(t, "one that comes later, without a toleration", "TaintManagerEviction: Marking for deletion Pod shop/new", "end new")
		time.Sleep(time.Second)
		g.expect(t, "now", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
		c := g.Pod(loop.Key{Name: "a"}).Status.Conditions
		if len(c) != 1 || c[0].Type != corev1.DisruptionTarget || c[0].Status != corev1.ConditionTrue || c[0].Reason != "DeletionByTaintManager" || c[0].Message != "Taint manager: deleting due to NoExecute taint" {
			t.Errorf("conditions %+v", c)
		}
		time.Sleep(time.Hour)
		g.expect(t, "nobody knows whether it has ended")
	})
}

func TestATaintFromAClockThatIsAhead(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.change("a", with(tolerates("mine", 30)))
		g.mu.Lock()
		g.node.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: time.Now().Add(time.Hour)}}}
		node := g.node
		g.mu.Unlock()
		g.c.NodeChanged("n1", node)
		time.Sleep(29 * time.Second)
		g.expect(t, "it counts from when it was seen")
		time.Sleep(time.Second)
		g.expect(t, "and no longer", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
	})
}

func TestANodeThatFencesItself(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.node.Annotations = map[string]string{Fences: "true"}
		g.silent = time.Now()
		g.change("a", with(tolerates(corev1.TaintNodeUnreachable, 30)))
		g.change("by-hand", with(tolerates(corev1.TaintNodeUnreachable, 30)))
		g.change("forever", with(tolerates(corev1.TaintNodeUnreachable, -1)))
		time.Sleep(8 * time.Second)
		g.taint(corev1.TaintNodeUnreachable)
		by := func(p *corev1.Pod) *corev1.Pod { p.DeletionTimestamp = &metav1.Time{Time: time.Now()}; return p }
		g.change("by-hand", by)
		g.change("forever", by)
		time.Sleep(30 * time.Second)
		g.expect(t, "its time is up", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
		time.Sleep(14 * time.Second)
		g.expect(t, "it may be running still")
		time.Sleep(time.Second)
		synctest.Wait()
		g.mu.Lock()
		slices.Sort(g.told)
		g.mu.Unlock()
		g.expect(t, "it is not", "delete a", "delete by-hand")
		time.Sleep(time.Hour)
		g.expect(t, "what is never stopped stays")
	})
}

func TestANodeThatComesBackInTime(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.node.Annotations = map[string]string{Fences: "true"}
		g.silent = time.Now()
		g.change("a", with())
		time.Sleep(8 * time.Second)
		g.taint(corev1.TaintNodeUnreachable)
		g.expect(t, "it goes", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
		time.Sleep(13 * time.Second)
		g.mu.Lock()
		g.silent = time.Now()
		g.mu.Unlock()
		time.Sleep(20 * time.Second)
		g.expect(t, "its node was heard of again")
		g.taint()
		time.Sleep(time.Hour)
		g.expect(t, "its node itself says when it has ended")
	})
}

func TestANodeThatSaysLateThatItFences(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.silent = time.Now().Add(-time.Hour)
		g.change("a", with())
		g.taint(corev1.TaintNodeUnreachable)
		g.expect(t, "it goes", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
		time.Sleep(time.Hour)
		g.expect(t, "but not for good")
		g.mu.Lock()
		g.node = g.node.DeepCopy()
		g.node.Annotations = map[string]string{Fences: "true"}
		node := g.node
		g.mu.Unlock()
		g.c.NodeChanged("n1", node)
		g.expect(t, "now it is known that it has ended", "delete a")
	})
}

func TestAServerThatHasNotSeenTheLastRenewal(t *testing.T) {
	during(t, func(t *testing.T, g *ground) {
		g.node.Annotations = map[string]string{Fences: "true"}
		g.silent, g.behind = time.Now().Add(-time.Hour), true
		g.change("a", with())
		g.taint(corev1.TaintNodeUnreachable)
		g.expect(t, "it goes", "TaintManagerEviction: Marking for deletion Pod shop/a", "end a")
		time.Sleep(20 * time.Second)
		g.expect(t, "the node was heard of")
		g.mu.Lock()
		g.behind = false
		g.mu.Unlock()
		time.Sleep(time.Hour)
		g.expect(t, "and then no longer", "delete a")
	})
}
