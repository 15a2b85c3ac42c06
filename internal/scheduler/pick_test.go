package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/scheduler/profile"
)

// standard is the default profile.
var standard = NewPlans(profile.Default())

// NeedOf is what the pod asks for, by the default profile.
func NeedOf(pod *corev1.Pod) *Need { return standard.Need(pod) }

// list reads "cpu=2 memory=1Gi" as resources.
func list(words string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, word := range strings.Fields(words) {
		name, quantity, _ := strings.Cut(word, "=")
		l[corev1.ResourceName(name)] = resource.MustParse(quantity)
	}
	return l
}

func aNode(name, allocatable string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status:     corev1.NodeStatus{Allocatable: list("pods=110 " + allocatable)},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func tainted(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func labelled(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func aPod(name, requests string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			SchedulerName: Name,
			Containers:    []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Requests: list(requests)}}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func hostPort(ip string, number int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.Ports = append(c.Ports, corev1.ContainerPort{HostIP: ip, HostPort: number, ContainerPort: number, Protocol: protocol})
	}
}

func tolerating(t corev1.Toleration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func selecting(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func affine(required *corev1.NodeSelector, preferred ...corev1.PreferredSchedulingTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: required, PreferredDuringSchedulingIgnoredDuringExecution: preferred,
		}}
	}
}

func nodeTerm(key string, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}
}

func asking(key string, op corev1.NodeSelectorOperator, values ...string) *corev1.NodeSelector {
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}}}
}

func byNodeName(names ...string) *corev1.NodeSelector {
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: names}},
	}}}
}

func cluster(objects ...any) *Nodes {
	nodes := NewNodes()
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			nodes.Set(o)
		case *corev1.Pod:
			nodes.add(o.Spec.NodeName, useOf(o))
		}
	}
	return nodes
}

