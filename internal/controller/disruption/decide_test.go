package disruption

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Unix(1_000_000, 0)

func newBudget(change ...func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b", Generation: 3, UID: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	for _, f := range change {
		f(b)
	}
	return b
}

func atLeast(v string) func(*policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = new(intstr.Parse(v)) }
}

func atMost(v string) func(*policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) { b.Spec.MaxUnavailable = new(intstr.Parse(v)) }
}

// evicted notes a pod as evicted that long ago.
func evicted(pod string, ago time.Duration) func(*policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) {
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[pod] = metav1.NewTime(now.Add(-ago))
	}
}

func newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: new(true),
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func unready(p *corev1.Pod)  { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }
func alone(p *corev1.Pod)    { p.OwnerReferences = nil }

func of(kind, name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name, p.OwnerReferences[0].UID = kind, name, types.UID(name)
	}
}

func pods(n int, change ...func(*corev1.Pod)) (all []*corev1.Pod) {
	for i := range n {
		all = append(all, newPod(fmt.Sprint("p", i), change...))
	}
	return all
}

// world has a Deployment of 10 with the ReplicaSet rs of 4, a ReplicaSet of its own, and a StatefulSet.
func world(ref metav1.OwnerReference) (*Scale, error) {
	switch ref.Kind + "/" + ref.Name {
	case "ReplicaSet/rs":
		return &Scale{UID: "rs", Replicas: 4, Controller: &metav1.OwnerReference{Kind: "Deployment", Name: "d", UID: "d"}}, nil
	case "Deployment/d":
		return &Scale{UID: "d", Replicas: 10}, nil
	case "ReplicaSet/lost":
		return &Scale{UID: "lost", Replicas: 2, Controller: &metav1.OwnerReference{Kind: "Deployment", Name: "gone", UID: "gone"}}, nil
	case "StatefulSet/sts":
		return &Scale{UID: "sts", Replicas: 5}, nil
	case "StatefulSet/again":
		return &Scale{UID: "another", Replicas: 5}, nil
	case "Job/job":
		return nil, errors.New("jobs.batch does not implement the scale subresource")
	}
	return nil, nil
}

func (p Plan) String() string {
	var s []string
	if st := p.Status; st == nil {
		s = append(s, "as it is")
	} else {
		text := fmt.Sprintf("%d of %d healthy, %d wanted: %d may go", st.CurrentHealthy, st.ExpectedPods, st.DesiredHealthy, st.DisruptionsAllowed)
		for _, c := range st.Conditions {
			text += fmt.Sprintf(", %s %s", c.Reason, c.Status)
			if c.Message != "" {
				text += ": " + c.Message
			}
		}
		if n := len(st.DisruptedPods); n > 0 {
			text += fmt.Sprintf(", %d going", n)
		}
		s = append(s, text)
	}
	for _, e := range p.Events {
		s = append(s, e.Type+" "+e.Reason+" "+e.Words)
	}
	if p.Again > 0 {
		s = append(s, "again in "+p.Again.String())
	}
	return strings.Join(s, "; ")
}

