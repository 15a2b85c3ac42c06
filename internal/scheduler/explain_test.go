package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// crowded is a cluster of random nodes and pods, and a pod that may fit nowhere.
func crowded(r *rand.Rand) (nodes []*corev1.Node, pods []*corev1.Pod, pod *corev1.Pod) {
	letter := func(n int) string { return string(rune('a' + r.IntN(n))) }
	for i := range 1 + r.IntN(5) {
		n := aNode(fmt.Sprintf("n%d", i), fmt.Sprintf("cpu=%d memory=%dGi", 1+r.IntN(3), 1+r.IntN(3)))
		n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse(fmt.Sprint(1 + r.IntN(5)))
		if r.IntN(3) > 0 {
			n.Labels[aZone] = letter(2)
		}
		if r.IntN(2) == 0 {
			n.Labels["disk"] = letter(2)
		}
		n.Spec.Unschedulable = r.IntN(4) == 0
		for range r.IntN(2) {
			tainted(letter(2), letter(2), []corev1.TaintEffect{"NoSchedule", "NoExecute", "PreferNoSchedule"}[r.IntN(3)])(n)
		}
		nodes = append(nodes, n)
	}
	some := func(name string) *corev1.Pod {
		p := aPod(name, fmt.Sprintf("cpu=%dm memory=%dMi", r.IntN(1500), r.IntN(1500)), label("app", letter(3)), priority(r.Int32N(3)))
		if r.IntN(3) == 0 {
			hostPort("", int32(80+r.IntN(2)), "TCP")(p)
		}
		if r.IntN(3) == 0 {
			away(toward(letter(3), []string{aZone, "kubernetes.io/hostname"}[r.IntN(2)]))(p)
		}
		return p
	}
	for i := range r.IntN(10) {
		p := some(fmt.Sprintf("p%d", i))
		p.Spec.NodeName = nodes[r.IntN(len(nodes))].Name
		pods = append(pods, p)
	}
	pod = some("new")
	if r.IntN(2) == 0 {
		pod.Spec.NodeSelector = map[string]string{"disk": letter(2)}
	}
	if r.IntN(3) == 0 {
		near(toward(letter(3), aZone))(pod)
	}
	if r.IntN(2) == 0 {
		spreadOver(aZone, 1, corev1.DoNotSchedule)(pod)
	}
	if r.IntN(3) == 0 {
		with("data")(pod)
	}
	return nodes, pods, pod
}

// stores is random storage for claims of the name data: bound, waiting for a node, for one pod alone, or not there.
func stores(r *rand.Rand, nodes []*corev1.Node, pods []*corev1.Pod) *warehouse {
	w := newWarehouse()
	w.class("local", true)
	for i := range r.IntN(4) {
		w.volume(fmt.Sprint("v", i), "local", r.IntN(3), nodes[r.IntN(len(nodes))].Name)
	}
	switch r.IntN(6) {
	case 0:
		c := w.claim("data", "local", 1)
		c.Spec.VolumeName, c.Annotations = "v0", map[string]string{claim.Completed: "yes"}
		if v := w.volumes["v0"]; v != nil {
			v.Status.Phase, v.Spec.ClaimRef = corev1.VolumeBound, &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name}
			v.Labels = map[string]string{aZone: "a"}
		}
	case 1:
		w.claim("data", "", 1)
	case 2:
	default:
		c := w.claim("data", "local", 1)
		if r.IntN(2) == 0 {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			for _, v := range w.volumes {
				v.Spec.AccessModes = c.Spec.AccessModes
			}
			for _, p := range pods {
				if r.IntN(6) == 0 {
					with("data")(p)
				}
			}
		}
	}
	return w
}

func noLabels(string) map[string]string { return nil }

// From any cluster: a node has no fault if and only if it takes the pod, its first fault is the one that the scheduler names, each fault has its figures, and the
// sentence is the scheduler's own.
func TestAnExplanationSaysWhatTheSchedulerDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	told := map[string]int{}
	for range 2000 {
		nodes, pods, pod := crowded(r)
		w := stores(r, nodes, pods)
		world := Snapshot(nodes, pods, noLabels)
		world.Stock(w, w.list())
		e := Explain(NeedOf(pod), world, nil)
		need := NeedOf(pod)
		picked, refusal := Pick(need, world)
		if (picked == nil) != (e.Refusal != nil) {
			t.Fatalf("picked is %v, the explanation says %v", picked, e.Refusal)
		}
		if refusal != nil {
			refusal.made = makeRoom(need, world, refusal, func(string) []Budget { return nil }) != nil
			if got, want := e.Refusal.Error(), refusal.Error(); got != want {
				t.Fatalf("it says %q, the scheduler %q", got, want)
			}
		}
		for _, o := range e.Nodes {
			node := world.byName[o.Node]
			if refusal != nil && refusal.Why() != "" {
				continue
			}
			f := refusing(need, node)
			if (f == nil) != (len(o.Faults) == 0) {
				t.Fatalf("%s: %+v, refused by %+v", o.Node, o.Faults, f)
			}
			if f != nil && o.Faults[0].Filter != f.name {
				t.Fatalf("%s is refused by %s, and %s comes first", o.Node, f.name, o.Faults[0].Filter)
			}
			for _, fault := range o.Faults {
				told[fault.Filter]++
				if figures := len(fault.Taints) + len(fault.Gaps) + len(fault.Ports) + len(fault.Shortages) + len(fault.Spreads) + len(fault.Neighbours) + len(fault.Stores); figures == 0 && fault.Filter != "NodeUnschedulable" {
					t.Fatalf("%s: %s is without figures: %v", o.Node, fault.Filter, fault.Reasons)
				}
			}
		}
	}
	for _, f := range filters {
		if told[f.name] < 50 && f.bit != byName {
			t.Errorf("%s refused only %d times: the clusters are too kind", f.name, told[f.name])
		}
	}
}