func TestPick(t *testing.T) {
	taint := corev1.TaintEffectNoSchedule
	for _, c := range []struct {
		name  string
		nodes *Nodes
		pod   *corev1.Pod
		node  string // picked, or
		why   string // not
	}{
		{
			"there are no nodes", cluster(), aPod("a", ""), "",
			"no nodes available to schedule pods",
		},
		{"the only node that fits is taken", cluster(aNode("n1", "cpu=1 memory=1Gi"), aNode("n2", "cpu=4 memory=1Gi")), aPod("a", "cpu=2"), "n2", ""},
		{
			"a tainted node and two that are too small",
			cluster(aNode("n1", "cpu=8", tainted("key", "value", taint)), aNode("n2", "cpu=1"), aNode("n3", "cpu=1")),
			aPod("a", "cpu=2"), "",
			"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
		},
		{
			"a node that is full now, but not too small, would need victims",
			cluster(aNode("n1", "cpu=2 memory=4Gi"), aPod("x", "cpu=1500m", on("n1")), aNode("n2", "cpu=4", cordoned)),
			aPod("a", "cpu=1 memory=5Gi", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("cpu=1") }), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
		},
		{
			"all that is lacking on a node is named",
			cluster(aNode("n1", "cpu=1 memory=1Gi ephemeral-storage=1Gi example.com/gpu=1")),
			aPod("a", "cpu=2 memory=2Gi ephemeral-storage=2Gi example.com/gpu=2"), "",
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu, 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		{
			"a node takes as many pods as it says",
			cluster(aNode("n1", "cpu=4", func(n *corev1.Node) { n.Status.Allocatable["pods"] = resource.MustParse("1") }), aPod("x", "", on("n1"))),
			aPod("a", ""), "",
			"0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
		},
		{
			"a pod that never preempts says so",
			cluster(aNode("n1", "cpu=1")),
			aPod("a", "cpu=2", func(p *corev1.Pod) { never := corev1.PreemptNever; p.Spec.PreemptionPolicy = &never }), "",
			"0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
		},
		{"a toleration opens a tainted node", cluster(aNode("n1", "", tainted("k", "v", taint))), aPod("a", "", tolerating(corev1.Toleration{Key: "k", Operator: "Equal", Value: "v"})), "n1", ""},
		{
			"a toleration of another value does not", cluster(aNode("n1", "", tainted("k", "v", corev1.TaintEffectNoExecute))),
			aPod("a", "", tolerating(corev1.Toleration{Key: "k", Operator: "Equal", Value: "w"})), "",
			"0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		{"a cordoned node takes pods that tolerate it", cluster(aNode("n1", "", cordoned)), aPod("a", "", tolerating(corev1.Toleration{Operator: "Exists"})), "n1", ""},
		{
			"the selector matches no node", cluster(aNode("n1", ""), aNode("n2", "")), aPod("a", "", selecting("disk", "ssd")), "",
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
		},
		{"the selector matches a node", cluster(aNode("n1", ""), aNode("n2", "", labelled("disk", "ssd"))), aPod("a", "", selecting("disk", "ssd")), "n2", ""},
		{
			"required affinity matches a node", cluster(aNode("n1", "", labelled("zone", "a")), aNode("n2", "", labelled("zone", "b"))),
			aPod("a", "", affine(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{nodeTerm("zone", "b", "c")}})), "n2", "",
		},
		{"a toleration of another effect does not open a node", cluster(aNode("n1", "", tainted("k", "", taint))), aPod("a", "", tolerating(corev1.Toleration{Key: "k", Operator: "Exists", Effect: "NoExecute"})), "", "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"a toleration of every key opens any", cluster(aNode("n1", "", tainted("k", "v", taint), tainted("l", "", corev1.TaintEffectNoExecute))), aPod("a", "", tolerating(corev1.Toleration{Operator: "Exists"})), "n1", ""},
		{"a label has to be greater", cluster(aNode("n1", "", labelled("gen", "3")), aNode("n2", "", labelled("gen", "5"))), aPod("a", "", affine(asking("gen", corev1.NodeSelectorOpGt, "4"))), "n2", ""},
		{"a label has to be less", cluster(aNode("n1", "", labelled("gen", "3")), aNode("n2", "", labelled("gen", "5"))), aPod("a", "", affine(asking("gen", corev1.NodeSelectorOpLt, "4"))), "n1", ""},
		{"a label must not be there", cluster(aNode("n1", "", labelled("gen", "3")), aNode("n2", "")), aPod("a", "", affine(asking("gen", corev1.NodeSelectorOpDoesNotExist))), "n2", ""},
		{"a node is left out by its name", cluster(aNode("n1", ""), aNode("n2", "")), aPod("a", "", affine(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"n1"}}}}}})), "n2", ""},
		{"two names at once are no node's", cluster(aNode("n1", ""), aNode("n2", "")), aPod("a", "", affine(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: slices.Concat(byNodeName("n1").NodeSelectorTerms[0].MatchFields, byNodeName("n2").NodeSelectorTerms[0].MatchFields)}}})), "", "0/2 nodes are available: pod affinity terms conflict. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"of several terms one has to hold", cluster(aNode("n1", "", labelled("gen", "3")), aNode("n2", "")), aPod("a", "", affine(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{nodeTerm("gen", "9"), nodeTerm("gen", "3")}})), "n1", ""},
		{"a term that is empty matches nothing", cluster(aNode("n1", "")), aPod("a", "", affine(&corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}})), "", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"huge pages are a resource like others", cluster(aNode("n1", "cpu=9 hugepages-2Mi=4Mi"), aPod("x", "hugepages-2Mi=4Mi cpu=1", on("n1")), aNode("n2", "cpu=1 hugepages-2Mi=4Mi")), aPod("a", "hugepages-2Mi=2Mi cpu=1"), "n2", ""},
		{"a pod as a whole may ask for more than its containers", cluster(aNode("n1", "cpu=2"), aNode("n2", "cpu=4")), aPod("a", "cpu=1", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=3")}
		}), "n2", ""},
		{"overhead is asked for, too", cluster(aNode("n1", "cpu=2"), aNode("n2", "cpu=4")), aPod("a", "cpu=1500m", func(p *corev1.Pod) { p.Spec.Overhead = list("cpu=1") }), "n2", ""},
		{"the port of an init container is free once it has ended", cluster(aNode("n1", ""), aPod("x", "", on("n1"), hostPort("", 80, "TCP"))), aPod("a", "", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: 80, Protocol: "TCP"}}}}
		}), "n1", ""},
		{"affinity by name looks at that node alone", cluster(aNode("n1", ""), aNode("n2", "")), aPod("a", "", affine(byNodeName("n2"))), "n2", ""},
		{
			"affinity by name to a node that is too small", cluster(aNode("n1", "cpu=9"), aNode("n2", "cpu=1"), aNode("n3", "cpu=9")), aPod("a", "cpu=2", affine(byNodeName("n2"))), "",
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
		},
		{
			"a port of the node is taken on all addresses",
			cluster(aNode("n1", ""), aPod("x", "", on("n1"), hostPort("", 80, "TCP"))), aPod("a", "", hostPort("10.0.0.1", 80, "TCP")), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
		},
		{"the same port of another protocol is free", cluster(aNode("n1", ""), aPod("x", "", on("n1"), hostPort("", 80, "TCP"))), aPod("a", "", hostPort("", 80, "UDP")), "n1", ""},
		{"the same port of another address is free", cluster(aNode("n1", ""), aPod("x", "", on("n1"), hostPort("10.0.0.2", 80, "TCP"))), aPod("a", "", hostPort("10.0.0.1", 80, "TCP")), "n1", ""},
		{"the emptier node is better", cluster(aNode("n1", "cpu=4 memory=4Gi"), aNode("n2", "cpu=4 memory=4Gi"), aPod("x", "cpu=1 memory=1Gi", on("n1"))), aPod("a", "cpu=1 memory=1Gi"), "n2", ""},
		{"a preferred node is better than an emptier one", cluster(aNode("n1", "cpu=4 memory=4Gi", labelled("disk", "ssd")), aNode("n2", "cpu=4 memory=4Gi"), aPod("x", "cpu=2 memory=2Gi", on("n1"))), aPod("a", "cpu=1", affine(nil, corev1.PreferredSchedulingTerm{Weight: 10, Preference: nodeTerm("disk", "ssd")})), "n1", ""},
		{"a node that would rather not is the last choice", cluster(aNode("n1", "cpu=4 memory=4Gi", tainted("k", "", corev1.TaintEffectPreferNoSchedule)), aNode("n2", "cpu=4 memory=4Gi"), aPod("x", "cpu=3 memory=3Gi", on("n2"))), aPod("a", "cpu=1"), "n2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, refusal := Pick(NeedOf(c.pod), c.nodes)
			switch {
			case node != nil && node.Name != c.node:
				t.Errorf("picked %s, want %q", node.Name, c.node)
			case node == nil && refusal.Error() != c.why:
				t.Errorf("got  %s\nwant %s", refusal.Error(), c.why)
			}
		})
	}
}

