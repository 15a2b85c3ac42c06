package replicaset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

var (
	now  = time.Unix(1_000_000, 0)
	kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	web  = map[string]string{"app": "web"}
)

func newSet(replicas int32) *Set {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "rs", Generation: 1}}
	return &Set{
		Object: rs, Kind: kind, Replicas: replicas, Selector: labels.SelectorFromSet(web), Status: &rs.Status, CountsTerminating: true,
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}},
	}
}

// newPod makes a pod of the set that runs and is ready for an hour, and changes it.
func newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.NewTime(now.Add(-2 * time.Hour)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "n1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour)),
		}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func unready(p *corev1.Pod)  { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func pending(p *corev1.Pod)  { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }
func unbound(p *corev1.Pod)  { pending(p); p.Spec.NodeName = "" }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func ending(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: now} }
func relabel(p *corev1.Pod)  { p.Labels["app"] = "debug" }
func orphaned(p *corev1.Pod) { p.OwnerReferences = nil }
func foreign(p *corev1.Pod)  { p.OwnerReferences[0].UID = "other" }
func restarted(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}}
}

func cost(n string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: n} }
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func readyFor(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}

func aged(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}

func names(pods []*corev1.Pod) string {
	all := make([]string, len(pods))
	for i, p := range pods {
		all[i] = p.Name
	}
	return strings.Join(all, " ")
}

