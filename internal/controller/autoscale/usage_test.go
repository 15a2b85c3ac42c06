package autoscale

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Unix(1_000_000, 0)

// newPod makes a pod that has been ready for an hour and requests a whole CPU, and changes it.
func newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": apiresource.MustParse("1"), "memory": apiresource.MustParse("1k")}},
		}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: now.Add(-2 * time.Hour)},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func pods(n int, change ...func(*corev1.Pod)) (all []*corev1.Pod) {
	for i := range n {
		all = append(all, newPod(fmt.Sprint("p", i), change...))
	}
	return all
}

func pending(p *corev1.Pod)  { p.Status.Phase = corev1.PodPending }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }

// turned gives the time of the pod's start, and when it became ready or not.
func turned(started, changed time.Duration, ready corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: now.Add(-started)}
		p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = ready, metav1.NewTime(now.Add(-changed))
	}
}

// uses is what the pods p0, p1, … use, measured over the last minute; a negative number: nothing is known.
func uses(values ...int64) map[string]PodMetric {
	m := map[string]PodMetric{}
	for i, v := range values {
		if v >= 0 {
			m[fmt.Sprint("p", i)] = PodMetric{At: now.Add(-10 * time.Second), Window: time.Minute, Value: v}
		}
	}
	return m
}

func TestWhosePodsMetricsCount(t *testing.T) {
	const T, F = corev1.ConditionTrue, corev1.ConditionFalse
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		uses map[string]PodMetric
		of   corev1.ResourceName
		want string
	}{
		"it runs, and something is known of it":        {newPod("p0"), uses(1), "cpu", "ready"},
		"nothing is known of it":                       {newPod("p0"), uses(-1), "cpu", "missing"},
		"it is pending":                                {newPod("p0", pending), uses(1), "memory", "unready"},
		"it is being deleted":                          {newPod("p0", deleting), uses(1), "cpu", "ignored"},
		"it has failed":                                {newPod("p0", failed), uses(1), "cpu", "ignored"},
		"it has just begun and is not ready":           {newPod("p0", turned(time.Minute, time.Minute, F)), uses(1), "cpu", "unready"},
		"of memory that does not matter":               {newPod("p0", turned(time.Minute, time.Minute, F)), uses(1), "memory", "ready"},
		"ready for less than a window":                 {newPod("p0", turned(2*time.Minute, 30*time.Second, T)), uses(1), "cpu", "unready"},
		"ready for more than a window":                 {newPod("p0", turned(2*time.Minute, 90*time.Second, T)), uses(1), "cpu", "ready"},
		"it never was ready":                           {newPod("p0", turned(time.Hour, time.Hour-10*time.Second, F)), uses(1), "cpu", "unready"},
		"it was ready once":                            {newPod("p0", turned(time.Hour, time.Minute, F)), uses(1), "cpu", "ready"},
		"nobody says whether it is ready":              {newPod("p0", func(p *corev1.Pod) { p.Status.Conditions = nil }), uses(1), "cpu", "unready"},
		"nobody says when it began":                    {newPod("p0", func(p *corev1.Pod) { p.Status.StartTime = nil }), uses(1), "cpu", "unready"},
		"its first minutes are over, and it was early": {newPod("p0", turned(6*time.Minute, 10*time.Second, T)), uses(1), "cpu", "ready"},
	} {
		g := group([]*corev1.Pod{c.pod}, c.uses, c.of, now)
		got := fmt.Sprintf("%d ready", g.ready)
		switch {
		case g.ready == 1:
			got = "ready"
		case len(g.unready) == 1:
			got = "unready"
		case len(g.missing) == 1:
			got = "missing"
		case len(g.ignored) == 1:
			got = "ignored"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestReplicasByUse(t *testing.T) {
	usual := tolerance{0.1, 0.1}
	for name, c := range map[string]struct {
		current   int32
		target    int64 // per cent of requests
		amount    bool  // the target is an amount
		tolerance tolerance
		pods      []*corev1.Pod
		uses      map[string]PodMetric
		want      string // replicas, utilization, average; or an error
	}{
		"they use too much: more":                                {3, 30, false, usual, pods(3), uses(300, 500, 700), "5 50% 500"},
		"they use too little: fewer":                             {5, 50, false, usual, pods(5), uses(100, 300, 500, 250, 250), "3 28% 280"},
		"within the tolerance: as many":                          {3, 100, false, usual, pods(3), uses(1010, 1030, 1020), "3 102% 1020"},
		"within another tolerance":                               {3, 100, false, tolerance{0.1, 0.5}, pods(3), uses(1400, 1400, 1400), "3 140% 1400"},
		"a small tolerance: one more":                            {3, 100, false, tolerance{0, 0}, pods(3), uses(1010, 1010, 1020), "4 101% 1013"},
		"up: unready pods count as using nothing":                {3, 30, false, usual, append(pods(2), newPod("p2", pending)), uses(900, 900, -1), "6 90% 900"},
		"up: unready pods make it too little for a change":       {3, 50, false, usual, append(pods(2), newPod("p2", pending)), uses(750, 750, -1), "3 75% 750"},
		"down: unready pods are left out":                        {3, 90, false, usual, append(pods(2), newPod("p2", pending)), uses(300, 300, -1), "1 30% 300"},
		"up: missing pods count as using nothing":                {3, 30, false, usual, pods(3), uses(900, 900, -1), "6 90% 900"},
		"down: missing pods count as using all they request":     {4, 50, false, usual, pods(4), uses(100, 100, 100, -1), "3 10% 100"},
		"down: missing pods count as the target if that is more": {4, 200, false, usual, pods(4), uses(400, 400, 400, -1), "2 40% 400"},
		"missing pods would turn it round: as many":              {2, 60, false, usual, pods(2), uses(400, -1), "2 40% 400"},
		"at the target with missing pods: as many":               {2, 50, false, usual, pods(2), uses(500, -1), "2 50% 500"},
		"deleted pods are left out":                              {3, 50, false, usual, append(pods(2), newPod("p2", deleting)), uses(1000, 1000, 1000), "4 100% 1000"},
		"no pods":                                                {3, 50, false, usual, nil, uses(1), "no pods returned by selector while calculating replica count"},
		"no metrics":                                             {3, 50, false, usual, pods(1), uses(), "did not receive metrics for targeted pods (pods might be unready)"},
		"metrics of unready pods":                                {3, 50, false, usual, pods(1, pending), uses(1), "did not receive metrics for targeted pods (pods might be unready)"},
		"metrics of other pods":                                  {1, 100, false, usual, []*corev1.Pod{newPod("other")}, uses(100), "no metrics returned matched known pods"},
		"a pod that requests nothing":                            {1, 100, false, usual, pods(1, func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} }), uses(100), "missing request for cpu in container main of Pod p0"},
		"an amount: more":                                        {3, 15000, true, usual, pods(3), uses(20000, 10000, 30000), "4 0% 20000"},
		"an amount: fewer":                                       {5, 20000, true, usual, pods(5), uses(12000, 12000, 12000, 12000, 12000), "3 0% 12000"},
		"an amount, missing pods":                                {4, 1000, true, usual, pods(4), uses(100, 100, 100, -1), "2 0% 100"},
		"more than can be counted":                               {1, 1, true, usual, pods(1), uses(math.MaxInt64), "2147483647 0% 9223372036854775807"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(c.uses)
			u := usage{current: c.current, target: c.target, tolerance: c.tolerance}
			m, err := u.pods(c.pods, c.uses, "cpu", "", !c.amount, now)
			got := fmt.Sprintf("%d %d%% %d", m.replicas, m.utilization, m.average)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if len(c.uses) != before {
				t.Error("it changed what was measured")
			}
		})
	}
}