func TestWhatAPodAsksFor(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	container := func(requests string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(requests)}}
	}
	sidecar := func(requests string) corev1.Container {
		c := container(requests)
		c.RestartPolicy = &always
		return c
	}
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		cpu  int64
	}{
		{"containers are added up", corev1.PodSpec{Containers: []corev1.Container{container("cpu=1"), container("cpu=500m")}}, 1500},
		{"an init container runs alone", corev1.PodSpec{InitContainers: []corev1.Container{container("cpu=3"), container("cpu=2")}, Containers: []corev1.Container{container("cpu=1")}}, 3000},
		{"a sidecar runs beside the containers", corev1.PodSpec{InitContainers: []corev1.Container{sidecar("cpu=1")}, Containers: []corev1.Container{container("cpu=1")}}, 2000},
		{"an init container runs beside the sidecars before it", corev1.PodSpec{InitContainers: []corev1.Container{sidecar("cpu=1"), container("cpu=2")}, Containers: []corev1.Container{container("cpu=1")}}, 3000},
		{"overhead comes on top", corev1.PodSpec{Overhead: list("cpu=250m"), Containers: []corev1.Container{container("cpu=1")}}, 1250},
	} {
		t.Run(c.name, func(t *testing.T) {
			if asked, _ := requests(&corev1.Pod{Spec: c.spec}); asked.cpu != c.cpu {
				t.Errorf("%d thousandths of a core, want %d", asked.cpu, c.cpu)
			}
		})
	}
}