func TestDecide(t *testing.T) {
	const noScale = "Warning CalculateExpectedPodCountFailed Failed to calculate the number of expected pods: "
	for name, c := range map[string]struct {
		budget *policyv1.PodDisruptionBudget
		pods   []*corev1.Pod
		want   string
	}{
		"there are no pods: nothing may go":                       {newBudget(atLeast("0")), nil, "0 of 0 healthy, 0 wanted: 0 may go, InsufficientPods False; Normal NoPods No matching pods found"},
		"neither limit: nothing may go":                           {newBudget(), pods(3), "3 of 0 healthy, 0 wanted: 0 may go, InsufficientPods False"},
		"a number counts the pods there are":                      {newBudget(atLeast("2")), pods(3), "3 of 3 healthy, 2 wanted: 1 may go, SufficientPods True"},
		"a number counts pods without controller":                 {newBudget(atLeast("2")), pods(3, alone), "3 of 3 healthy, 2 wanted: 1 may go, SufficientPods True"},
		"more wanted than there are":                              {newBudget(atLeast("5")), pods(3), "3 of 3 healthy, 5 wanted: 0 may go, InsufficientPods False"},
		"a share is one of the Deployment's replicas":             {newBudget(atLeast("35%")), pods(6), "6 of 10 healthy, 4 wanted: 2 may go, SufficientPods True"},
		"so many may be missing of the Deployment's":              {newBudget(atMost("3")), pods(9), "9 of 10 healthy, 7 wanted: 2 may go, SufficientPods True"},
		"a share that may be missing is rounded up":               {newBudget(atMost("25%")), pods(10), "10 of 10 healthy, 7 wanted: 3 may go, SufficientPods True"},
		"more may be missing than there are":                      {newBudget(atMost("20")), pods(2), "2 of 10 healthy, 0 wanted: 2 may go, SufficientPods True"},
		"a ReplicaSet whose Deployment is gone speaks for itself": {newBudget(atMost("1")), pods(2, of("ReplicaSet", "lost")), "2 of 2 healthy, 1 wanted: 1 may go, SufficientPods True"},
		"two controllers are summed up":                           {newBudget(atMost("1")), append(pods(10), newPod("x", of("StatefulSet", "sts"))), "11 of 15 healthy, 14 wanted: 0 may go, InsufficientPods False"},
		"pods that are not ready are not healthy":                 {newBudget(atLeast("1")), append(pods(1), newPod("x", unready)), "1 of 2 healthy, 1 wanted: 0 may go, InsufficientPods False"},
		"pods being deleted are not healthy":                      {newBudget(atLeast("1")), append(pods(1), newPod("x", deleting)), "1 of 2 healthy, 1 wanted: 0 may go, InsufficientPods False"},
		"an evicted pod is not healthy, and looked at again":      {newBudget(atLeast("1"), evicted("p0", time.Minute)), pods(2), "1 of 2 healthy, 1 wanted: 0 may go, InsufficientPods False, 1 going; again in 1m0s"},
		"the first that is due decides when":                      {newBudget(atLeast("1"), evicted("p0", time.Minute), evicted("p1", 110*time.Second)), pods(3), "1 of 3 healthy, 1 wanted: 0 may go, InsufficientPods False, 2 going; again in 10s"},
		"an evicted pod that did not go counts again":             {newBudget(atLeast("1"), evicted("p0", 121*time.Second)), pods(2), "2 of 2 healthy, 1 wanted: 1 may go, SufficientPods True; Warning NotDeleted Pod was expected by PDB ns/b to be deleted but it wasn't"},
		"an evicted pod that is going is forgotten":               {newBudget(atLeast("1"), evicted("p0", time.Second)), pods(1, deleting), "0 of 1 healthy, 1 wanted: 0 may go, InsufficientPods False"},
		"an evicted pod that is gone is forgotten":                {newBudget(atLeast("0"), evicted("z", time.Second)), pods(1), "1 of 1 healthy, 0 wanted: 1 may go, SufficientPods True"},
		"a kind without scale":                                    {newBudget(atMost("1")), pods(1, of("Job", "job")), "0 of 0 healthy, 0 wanted: 0 may go, SyncFailed False: jobs.batch does not implement the scale subresource; " + noScale + "jobs.batch does not implement the scale subresource"},
		"a controller that is gone":                               {newBudget(atLeast("50%")), pods(1, of("StatefulSet", "nobody")), `0 of 0 healthy, 0 wanted: 0 may go, SyncFailed False: found no controllers for pod "p0"; ` + noScale + `found no controllers for pod "p0"`},
		"a controller that is another by now":                     {newBudget(atLeast("50%")), pods(1, of("StatefulSet", "again")), `0 of 0 healthy, 0 wanted: 0 may go, SyncFailed False: found no controllers for pod "p0"; ` + noScale + `found no controllers for pod "p0"`},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.budget.DeepCopy()
			p := Decide(c.budget, c.pods, world, now)
			if got := p.String(); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if c.budget.String() != before.String() {
				t.Error("it changed the budget")
			}
			if p.Status != nil && p.Status.ObservedGeneration != 3 && !strings.Contains(c.want, "SyncFailed") {
				t.Errorf("observed %d", p.Status.ObservedGeneration)
			}
			c.budget.Status = *p.Status
			if p = Decide(c.budget, c.pods, world, now); p.Status != nil {
				t.Errorf("and then %s", p)
			}
		})
	}
	loose := Decide(newBudget(atMost("1")), append(pods(9), newPod("x", alone)), world, now).String()
	want := `10 of 10 healthy, 9 wanted: 1 may go, SufficientPods True; Warning UnmanagedPods Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.`
	if loose != want {
		t.Errorf("%s\nwant %s", loose, want)
	}
}

