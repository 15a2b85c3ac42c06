package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Unix(1000, 0)

func newSet(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent", UID: "u", Generation: 1, Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "4"}},
		Spec: appsv1.DaemonSetSpec{
			Selector: metav1.SetAsLabelSelector(map[string]string{"app": "agent"}),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "agent"}}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "main", Image: "agent"}},
			}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0)),
			}},
			RevisionHistoryLimit: new(int32(10)),
		},
	}
	for _, c := range change {
		c(ds)
	}
	return ds
}

func rolling(unavailable, surge intstr.IntOrString) func(*appsv1.DaemonSet) {
	return func(ds *appsv1.DaemonSet) {
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &surge}
	}
}

func surging(n int32) func(*appsv1.DaemonSet) {
	return rolling(intstr.FromInt32(0), intstr.FromInt32(n))
}

func onDelete(ds *appsv1.DaemonSet) {
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
}

// node is made of words: its name, and labels and taints.
func node(words string) *corev1.Node {
	fields := strings.Fields(words)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fields[0], Labels: map[string]string{}}}
	for _, word := range fields[1:] {
		if key, value, ok := strings.Cut(word, "="); ok {
			n.Labels[key] = value
			continue
		}
		key, effect, _ := strings.Cut(word, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

func nodes(words ...string) (all []*corev1.Node) {
	for _, w := range words {
		all = append(all, node(w))
	}
	return all
}

// pod is made of words: its name, its node, and what is particular; one without words is ready and of an old template.
func pod(words string) *corev1.Pod {
	fields := strings.Fields(words)
	p := newPod(newSet(), "old", fields[1])
	p.Name, p.UID, p.Spec.NodeName, p.CreationTimestamp = fields[0], "x", fields[1], metav1.NewTime(now.Add(-time.Hour))
	p.Labels[generationLabel] = "3"
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}
	p.Status.Phase = corev1.PodRunning
	for _, word := range fields[2:] {
		switch word {
		case "new":
			p.Labels["controller-revision-hash"], p.Labels[generationLabel] = "new", "4"
		case "waiting":
			p.Spec.NodeName, p.Status.Phase, ready.Status = "", corev1.PodPending, corev1.ConditionFalse
		case "unready":
			ready.Status = corev1.ConditionFalse
		case "fresh":
			ready.LastTransitionTime = metav1.NewTime(now)
		case "failed":
			p.Status.Phase, ready.Status = corev1.PodFailed, corev1.ConditionFalse
		case "succeeded":
			p.Status.Phase, ready.Status = corev1.PodSucceeded, corev1.ConditionFalse
		case "deleting":
			p.DeletionTimestamp = new(metav1.NewTime(now))
		case "younger":
			p.CreationTimestamp = metav1.NewTime(now)
		default:
			panic(word)
		}
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
	return p
}

func pods(words ...string) (all []*corev1.Pod) {
	for _, w := range words {
		all = append(all, pod(w))
	}
	return all
}

func show(p Plan) string {
	var parts []string
	for _, n := range p.Create {
		parts = append(parts, "+"+n)
	}
	for _, d := range p.Delete {
		word := "-" + d.Name
		if slices.Contains(p.Failed, d) {
			word += "(failed)"
		}
		if slices.Contains(p.Ended, d) {
			word += "(ended)"
		}
		parts = append(parts, word)
	}
	if p.Again > 0 {
		parts = append(parts, "again in "+p.Again.String())
	}
	return strings.Join(parts, " ")
}

func TestDecide(t *testing.T) {
	type changes []func(*appsv1.DaemonSet)
	three := nodes("n1", "n2", "n3")
	selecting := func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	minReady := func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 10 }
	for name, c := range map[string]struct {
		set   changes
		nodes []*corev1.Node
		pods  []*corev1.Pod
		want  string
	}{
		"each node gets one":                                  {nil, three, nil, "+n1 +n2 +n3"},
		"each has one":                                        {nil, three, pods("a n1 new", "b n2 new", "c n3 new waiting"), ""},
		"only those that are selected":                        {changes{selecting}, nodes("n1 disk=ssd", "n2"), nil, "+n1"},
		"one that is selected no more loses its pod":          {changes{selecting}, nodes("n1", "n2 disk=ssd"), pods("a n1 new", "b n2 new"), "-a"},
		"a taint keeps new ones out, not those there":         {nil, nodes("n1 x:NoSchedule", "n2 x:NoSchedule"), pods("a n1 new"), ""},
		"a taint that drives out":                             {nil, nodes("n1 x:NoExecute"), pods("a n1 new"), "-a"},
		"a taint that only asks":                              {nil, nodes("n1 x:PreferNoSchedule"), nil, "+n1"},
		"troubles of nodes are lived through":                 {nil, nodes("n1 node.kubernetes.io/not-ready:NoExecute", "n2 node.kubernetes.io/unschedulable:NoSchedule node.kubernetes.io/disk-pressure:NoSchedule"), nil, "+n1 +n2"},
		"no network is lived through on the node's own":       {changes{func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.HostNetwork = true }}, nodes("n1 node.kubernetes.io/network-unavailable:NoSchedule"), nil, "+n1"},
		"no network is not lived through else":                {nil, nodes("n1 node.kubernetes.io/network-unavailable:NoSchedule"), nil, ""},
		"two on a node: the younger goes":                     {nil, nodes("n1"), pods("a n1 new younger", "b n1 new"), "-a"},
		"two on a node: the one that is not bound goes":       {nil, nodes("n1"), pods("a n1 new waiting", "b n1 new younger"), "-a"},
		"one is being deleted: its successor waits":           {nil, nodes("n1"), pods("a n1 new deleting"), ""},
		"one that failed and is being deleted is no obstacle": {nil, nodes("n1"), pods("a n1 new failed deleting"), "+n1"},
		"one failed":    {nil, nodes("n1"), pods("a n1 new failed"), "-a(failed)"},
		"one succeeded": {nil, nodes("n1"), pods("a n1 new succeeded"), "-a(ended)"},
		"one failed on a node where others failed lately":        {nil, nodes("bad"), pods("a bad new failed"), "again in 4s"},
		"its node is gone: one that waits for it goes":           {nil, nodes("n1"), pods("a n1 new", "b gone new waiting", "c gone new"), "-b"},
		"another template: one at a time":                        {nil, three, pods("a n1", "b n2", "c n3"), "-a"},
		"another template: the next waits for the first":         {nil, three, pods("a n1 new unready", "b n2", "c n3"), ""},
		"another template: the next waits until it is available": {changes{minReady}, three, pods("a n1 new fresh", "b n2", "c n3"), ""},
		"another template: one that is going counts":             {nil, three, pods("a n1 deleting", "b n2", "c n3"), ""},
		"another template: broken old ones go at once":           {nil, three, pods("a n1 unready", "b n2 unready", "c n3"), "-a -b"},
		"another template, half unavailable, rounded up":         {changes{rolling(intstr.FromString("50%"), intstr.FromInt32(0))}, three, pods("a n1", "b n2", "c n3"), "-a -b"},
		"a missing pod comes before an update":                   {nil, three, pods("a n1", "b n2"), "+n3"},
		"OnDelete: old ones stay":                                {changes{onDelete}, three, pods("a n1", "b n2", "c n3"), ""},
		"surge: new ones beside old ones":                        {changes{surging(2)}, three, pods("a n1", "b n2", "c n3"), "+n1 +n2"},
		"surge: no more while one is not available":              {changes{surging(1)}, three, pods("a n1", "d n1 new unready", "b n2", "c n3"), ""},
		"surge: the old one goes once the new one is available":  {changes{surging(1)}, three, pods("a n1", "d n1 new", "b n2", "c n3"), "-a"},
		"surge: a broken old one costs nothing":                  {changes{surging(1)}, three, pods("a n1 unready", "b n2", "c n3"), "+n1 +n2"},
		"surge: an old one that breaks goes":                     {changes{surging(1)}, three, pods("a n1 unready", "d n1 new unready", "b n2", "c n3"), "-a"},
		"surge: a third pod goes":                                {changes{surging(1)}, nodes("n1"), pods("a n1", "b n1 younger", "c n1 new unready"), "-b"},
		"surge: a node whose pod is going gets one at once":      {changes{surging(1)}, nodes("n1"), pods("a n1 deleting"), "+n1"},
		"surge: one that failed lately is waited for":            {changes{surging(1)}, nodes("bad"), pods("a bad new failed"), "again in 4s"},
		"surge: a pod leaves its node when there are enough":     {changes{surging(1)}, nodes("n1 x:NoSchedule", "n2"), pods("a n1", "b n2 new"), "-a"},
		"surge: a pod stays while there are too few":             {changes{surging(1)}, nodes("n1 x:NoSchedule", "n2"), pods("a n1", "b n2 new unready"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			wait := func(node string) time.Duration {
				if node == "bad" {
					return 4 * time.Second
				}
				return 0
			}
			got := show(Decide(State{Set: newSet(c.set...), Hash: "new", Nodes: c.nodes, Pods: c.pods, Now: now, Wait: wait}))
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestAPodIsMadeForOneNode(t *testing.T) {
	ds := newSet(func(ds *appsv1.DaemonSet) {
		s := &ds.Spec.Template.Spec
		s.Tolerations = []corev1.Toleration{{Key: "mine", Operator: "Exists"}, {Key: corev1.TaintNodeNotReady, Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(5))}}
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}},
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1}},
		}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	})
	before := ds.DeepCopy()
	p := newPod(ds, "hash", "n7")
	terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || fmt.Sprint(terms[0]) != fmt.Sprint(corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"n7"}}}}) {
		t.Errorf("%+v", terms)
	}
	if len(p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) != 1 || p.Spec.Affinity.PodAntiAffinity == nil || nodeOf(p) != "n7" {
		t.Errorf("%+v", p.Spec.Affinity)
	}
	var keys []string
	for _, toleration := range p.Spec.Tolerations {
		keys = append(keys, strings.TrimPrefix(toleration.Key, "node.kubernetes.io/")+":"+string(toleration.Effect))
		if toleration.TolerationSeconds != nil {
			t.Errorf("%s is tolerated for a while only", toleration.Key)
		}
	}
	want := "mine: not-ready:NoExecute unreachable:NoExecute disk-pressure:NoSchedule memory-pressure:NoSchedule pid-pressure:NoSchedule unschedulable:NoSchedule"
	if got := strings.Join(keys, " "); got != want {
		t.Error(got)
	}
	if p.Labels["controller-revision-hash"] != "hash" || p.Labels["pod-template-generation"] != "4" || p.GenerateName != "agent-" || !metav1.IsControlledBy(p, ds) {
		t.Errorf("%+v", p.ObjectMeta)
	}
	if !equality.Semantic.DeepEqual(before, ds) {
		t.Error("the set was changed")
	}
	if nodeOf(&corev1.Pod{}) != "" || nodeOf(&corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1", Affinity: p.Spec.Affinity}}) != "n1" {
		t.Error("the node of a pod is another one")
	}
	fixed := FitOf(newSet(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeName = "n1" }))
	if run, _ := fixed.On(node("n2")); run {
		t.Error("a template that names a node runs on another one")
	}
}

func TestCount(t *testing.T) {
	ds := newSet(func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds, ds.Generation = 10, 3 })
	s, again := Count(State{
		Set: ds, Hash: "new", Now: now, Nodes: nodes("n1", "n2", "n3", "n4", "n5 x:NoSchedule", "n6 x:NoSchedule"),
		Pods: pods("a n1 new", "b n2 new fresh", "c n3 unready", "d n5", "e n1 younger", "f gone"),
	})
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: 3, DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberMisscheduled: 1, NumberReady: 2, UpdatedNumberScheduled: 2,
		NumberAvailable: 1, NumberUnavailable: 3,
	}
	if s.String() != want.String() || again != 10*time.Second {
		t.Errorf("%+v, again in %s", s, again)
	}
}