func TestEqualNodesTakeTurnsTheSameWayEachTime(t *testing.T) {
	first := map[string]string{}
	counts := map[string]int{}
	for round := range 2 {
		nodes := cluster(aNode("n1", "cpu=4 memory=8Gi"), aNode("n2", "cpu=4 memory=8Gi"), aNode("n3", "cpu=4 memory=8Gi"))
		for i := range 300 {
			name := fmt.Sprintf("web-%d", i)
			node, _ := Pick(NeedOf(aPod(name, "")), nodes)
			counts[node.Name]++
			if round == 0 {
				first[name] = node.Name
			} else if first[name] != node.Name {
				t.Fatalf("%s was given %s and then %s", name, first[name], node.Name)
			}
		}
	}
	for name, count := range counts {
		if count < 140 || count > 260 {
			t.Errorf("%s got %d of 600 pods", name, count)
		}
	}
}

// From any start, what is counted on a node is what its pods ask for, and no node is overfull.
func TestAccountsAlwaysAddUp(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		nodes := NewNodes()
		for i := range 5 {
			nodes.Set(aNode(fmt.Sprintf("n%d", i), fmt.Sprintf("cpu=%d memory=%dGi example.com/gpu=%d", 1+r.IntN(8), 1+r.IntN(8), r.IntN(3))))
		}
		type placed struct {
			node *Node
			use  use
		}
		var all []placed
		for i := range 200 {
			if len(all) > 0 && r.IntN(3) == 0 {
				k := r.IntN(len(all))
				nodes.take(all[k].node, all[k].use)
				all = append(all[:k], all[k+1:]...)
				continue
			}
			pod := aPod(fmt.Sprintf("p%d", i), fmt.Sprintf("cpu=%dm memory=%dMi example.com/gpu=%d", r.IntN(2000), r.IntN(2000), r.IntN(2)), hostPort("", int32(1+r.IntN(20)), "TCP"))
			need := NeedOf(pod)
			node, refusal := Pick(need, nodes)
			if (node == nil) != (refusal != nil) {
				t.Fatal("neither a node nor a reason")
			}
			if node == nil {
				for _, n := range nodes.list {
					if fits(need, n) {
						t.Fatalf("%s would have done", n.Name)
					}
				}
				continue
			}
			all = append(all, placed{nodes.add(node.Name, need.use), need.use})
		}
		for _, n := range nodes.list {
			var sum amounts
			var count int64
			for _, p := range all {
				if p.node == n {
					sum = sum.plus(p.use.asked, 1)
					count++
				}
			}
			if !sum.equal(n.used) || count != n.pods || int(count) != len(n.ports) {
				t.Fatalf("seed %d: %s counts %+v in %d pods with %d ports, its pods come to %+v in %d", seed, n.Name, n.used, n.pods, len(n.ports), sum, count)
			}
			if n.used.cpu > n.allocatable.cpu || n.used.memory > n.allocatable.memory || n.used.extended["example.com/gpu"] > n.allocatable.extended["example.com/gpu"] {
				t.Fatalf("seed %d: %s is overfull", seed, n.Name)
			}
		}
	}
}

func BenchmarkPickAmong500Nodes(b *testing.B) {
	nodes := NewNodes()
	for i := range 500 {
		nodes.Set(aNode(fmt.Sprintf("n%d", i), "cpu=32 memory=64Gi"))
	}
	pod := aPod("web", "cpu=100m memory=100Mi", tolerating(corev1.Toleration{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute"}))
	b.ReportAllocs()
	for b.Loop() {
		need := NeedOf(pod)
		node, _ := Pick(need, nodes)
		nodes.take(nodes.add(node.Name, need.use), need.use)
	}
}