// From any cluster: who does all that a node's figures say is let in there.
func TestDoingWhatTheFiguresSayLetsThePodIn(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	done := 0
	for range 2000 {
		nodes, pods, pod := crowded(r)
		e := Explain(NeedOf(pod), Snapshot(nodes, pods, noLabels), nil)
		at := r.IntN(len(e.Nodes))
		o := e.Nodes[at]
		others := slices.ContainsFunc(o.Faults, func(f Fault) bool { return f.Filter == "PodTopologySpread" || f.Filter == "InterPodAffinity" })
		if len(o.Faults) == 0 || others && len(o.Faults) > 1 || others && o.Faults[0].Filter == "PodTopologySpread" {
			continue // where others are counted, one change changes what the next has to be
		}
		near := pod.Spec.Affinity != nil && len(pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0
		away := pod.Spec.Affinity != nil && len(pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0
		if others && (len(o.Faults[0].Neighbours) > 1 || o.Faults[0].Neighbours[0].Unlabelled || near && (away || o.Faults[0].Neighbours[0].Relation != Misses)) {
			continue // whom one demand sends away another may ask for
		}
		node := nodes[slices.IndexFunc(nodes, func(n *corev1.Node) bool { return n.Name == o.Node })]
		leave := func(keys ...loop.Key) {
			pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return slices.Contains(keys, keyOf(p)) })
		}
		for _, f := range o.Faults {
			node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return slices.Contains(f.Taints, t) })
			if f.Filter == "NodeUnschedulable" {
				node.Spec.Unschedulable = false
			}
			for _, g := range f.Gaps {
				node.Labels[g.Key] = g.Values[0]
			}
			for _, p := range f.Ports {
				leave(p.Holder)
			}
			for _, s := range f.Shortages {
				q := node.Status.Allocatable[s.Resource]
				more := *resource.NewQuantity(s.Asked-s.Free(), resource.BinarySI)
				if s.Resource == corev1.ResourceCPU {
					more = *resource.NewMilliQuantity(s.Asked-s.Free(), resource.DecimalSI)
				}
				q.Add(more)
				node.Status.Allocatable[s.Resource] = q
			}
			for _, n := range f.Neighbours {
				if n.Relation != Misses {
					leave(n.Who...)
					continue
				}
				friend := aPod("friend", "", label("app", pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels["app"]), on(node.Name))
				pods = append(pods, friend)
				node.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("100")
			}
		}
		done++
		for _, now := range Explain(NeedOf(pod), Snapshot(nodes, pods, noLabels), nil).Nodes {
			if now.Node == o.Node && slices.ContainsFunc(now.Faults, func(f Fault) bool {
				return f.Filter != "PodTopologySpread" && f.Filter != "InterPodAffinity" || f.Filter == o.Faults[0].Filter
			}) {
				t.Fatalf("%s still has %+v, after %+v", o.Node, now.Faults, o.Faults)
			}
		}
	}
	if done < 300 {
		t.Errorf("only %d changes were tried", done)
	}
}

func TestWhoHoldsWhatAPodLacks(t *testing.T) {
	nodes := []*corev1.Node{aNode("a", "cpu=2 memory=4Gi")}
	pods := []*corev1.Pod{
		aPod("small", "cpu=200m", on("a"), hostPort("", 80, "TCP")),
		aPod("large", "cpu=1", on("a")),
		aPod("done", "cpu=2", on("a"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		aPod("promised", "cpu=300m", priority(5), func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" }),
	}
	e := Explain(NeedOf(aPod("new", "cpu=600m", hostPort("", 80, "TCP"))), Snapshot(nodes, pods, noLabels), nil)
	faults := e.Nodes[0].Faults
	if len(faults) != 2 || faults[0].Filter != "NodePorts" || faults[1].Filter != "NodeResourcesFit" {
		t.Fatalf("%+v", faults)
	}
	if p := faults[0].Ports; len(p) != 1 || p[0].Holder.Name != "small" || p[0].Number != 80 {
		t.Errorf("the port is held by %+v", p)
	}
	s := faults[1].Shortages
	if len(s) != 1 || s[0].All != 2000 || s[0].Taken != 1200 || s[0].Promised != 300 || s[0].Free() != 500 || s[0].Asked != 600 {
		t.Fatalf("%+v", s)
	}
	if h := s[0].Holders; len(h) != 2 || h[0].Pod.Name != "large" || h[0].Takes != 1000 {
		t.Errorf("it is held by %+v", h)
	}
}
