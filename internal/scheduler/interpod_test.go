package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const aZone = corev1.LabelTopologyZone

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[key] = value
	}
}

func within(namespace string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Namespace = namespace }
}

// toward is a term about pods with app=NAME, in one value of the nodes' label.
func toward(app, key string, change ...func(*corev1.PodAffinityTerm)) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
	for _, c := range change {
		c(&t)
	}
	return t
}

func affinityOf(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	}
	return p.Spec.Affinity
}

func near(t ...corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		affinityOf(p).PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = t
	}
}

func away(t ...corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		affinityOf(p).PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = t
	}
}

func rather(weight int32, t corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := affinityOf(p)
		if weight > 0 {
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: t})
		} else {
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: -weight, PodAffinityTerm: t})
		}
	}
}

func spreadOver(key string, skew int32, when corev1.UnsatisfiableConstraintAction, change ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}}
		for _, f := range change {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

// town is three nodes in two zones: a1 and a2 in a, b1 in b; and c1 in none.
func town(pods ...*corev1.Pod) *Nodes {
	nodes := NewNodes()
	nodes.Namespaces = func(name string) map[string]string {
		return map[string]string{"team": strings.TrimSuffix(name, "-dev")}
	}
	for _, name := range []string{"a1", "a2", "b1"} {
		nodes.Set(aNode(name, "cpu=100 memory=100Gi", labelled(aZone, name[:1])))
	}
	nodes.Set(aNode("c1", "cpu=100 memory=100Gi"))
	for _, p := range pods {
		u := useOf(p)
		nodes.join(memberOf(p, u), nodes.add(p.Spec.NodeName, u))
	}
	return nodes
}

// fitting are the nodes that will do, and why the others will not.
func fitting(pod *corev1.Pod, nodes *Nodes) (names, reasons string) {
	n := NeedOf(pod)
	survey(n, nodes)
	var fit, why []string
	for _, name := range []string{"a1", "a2", "b1", "c1"} {
		node := nodes.byName[name]
		if f := refusing(n, node); f != nil {
			r, _ := f.why(n, node)
			why = append(why, r...)
			continue
		}
		fit = append(fit, name)
	}
	return strings.Join(fit, " "), strings.Join(why, "; ")
}

func TestWhoseNeighboursPodsAre(t *testing.T) {
	web := func(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
		return aPod(name, "cpu=1", append([]func(*corev1.Pod){on(node), label("app", "web")}, change...)...)
	}
	inTeam := func(t *corev1.PodAffinityTerm) {
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}
	}
	everywhere := func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} }
	of := func(names ...string) func(*corev1.PodAffinityTerm) {
		return func(t *corev1.PodAffinityTerm) { t.Namespaces = names }
	}
	same := func(t *corev1.PodAffinityTerm) { t.MatchLabelKeys = []string{"version"} }
	other := func(t *corev1.PodAffinityTerm) { t.MismatchLabelKeys = []string{"version"} }
	for name, c := range map[string]struct {
		pods []*corev1.Pod
		pod  *corev1.Pod
		want string
		why  string // one of the reasons
	}{
		"nobody asks for anything":                        {nil, aPod("p", ""), "a1 a2 b1 c1", ""},
		"near a pod in its zone":                          {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", near(toward("web", aZone))), "a1 a2", reasonNear},
		"near a pod on its node":                          {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", near(toward("web", corev1.LabelHostname))), "a1", reasonNear},
		"near a pod that is nowhere":                      {nil, aPod("p", "", near(toward("web", aZone))), "", reasonNear},
		"near its own kind, of which it is the first":     {nil, aPod("p", "", label("app", "web"), near(toward("web", aZone))), "a1 a2 b1", reasonNear},
		"near its own kind, of which there is one":        {[]*corev1.Pod{web("w", "b1")}, aPod("p", "", label("app", "web"), near(toward("web", aZone))), "b1", reasonNear},
		"near two that are in one place":                  {[]*corev1.Pod{web("w", "a1"), web("x", "b1"), aPod("d", "", on("a2"), label("app", "web"), label("tier", "db"))}, aPod("p", "", near(toward("web", aZone), corev1.PodAffinityTerm{TopologyKey: aZone, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "db"}}})), "a1 a2", reasonNear},
		"near a pod of another namespace is not near":     {[]*corev1.Pod{web("w", "a1", within("other"))}, aPod("p", "", near(toward("web", aZone))), "", reasonNear},
		"near a pod of a namespace that is named":         {[]*corev1.Pod{web("w", "a1", within("other"))}, aPod("p", "", near(toward("web", aZone, of("other")))), "a1 a2", reasonNear},
		"near a pod of a namespace that is selected":      {[]*corev1.Pod{web("w", "b1", within("shop-dev"))}, aPod("p", "", near(toward("web", aZone, inTeam))), "b1", reasonNear},
		"away from a pod in its zone":                     {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", away(toward("web", aZone))), "b1 c1", reasonAway},
		"away from a pod on its node":                     {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", away(toward("web", corev1.LabelHostname))), "a2 b1 c1", reasonAway},
		"away from pods of all namespaces":                {[]*corev1.Pod{web("w", "a1", within("x")), web("v", "b1", within("y"))}, aPod("p", "", away(toward("web", aZone, everywhere))), "c1", reasonAway},
		"another that wants it away":                      {[]*corev1.Pod{web("w", "a1", away(toward("p", aZone)))}, aPod("p", "", label("app", "p")), "b1 c1", reasonShunned},
		"another that wants others away":                  {[]*corev1.Pod{web("w", "a1", away(toward("q", aZone)))}, aPod("p", "", label("app", "p")), "a1 a2 b1 c1", ""},
		"another namespace's that wants its own away":     {[]*corev1.Pod{web("w", "a1", within("other"), away(toward("p", aZone)))}, aPod("p", "", label("app", "p")), "a1 a2 b1 c1", ""},
		"away from its own version only":                  {[]*corev1.Pod{web("w", "a1", label("version", "1")), web("x", "b1", label("version", "2"))}, aPod("p", "", label("version", "2"), away(toward("web", aZone, same))), "a1 a2 c1", reasonAway},
		"away from other versions":                        {[]*corev1.Pod{web("w", "a1", label("version", "1")), web("x", "b1", label("version", "2"))}, aPod("p", "", label("version", "2"), away(toward("web", aZone, other))), "b1 c1", reasonAway},
		"spread over zones, and one is ahead":             {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), "b1", reasonSkewed},
		"spread over zones, with room for one more":       {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 2, corev1.DoNotSchedule)), "a1 a2 b1", reasonUnlabeled},
		"spread over zones, that are even":                {[]*corev1.Pod{web("w", "a1"), web("x", "b1")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), "a1 a2 b1", reasonUnlabeled},
		"spread over nodes":                               {[]*corev1.Pod{web("w", "a1"), web("x", "b1")}, aPod("p", "", label("app", "web"), spreadOver(corev1.LabelHostname, 1, corev1.DoNotSchedule)), "a2 c1", reasonSkewed},
		"spread over more zones than there are":           {[]*corev1.Pod{web("w", "a1"), web("x", "b1")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.MinDomains = new(int32(3)) })), "", reasonSkewed},
		"pods of another namespace do not count":          {[]*corev1.Pod{web("w", "a1", within("other"))}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), "a1 a2 b1", reasonUnlabeled},
		"pods that are being deleted do not count":        {[]*corev1.Pod{web("w", "a1", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.DoNotSchedule)), "a1 a2 b1", reasonUnlabeled},
		"nodes that its selector leaves out do not count": {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "web"), selecting(aZone, "a"), spreadOver(aZone, 1, corev1.DoNotSchedule)), "a1 a2", ""},
		"unless they are to":                              {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "web"), selecting(aZone, "a"), spreadOver(aZone, 1, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore) })), "", reasonSkewed},
		"a wish to be spread refuses nobody":              {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.ScheduleAnyway)), "a1 a2 b1 c1", ""},
		"a pod that is not of those counted adds nothing": {[]*corev1.Pod{web("w", "a1")}, aPod("p", "", label("app", "other"), spreadOver(aZone, 1, corev1.DoNotSchedule, func(c *corev1.TopologySpreadConstraint) { c.LabelSelector.MatchLabels["app"] = "web" })), "a1 a2 b1", reasonUnlabeled},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := fitting(c.pod, town(c.pods...))
			if got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("it fits on %q, wanted %q; the others: %s", got, c.want, why)
			}
		})
	}
}

