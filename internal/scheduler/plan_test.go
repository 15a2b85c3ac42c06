package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/scheduler/profile"
)

// mine is the one profile, default-scheduler, that a text says something of, as YAML in one line.
func mine(t *testing.T, text string) *Plans {
	t.Helper()
	c, err := profile.Parse([]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{" + text + "}]"))
	if err != nil {
		t.Fatal(err)
	}
	return NewPlans(c)
}

func args(plugin, args string) string {
	return "pluginConfig: [{name: " + plugin + ", args: " + args + "}]"
}

func TestEveryFilterIsKnownToProfiles(t *testing.T) {
	known := profile.FilterNames()
	for i := range filters {
		if !slices.Contains(known, filters[i].name) {
			t.Errorf("no profile can have the filter %s", filters[i].name)
		}
	}
	var order []string
	for _, f := range standard.byName[Name].filters {
		order = append(order, f.name)
	}
	for i := range filters {
		if i >= len(order) || filters[i].name != order[i] {
			t.Fatalf("the default profile asks %v, and not in the order of filters", order)
		}
	}
}

func TestWhatAProfileLikes(t *testing.T) {
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "rs", Controller: new(true)}}
	}
	for name, c := range map[string]struct {
		profile string
		nodes   []any
		pod     *corev1.Pod
		want    string // a node, or the sentence
	}{
		"the emptier node, without a word": {
			"", []any{aNode("a", "cpu=4 memory=4Gi"), aNode("b", "cpu=4 memory=4Gi"), aPod("x", "cpu=1 memory=1Gi", on("a"))}, aPod("p", "cpu=1 memory=1Gi"), "b",
		},
		"the fuller node, to be packed": {
			args("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated}}"),
			[]any{aNode("a", "cpu=4 memory=4Gi"), aNode("b", "cpu=4 memory=4Gi"), aPod("x", "cpu=1 memory=1Gi", on("a"))},
			aPod("p", "cpu=1 memory=1Gi"), "a",
		},
		"the node that is fuller of what counts": {
			args("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu, weight: 1}]}}"),
			[]any{aNode("a", "cpu=4 memory=4Gi example.com/gpu=8"), aNode("b", "cpu=4 memory=4Gi example.com/gpu=2"), aPod("x", "cpu=1 memory=1Gi", on("a"))},
			aPod("p", "cpu=1 memory=1Gi example.com/gpu=1"), "b",
		},
		"the node that the shape is highest at": {
			args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio, resources: [{name: cpu}], requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 50, score: 10}, {utilization: 100, score: 0}]}}}"),
			[]any{aNode("a", "cpu=10 memory=4Gi"), aNode("b", "cpu=10 memory=4Gi"), aPod("x", "cpu=4", on("a")), aPod("y", "cpu=8", on("b"))},
			aPod("p", "cpu=1"), "a",
		},
		"a resource that is ignored may be missing": {
			args("NodeResourcesFit", "{ignoredResources: [example.com/gpu], ignoredResourceGroups: [example.org]}"),
			[]any{aNode("a", "cpu=4")},
			aPod("p", "example.com/gpu=1 example.org/seat=3"), "a",
		},
		"others may not": {
			args("NodeResourcesFit", "{ignoredResources: [cpu], ignoredResourceGroups: [example.org]}"),
			[]any{aNode("a", "cpu=4")},
			aPod("p", "cpu=5 example.com/gpu=1 example.org/seat=3"),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		"a node of the profile's own": {
			args("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [x]}]}]}}}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=1", labelled("pool", "x"))},
			aPod("p", "cpu=1"), "b",
		},
		"none of its own": {
			args("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [x]}]}]}}}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=9", labelled("pool", "x"))},
			aPod("p", "", selecting("pool", "y")),
			"0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match scheduler-enforced node affinity. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
		},
		"a node that the profile prefers": {
			args("NodeAffinity", "{addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: pool, operator: Exists}]}}]}}"),
			[]any{aNode("a", "cpu=4 memory=4Gi"), aNode("b", "cpu=4 memory=4Gi", labelled("pool", "x")), aPod("x", "cpu=2 memory=2Gi", on("b"))},
			aPod("p", "cpu=1 memory=1Gi"), "b",
		},
		"a filter that is not there refuses nobody": {
			"plugins: {filter: {disabled: [{name: NodeUnschedulable}]}}", []any{aNode("a", "", cordoned)}, aPod("p", ""), "a",
		},
		"nobody is pushed out": {
			"plugins: {postFilter: {disabled: [{name: DefaultPreemption}]}}", []any{aNode("a", "cpu=1")}, aPod("p", "cpu=2"), "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"pods of one owner are spread, with force": {
			args("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}]}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=1"), aPod("x", "cpu=100m", owned, on("a"))},
			aPod("p", "cpu=100m", owned), "b",
		},
		"pods of one Service are spread, with force": {
			args("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}]}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=1"), aPod("x", "cpu=100m", label("app", "served"), on("a"))},
			aPod("p", "cpu=100m", label("app", "served")), "b",
		},
		"pods that nothing joins are not": {
			args("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}]}"),
			[]any{aNode("a", "cpu=9 memory=9Gi"), aNode("b", "cpu=1 memory=1Gi"), aPod("x", "cpu=100m", on("a"))},
			aPod("p", "cpu=100m memory=100Mi"), "a",
		},
		"pods of one Service are spread by the system, too": {
			"", []any{aNode("a", "cpu=9"), aNode("b", "cpu=9"), aPod("x", "", label("app", "served"), on("a"))}, aPod("p", "", label("app", "served")), "b",
		},
		"one near which another must be weighs what it is told to": {
			args("InterPodAffinity", "{hardPodAffinityWeight: 100}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=9"), aPod("x", "", on("a"), near(toward("p", corev1.LabelHostname))), aPod("y", "", on("b"), rather(10, toward("p", corev1.LabelHostname)))},
			aPod("p", "", label("app", "p")), "a",
		},
		"or nothing": {
			args("InterPodAffinity", "{hardPodAffinityWeight: 0}"),
			[]any{aNode("a", "cpu=9"), aNode("b", "cpu=9"), aPod("x", "", on("a"), near(toward("p", corev1.LabelHostname))), aPod("y", "", on("b"), rather(1, toward("p", corev1.LabelHostname)))},
			aPod("p", "", label("app", "p")), "b",
		},
		"what others wish is not asked": {
			args("InterPodAffinity", "{ignorePreferredTermsOfExistingPods: true}"),
			[]any{aNode("a", "cpu=9 memory=9Gi"), aNode("b", "cpu=9 memory=9Gi"), aPod("x", "cpu=5 memory=5Gi", on("a"), rather(100, toward("p", corev1.LabelHostname)))},
			aPod("p", "cpu=1 memory=1Gi", label("app", "p")), "b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := NewNodes()
			for _, o := range c.nodes {
				switch o := o.(type) {
				case *corev1.Node:
					nodes.Set(o)
				case *corev1.Pod:
					placing(nodes, o)
				}
			}
			plans := mine(t, c.profile)
			plans.Services = func(string) []labels.Selector {
				return []labels.Selector{labels.SelectorFromSet(labels.Set{"app": "served"}), labels.SelectorFromSet(labels.Set{"app": "other"})}
			}
			node, refusal := Pick(plans.Need(c.pod), nodes)
			got := ""
			if refusal != nil {
				got = refusal.Error()
			} else {
				got = node.Name
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFigures(t *testing.T) {
	shape := []profile.Point{{Use: 20, Score: 2}, {Use: 60, Score: 10}, {Use: 100, Score: 0}}
	for use, want := range map[int64]int64{0: 20, 20: 20, 40: 60, 60: 100, 80: 50, 100: 0} {
		if got := along(shape, use); got != want {
			t.Errorf("at a use of %d the score is %d, wanted %d", use, got, want)
		}
	}
	for _, c := range []struct {
		shares []float64
		want   int64
	}{{nil, 100}, {[]float64{0.7}, 100}, {[]float64{0.5, 0.5}, 100}, {[]float64{1, 0}, 50}, {[]float64{0.2, 0.5, 0.8}, 75}} {
		sum := 0.0
		for _, s := range c.shares {
			sum += s
		}
		if got := deviation(c.shares, sum); got != c.want {
			t.Errorf("shares %v are balanced to %d, wanted %d", c.shares, got, c.want)
		}
	}
	for _, c := range []struct{ nodes, percent, want int }{{50, 0, 50}, {50, 10, 50}, {1000, 0, 420}, {5000, 0, 500}, {10000, 0, 500}, {1000, 5, 100}, {1000, 30, 300}, {1000, 100, 1000}} {
		if got := feasibleEnough(c.nodes, c.percent); got != c.want {
			t.Errorf("of %d nodes, at %d per cent, %d are enough, wanted %d", c.nodes, c.percent, got, c.want)
		}
	}
	q := newQueue(2*time.Second, 9*time.Second)
	for attempts, want := range []time.Duration{0, 0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 9 * time.Second, 9 * time.Second} {
		if got := q.backoffOf(&waiting{attempts: attempts}); got != want {
			t.Errorf("after %d attempts it waits %v, wanted %v", attempts, got, want)
		}
	}
}

// voice records what is told, after the name of who tells it.
type voice struct {
	name string
	to   *world
}

func (v voice) Record(o runtime.Object, kind, reason, message string) {
	v.to.Record(o, v.name+" "+kind, reason, message)
}

func TestProfilesSpeakInTheirOwnName(t *testing.T) {
	c, err := profile.Parse([]byte(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{schedulerName: default-scheduler}, {schedulerName: packer}]`))
	if err != nil {
		t.Fatal(err)
	}
	liveWith(t, func(w *world) Config {
		return Config{Source: w, API: w, Profiles: c, Recorder: func(name string) Recorder { return voice{name, w} }}
	}, func(t *testing.T, w *world) {
		of := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.SchedulerName = name } }
		w.put(aNode("n1", "cpu=2"), aPod("a", "cpu=1", of("")), aPod("b", "cpu=1", of("packer")), aPod("c", "", of("nobody")))
		w.told()
		w.put(aPod("d", "cpu=1", of("packer")))
		lines := w.told("PodScheduled")
		if len(lines) != 1 || !strings.Contains(lines[0], "packer Warning FailedScheduling 0/1 nodes") {
			t.Errorf("of d is told %q", lines)
		}
		for name, want := range map[string]string{"a": "n1", "b": "n1", "c": ""} {
			if got := w.Pod(loop.Key{Namespace: "shop", Name: name}).Spec.NodeName; got != want {
				t.Errorf("%s is on %q, wanted %q", name, got, want)
			}
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, size := range []int{500, 1000, 5000} {
		b.Run(fmt.Sprint(size, " nodes"), func(b *testing.B) {
			nodes := NewNodes()
			for i := range size {
				nodes.Set(aNode(fmt.Sprintf("n%d", i), "cpu=32 memory=64Gi"))
			}
			pod := aPod("web", "cpu=100m memory=100Mi")
			b.ReportAllocs()
			for b.Loop() {
				need := NeedOf(pod)
				node, _ := Pick(need, nodes)
				nodes.take(nodes.add(node.Name, need.use), need.use)
			}
		})
	}
}