func (p Plan) String() string {
	var s []string
	if p.Create > 0 {
		s = append(s, fmt.Sprintf("create %d", p.Create))
	}
	for what, pods := range map[string][]*corev1.Pod{"adopt": p.Adopt, "release": p.Release, "delete": p.Delete} {
		if len(pods) > 0 {
			s = append(s, what+" "+names(pods))
		}
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int32
		pods     []*corev1.Pod
		deleting bool
		want     string
	}{
		"there are none: all are made":                {replicas: 3, want: "create 3"},
		"more than a pass makes: so many":             {replicas: 5000, want: "create 500"},
		"as many as wanted: nothing":                  {replicas: 1, pods: []*corev1.Pod{newPod("a")}},
		"a failed one is replaced":                    {replicas: 1, pods: []*corev1.Pod{newPod("a", failed)}, want: "create 1"},
		"one that is ending is replaced at once":      {replicas: 1, pods: []*corev1.Pod{newPod("a", ending)}, want: "create 1"},
		"a relabelled one is let go and replaced":     {replicas: 1, pods: []*corev1.Pod{newPod("a", relabel)}, want: "create 1, release a"},
		"an orphan is taken in, and counts":           {replicas: 2, pods: []*corev1.Pod{newPod("a", orphaned)}, want: "adopt a, create 1"},
		"one of another set is not":                   {replicas: 1, pods: []*corev1.Pod{newPod("a", foreign)}, want: "create 1"},
		"an orphan too many is taken in and deleted":  {replicas: 1, pods: []*corev1.Pod{newPod("a"), newPod("b", orphaned, pending)}, want: "adopt b, delete b"},
		"the set is being deleted: pods are left":     {replicas: 3, pods: []*corev1.Pod{newPod("a", relabel)}, deleting: true},
		"none are wanted: all go":                     {pods: []*corev1.Pod{newPod("a"), newPod("b")}, want: "delete a b"},
		"unassigned ones go first":                    {replicas: 1, pods: []*corev1.Pod{newPod("a", pending), newPod("b", unbound)}, want: "delete b"},
		"pending ones before running ones":            {replicas: 1, pods: []*corev1.Pod{newPod("a", unready), newPod("b", pending, on("n2"))}, want: "delete b"},
		"unready ones before ready ones":              {replicas: 1, pods: []*corev1.Pod{newPod("a", cost("-5")), newPod("b", unready)}, want: "delete b"},
		"cheap ones first":                            {replicas: 1, pods: []*corev1.Pod{newPod("a", cost("2")), newPod("b", cost("1"))}, want: "delete b"},
		"a cost that is no number is none":            {replicas: 1, pods: []*corev1.Pod{newPod("a", cost("much")), newPod("b", cost("-1"))}, want: "delete b"},
		"ones on crowded nodes":                       {replicas: 2, pods: []*corev1.Pod{newPod("a", on("n2")), newPod("b"), newPod("c")}, want: "delete b"},
		"ones that have been ready for less time":     {replicas: 1, pods: []*corev1.Pod{newPod("a"), newPod("b", readyFor(time.Second))}, want: "delete b"},
		"about as long is as long":                    {replicas: 1, pods: []*corev1.Pod{newPod("a", restarted), newPod("b", readyFor(59*time.Minute))}, want: "delete a"},
		"ones that restarted more often":              {replicas: 1, pods: []*corev1.Pod{newPod("a", aged(time.Minute)), newPod("b", restarted)}, want: "delete b"},
		"younger ones":                                {replicas: 1, pods: []*corev1.Pod{newPod("a"), newPod("b", aged(time.Minute))}, want: "delete b"},
		"a cost counts more than a crowd":             {replicas: 2, pods: []*corev1.Pod{newPod("a", on("n2"), cost("-1")), newPod("b"), newPod("c")}, want: "delete a"},
		"of surplus ones the least useful go, sorted": {replicas: 1, pods: []*corev1.Pod{newPod("a"), newPod("b", unready), newPod("c", unbound)}, want: "delete c b"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSet(c.replicas)
			if c.deleting {
				s.Object.SetDeletionTimestamp(&metav1.Time{Time: now})
			}
			if got := Decide(s, c.pods, Crowd(c.pods), now).String(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestCount(t *testing.T) {
	s := newSet(3)
	s.MinReadySeconds = 10
	s.Object.SetGeneration(7)
	s.Template.Labels = map[string]string{"app": "web", "tier": "front"}
	pods := []*corev1.Pod{
		newPod("a"), newPod("b", readyFor(4*time.Second)), newPod("c", unready), newPod("d", failed), newPod("e", ending), newPod("f", foreign),
		newPod("g", readyFor(7*time.Second), func(p *corev1.Pod) { p.Labels["tier"] = "front" }),
	}
	got, again := Count(s, pods, failure{"FailedCreate", "no room"}, now)
	want := appsv1.ReplicaSetStatus{
		Replicas: 4, FullyLabeledReplicas: 1, ReadyReplicas: 3, AvailableReplicas: 1, TerminatingReplicas: new(int32(1)), ObservedGeneration: 7,
		Conditions: []appsv1.ReplicaSetCondition{{Type: "ReplicaFailure", Status: "True", Reason: "FailedCreate", Message: "no room", LastTransitionTime: metav1.NewTime(now)}},
	}
	if !equality.Semantic.DeepEqual(got, want) || again != 3*time.Second {
		t.Errorf("again %s\n%+v\n%+v", again, got, want)
	}
	s.Status = &got
	if got, _ = Count(s, pods, failure{"FailedCreate", "no room still"}, now.Add(time.Hour)); got.Conditions[0].Message != "no room" {
		t.Error("a failure that goes on is told anew")
	}
	if got, _ = Count(s, pods, failure{}, now); len(got.Conditions) != 0 {
		t.Error("a failure that is over is told still")
	}
}

// From any pods, deciding and applying reaches the number that is wanted, by what is the set's own, and then plans nothing.
func TestFromAnyStartTheNumberIsReached(t *testing.T) {
	changes := []func(*corev1.Pod){unready, pending, unbound, failed, ending, relabel, orphaned, foreign, restarted, cost("4"), on("n2"), readyFor(time.Second), aged(time.Hour)}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := newSet(r.Int32N(8))
		var pods []*corev1.Pod
		next := 0
		add := func(change ...func(*corev1.Pod)) {
			next++
			pods = append(pods, newPod(fmt.Sprintf("p%d", next), change...))
		}
		for range r.IntN(12) {
			var some []func(*corev1.Pod)
			for range r.IntN(3) {
				some = append(some, changes[r.IntN(len(changes))])
			}
			add(safely(some)...)
		}
		for pass := 0; ; pass++ {
			if pass > 3 {
				t.Fatalf("seed %d: no end: %s", seed, Decide(s, pods, nil, now))
			}
			plan := Decide(s, pods, Crowd(pods), now)
			if plan.String() == "" {
				break
			}
			for _, p := range plan.Delete {
				if len(p.OwnerReferences) > 0 && p.OwnerReferences[0].UID != "rs" {
					t.Fatalf("seed %d: deletes another's pod", seed)
				}
			}
			for _, p := range plan.Adopt {
				p.OwnerReferences = newPod("").OwnerReferences
			}
			for _, p := range plan.Release {
				p.OwnerReferences = nil
			}
			pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return slices.Contains(plan.Delete, p) })
			for range plan.Create {
				add(unbound)
			}
		}
		if status, _ := Count(s, pods, failure{}, now); status.Replicas != s.Replicas {
			t.Fatalf("seed %d: %d pods, %d wanted", seed, status.Replicas, s.Replicas)
		}
	}
}

// safely leaves out what cannot be done to a pod that another change has stripped.
func safely(changes []func(*corev1.Pod)) (safe []func(*corev1.Pod)) {
	for _, f := range changes {
		safe = append(safe, func(p *corev1.Pod) {
			defer func() { _ = recover() }()
			f(p)
		})
	}
	return safe
}