func TestWherePodsWouldRatherBe(t *testing.T) {
	web := func(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
		return aPod(name, "", append([]func(*corev1.Pod){on(node), label("app", "web")}, change...)...)
	}
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "rs", Controller: new(true)}}
	}
	for name, c := range map[string]struct {
		pods []*corev1.Pod
		pod  *corev1.Pod
		want string // one of these
	}{
		"rather near":                        {[]*corev1.Pod{web("w", "b1")}, aPod("p", "", rather(10, toward("web", corev1.LabelHostname))), "b1"},
		"rather away":                        {[]*corev1.Pod{web("w", "a1"), web("x", "b1"), web("y", "c1")}, aPod("p", "", rather(-10, toward("web", corev1.LabelHostname))), "a2"},
		"another would rather have it":       {[]*corev1.Pod{web("w", "b1", rather(10, toward("p", aZone)))}, aPod("p", "", label("app", "p")), "b1"},
		"another must have it, and has it":   {[]*corev1.Pod{web("w", "b1", near(toward("p", aZone)))}, aPod("p", "", label("app", "p")), "b1"},
		"a wish to be spread over zones":     {[]*corev1.Pod{web("w", "a1"), web("x", "a2")}, aPod("p", "", label("app", "web"), spreadOver(aZone, 1, corev1.ScheduleAnyway)), "b1"},
		"siblings are spread without a word": {[]*corev1.Pod{web("w", "a1", owned), web("x", "b1", owned), web("y", "c1", owned)}, aPod("p", "", label("app", "web"), selecting(aZone, "a"), owned), "a2"},
	} {
		t.Run(name, func(t *testing.T) {
			node, refusal := Pick(NeedOf(c.pod), town(c.pods...))
			if refusal != nil {
				t.Fatal(refusal)
			}
			if node.Name != c.want {
				t.Errorf("it goes to %s, wanted %s", node.Name, c.want)
			}
		})
	}
}