func TestAConditionKeepsItsTimeWhileItHolds(t *testing.T) {
	b := newBudget(atLeast("1"))
	b.Status = *Decide(b, pods(3), world, now).Status
	later := Decide(b, pods(4), world, now.Add(time.Hour)).Status
	if c := later.Conditions[0]; !c.LastTransitionTime.Equal(&metav1.Time{Time: now}) || c.Reason != "SufficientPods" {
		t.Errorf("%+v", c)
	}
	b.Status = *later
	if c := Decide(b, pods(1), world, now.Add(2*time.Hour)).Status.Conditions[0]; !c.LastTransitionTime.Equal(&metav1.Time{Time: now.Add(2 * time.Hour)}) {
		t.Errorf("%+v", c)
	}
}

// Whatever pods there are: who evicts as many as are allowed leaves as many healthy ones as are wanted, if there were so many.
func TestEvictingWhatIsAllowedLeavesEnough(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := newBudget([]func(*policyv1.PodDisruptionBudget){atLeast(fmt.Sprint(r.IntN(8))), atLeast(fmt.Sprint(r.IntN(101), "%")), atMost(fmt.Sprint(r.IntN(8))), atMost(fmt.Sprint(r.IntN(101), "%"))}[r.IntN(4)])
		all := pods(r.IntN(14))
		for _, p := range all {
			if r.IntN(4) == 0 {
				unready(p)
			}
			if r.IntN(6) == 0 {
				evicted(p.Name, time.Duration(r.IntN(150))*time.Second)(b)
			}
		}
		s := Decide(b, all, world, now).Status
		if s == nil {
			s = &b.Status
		}
		left := s.DisruptionsAllowed
		for _, p := range all {
			if _, going := s.DisruptedPods[p.Name]; left > 0 && !going && p.Status.Conditions[0].Status == corev1.ConditionTrue {
				left--
				s.DisruptedPods[p.Name] = metav1.NewTime(now)
			}
		}
		if left > 0 {
			t.Fatalf("seed %d: %d more may go than are healthy", seed, left)
		}
		b.Status = *s
		after := Decide(b, all, world, now).Status
		if after == nil {
			after = s
		}
		if s.DisruptionsAllowed > 0 && (after.CurrentHealthy < after.DesiredHealthy || after.DisruptionsAllowed != 0) {
			t.Fatalf("seed %d: %d left, %d wanted, and %d more may go", seed, after.CurrentHealthy, after.DesiredHealthy, after.DisruptionsAllowed)
		}
	}
}

func TestStale(t *testing.T) {
	target := func(ago time.Duration, reason string, change ...func(*corev1.Pod)) *corev1.Pod {
		return newPod("p", append(change, func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(now.Add(-ago)),
			})
		})...)
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		in   time.Duration
		want bool
	}{
		"nothing was announced":              {newPod("p"), 0, false},
		"it has some time left":              {target(30*time.Second, "EvictionByEvictionAPI"), 90 * time.Second, true},
		"its time is over":                   {target(time.Hour, "EvictionByEvictionAPI"), 0, true},
		"it is going":                        {target(time.Hour, "EvictionByEvictionAPI", deleting), 0, false},
		"it has ended":                       {target(time.Hour, "PreemptionByScheduler", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), 0, false},
		"its node announced it: it may wait": {target(time.Hour, corev1.PodReasonTerminationByKubelet), 0, false},
	} {
		if in, ok := Stale(c.pod, now); in != c.in || ok != c.want {
			t.Errorf("%s: %v in %v", name, ok, in)
		}
	}
}