func TestWhatAPodRequests(t *testing.T) {
	sidecar := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{
			{Name: "first"},
			{Name: "side", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": apiresource.MustParse("250m")}}},
		}
	}
	whole := func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": apiresource.MustParse("3")}}
	}
	for name, c := range map[string]struct {
		pod       *corev1.Pod
		container string
		want      string
	}{
		"its containers":                     {newPod("p"), "", "1000"},
		"sidecars too, but no others before": {newPod("p", sidecar), "", "1250"},
		"one of them":                        {newPod("p", sidecar), "side", "250"},
		"the pod as a whole":                 {newPod("p", whole), "", "3000"},
		"a container of such a pod":          {newPod("p", whole), "main", "1000"},
		"none of that name":                  {newPod("p"), "x", "container x not found in Pod p"},
	} {
		n, err := requestOf(c.pod, c.container, "cpu")
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestReplicasByOneValue(t *testing.T) {
	u := usage{current: 3, target: 10_000, tolerance: tolerance{0.1, 0.1}}
	for name, c := range map[string]struct {
		u     usage
		pods  []*corev1.Pod
		value int64
		want  string
	}{
		"too much":                     {u, pods(3), 20_000, "6"},
		"too little":                   {u, pods(3), 3_000, "1"},
		"close enough":                 {u, pods(3), 10_900, "3"},
		"only ready pods count":        {u, append(pods(2), newPod("x", pending)), 20_000, "4"},
		"from none":                    {usage{target: 10_000}, nil, 25_000, "3"},
		"nobody is there":              {u, nil, 20_000, "unable to calculate ready pods: no pods returned by selector while calculating replica count"},
		"more than can be counted, up": {u, pods(3), math.MaxInt64, "2147483647"},
	} {
		n, err := c.u.value(c.pods, c.value)
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for value, want := range map[int64]string{45_000: "5 15000", 31_000: "3 10334", 5_000: "1 1667", math.MaxInt64: "2147483647 3074457345618258432"} {
		m := u.share(3, value)
		if got := fmt.Sprint(m.replicas, " ", m.average); got != want && !strings.HasPrefix(got, "2147483647 30744573456182") {
			t.Errorf("a share of %d: %s, want %s", value, got, want)
		}
	}
	if m := u.share(0, 20_000); m.replicas != 2 || m.average != 20_000 {
		t.Errorf("%+v", m)
	}
	if got := sum([]int64{math.MaxInt64, 5, -3}); got != math.MaxInt64 {
		t.Errorf("sum %d", got)
	}
}