func TestAnImageDrawsPodsToWhereItIs(t *testing.T) {
	nodes := NewNodes()
	for _, name := range []string{"a", "b"} {
		nodes.Set(aNode(name, "cpu=100 memory=100Gi", func(n *corev1.Node) {
			if name == "b" {
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"big:latest", "big@sha256:1"}, SizeBytes: 4 << 30}}
			}
		}))
	}
	for i := range 5 {
		pod := aPod(fmt.Sprint("p", i), "", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "big" })
		if node, refusal := Pick(NeedOf(pod), nodes); refusal != nil || node.Name != "b" {
			t.Errorf("%s goes to %v %v", pod.Name, node, refusal)
		}
	}
}

// What a long series of joins and parts leaves is what counting anew gives.
func TestMembersAreCountedOnce(t *testing.T) {
	nodes := town()
	pod := aPod("p", "cpu=1", on("a1"), label("app", "web"), away(toward("web", aZone)), func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "rs", Controller: new(true)}}
	})
	node := nodes.byName["a1"]
	for range 3 {
		nodes.join(memberOf(pod, useOf(pod)), node)
		if len(node.members) != 1 || len(nodes.demanding) != 1 || node.owners["rs"] != 1 {
			t.Errorf("joined: %v %v %v", node.members, nodes.demanding, node.owners)
		}
		nodes.part(keyOf(pod), node)
		nodes.part(keyOf(pod), node)
		if len(node.members)+len(nodes.demanding)+len(node.owners) != 0 {
			t.Errorf("parted: %v %v %v", node.members, nodes.demanding, node.owners)
		}
	}
}

func TestBrothersAreSpreadWhereOnlySomeNodesSayTheirZone(t *testing.T) {
	nodes := NewNodes()
	nodes.Set(aNode("a", "cpu=100 memory=100Gi"))
	nodes.Set(aNode("b", "cpu=100 memory=100Gi", labelled(aZone, "z")))
	nodes.Set(aNode("c", "cpu=100 memory=100Gi"))
	for i := range 6 {
		pod := aPod(fmt.Sprint("p", i), "", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: "rs", Controller: new(true)}}
		})
		node, refusal := Pick(NeedOf(pod), nodes)
		if refusal != nil {
			t.Fatal(refusal)
		}
		nodes.join(memberOf(pod, useOf(pod)), nodes.add(node.Name, useOf(pod)))
	}
	for _, node := range nodes.list {
		if len(node.members) != 2 {
			t.Errorf("%s has %d of 6", node.Name, len(node.members))
		}
	}
}
