package statefulset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Unix(1000, 0)

func newSet(change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u", Generation: 1},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(3)), ServiceName: "svc", PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			Selector: metav1.SetAsLabelSelector(map[string]string{"app": "web"}),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "main", Image: "nginx"}},
			}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{
				Partition: new(int32(0)), MaxUnavailable: new(intstr.FromInt32(1)),
			}},
			RevisionHistoryLimit: new(int32(10)),
		},
	}
	for _, c := range change {
		c(set)
	}
	return set
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
}

func replicas(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n }
}

func from(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: n} }
}

func partitioned(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}

func unavailable(v intstr.IntOrString) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = &v }
}

// pod is made of words: its ordinal, and what is particular about it; one without words is ready and of revision old.
func pod(words string) *corev1.Pod {
	fields := strings.Fields(words)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-" + fields[0], UID: "x", Labels: map[string]string{
		"app": "web", "controller-revision-hash": "old", "statefulset.kubernetes.io/pod-name": "web-" + fields[0],
	}}}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}
	p.Status.Phase = corev1.PodRunning
	for _, word := range fields[1:] {
		switch word {
		case "new":
			p.Labels["controller-revision-hash"] = "new"
		case "pending":
			p.Status.Phase, ready.Status = corev1.PodPending, corev1.ConditionFalse
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
		case "unlabelled":
			delete(p.Labels, "statefulset.kubernetes.io/pod-name")
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
	var b strings.Builder
	for _, pod := range p.Create {
		fmt.Fprintf(&b, "+%s:%s ", strings.TrimPrefix(pod.Name, "web-"), pod.Labels["controller-revision-hash"])
	}
	for _, pod := range p.Delete {
		fmt.Fprintf(&b, "-%s ", strings.TrimPrefix(pod.Name, "web-"))
	}
	for _, pod := range p.Identify {
		fmt.Fprintf(&b, "=%s ", strings.TrimPrefix(pod.Name, "web-"))
	}
	if p.More {
		b.WriteString("more")
	}
	return strings.TrimSpace(b.String())
}

func TestDecide(t *testing.T) {
	type changes []func(*appsv1.StatefulSet)
	minReady := func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 10 }
	for name, c := range map[string]struct {
		set  changes
		pods []*corev1.Pod
		want string
	}{
		"nothing is there: the first comes first":                         {nil, nil, "+0:new"},
		"the first is not ready: the next waits":                          {nil, pods("0 new pending"), ""},
		"the first is ready: the next comes":                              {nil, pods("0 new"), "+1:new"},
		"the first is ready, not for long enough: the next waits":         {changes{minReady}, pods("0 new fresh"), ""},
		"one is missing in the middle: it comes":                          {nil, pods("0 new", "2 new"), "+1:new"},
		"one below is not ready: the missing one waits":                   {nil, pods("0 new", "1 new unready"), ""},
		"one failed: it goes, and nothing else happens":                   {nil, pods("0 new", "1 new failed", "3 new"), "-1"},
		"one succeeded: it goes too":                                      {nil, pods("0 new succeeded"), "-0"},
		"one that failed is being deleted: its successor waits":           {nil, pods("0 new failed deleting", "1 new"), ""},
		"in parallel: all come at once":                                   {changes{parallel}, nil, "+0:new +1:new +2:new"},
		"in parallel: nobody waits for one that is not ready":             {changes{parallel}, pods("0 new pending"), "+1:new +2:new"},
		"in parallel: what ended goes while others come":                  {changes{parallel}, pods("0 new failed"), "+1:new +2:new -0"},
		"in parallel: a slip of the pen is made in portions":              {changes{parallel, replicas(2e9)}, nil, strings.TrimSpace(manyCreated())},
		"ordinals start at five":                                          {changes{from(5), parallel, replicas(2)}, pods("5 new"), "+6:new"},
		"ordinals start at five: lower ones go once all are there":        {changes{from(5), replicas(1)}, pods("0 new", "1 new", "5 new"), "-1"},
		"too many: the highest goes first":                                {changes{replicas(1)}, pods("0 new", "1 new", "2 new"), "-2"},
		"too many, and the highest is going: the next waits":              {changes{replicas(1)}, pods("0 new", "1 new", "2 new deleting"), ""},
		"too many, and one that stays is not ready: nothing goes":         {changes{replicas(1)}, pods("0 new unready", "1 new", "2 new"), ""},
		"too many, and the highest is not ready: it goes":                 {changes{replicas(1)}, pods("0 new", "1 new", "2 new unready"), "-2"},
		"too many, and two are not ready: the higher waits for the lower": {changes{replicas(1)}, pods("0 new", "1 new unready", "2 new unready"), ""},
		"too many, and two have ended: the higher waits for nobody":       {changes{replicas(1)}, pods("0 new", "1 new failed", "2 new failed"), "-2"},
		"too many in parallel: all go":                                    {changes{parallel, replicas(1)}, pods("0 new", "1 new", "2 new deleting", "3 new"), "-3 -1"},
		"scaled to nothing":                                               {changes{replicas(0)}, pods("0 new"), "-0"},
		"another template: the highest goes first":                        {nil, pods("0", "1", "2"), "-2"},
		"another template: the next goes once the first is back":          {nil, pods("0", "1", "2 new"), "-1"},
		"another template: the next waits while the first is not ready":   {nil, pods("0", "1", "2 new unready"), ""},
		"another template: the next waits while the first is going":       {nil, pods("0", "1", "2 deleting"), ""},
		"another template, and two may be unavailable":                    {changes{unavailable(intstr.FromInt32(2))}, pods("0", "1", "2"), "-2 -1"},
		"another template, and half may be unavailable, rounded down":     {changes{unavailable(intstr.FromString("50%"))}, pods("0", "1", "2"), "-2"},
		"another template, and a tenth may be: one goes at least":         {changes{unavailable(intstr.FromString("10%"))}, pods("0", "1", "2"), "-2"},
		"another template, in parallel: one at a time":                    {changes{parallel}, pods("0", "1", "2"), "-2"},
		"another template, in parallel, and the first is not ready yet":   {changes{parallel}, pods("0", "1", "2 new unready"), ""},
		"another template, in parallel: old ones that are broken all go":  {changes{parallel}, pods("0 unready", "1 pending", "2"), "-1 -0"},
		"a broken old one costs what may be unavailable":                  {changes{parallel, unavailable(intstr.FromInt32(2))}, pods("0 unready", "1", "2"), "-0 -2"},
		"in order a broken old one has to be deleted by hand":             {nil, pods("0", "1 unready", "2"), ""},
		"the partition: only what is above it goes":                       {changes{partitioned(2)}, pods("0", "1", "2"), "-2"},
		"the partition: below it nothing goes":                            {changes{partitioned(2)}, pods("0", "1", "2 new"), ""},
		"the partition: below it what comes is of the old revision":       {changes{partitioned(2)}, pods("0", "2 new"), "+1:old"},
		"the partition: above it what comes is of the new revision":       {changes{partitioned(1)}, pods("0"), "+1:new"},
		"the partition counts from the first ordinal":                     {changes{from(5), partitioned(2)}, pods("5", "6", "7"), "-7"},
		"OnDelete: old ones stay":                                         {changes{onDelete}, pods("0", "1", "2"), ""},
		"OnDelete: what comes is of the new revision":                     {changes{onDelete}, pods("0", "2"), "+1:new"},
		"one was adopted: it gets its labels":                             {nil, pods("0 new unlabelled", "1 new", "2 new"), "=0"},
		"all is well":                                                     {nil, pods("0 new", "1 new", "2 new"), ""},
		"the set is being deleted":                                        {changes{func(s *appsv1.StatefulSet) { s.DeletionTimestamp = new(metav1.NewTime(now)) }}, pods("0"), ""},
		"a strategy without settings: the first are of what is current":   {changes{parallel, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate = nil; s.Status.CurrentReplicas = 1 }}, pods("2 new"), "+0:old +1:new"},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(c.set...)
			got := show(Decide(set, c.pods, Revision{"old", &set.Spec.Template}, Revision{"new", &set.Spec.Template}, now))
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func manyCreated() string {
	var b strings.Builder
	for i := range burst {
		fmt.Fprintf(&b, "+%d:new ", i)
	}
	return b.String() + "more"
}

func TestWhoAPodIs(t *testing.T) {
	set := newSet(func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"kept": "yes"}}}}
		s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "tmp"}}
	})
	p := newPod(set, Revision{"web-abc", &set.Spec.Template}, 7)
	l := p.Labels
	if p.Name != "web-7" || p.GenerateName != "web-" || p.Spec.Hostname != "web-7" || p.Spec.Subdomain != "svc" || !metav1.IsControlledBy(p, set) ||
		l["statefulset.kubernetes.io/pod-name"] != "web-7" || l["apps.kubernetes.io/pod-index"] != "7" || l["controller-revision-hash"] != "web-abc" || l["app"] != "web" {
		t.Errorf("%+v %+v", p.ObjectMeta, p.Spec)
	}
	v := p.Spec.Volumes
	if len(v) != 2 || v[0].Name != "data" || v[0].PersistentVolumeClaim == nil || v[0].PersistentVolumeClaim.ClaimName != "data-web-7" || v[1].Name != "tmp" {
		t.Errorf("%+v", v)
	}
	c := claims(set, 7)
	if len(c) != 1 || c[0].Name != "data-web-7" || c[0].Namespace != "ns" || c[0].Labels["app"] != "web" || c[0].Labels["kept"] != "yes" || len(set.Spec.VolumeClaimTemplates[0].Labels) != 1 {
		t.Errorf("%+v", c)
	}
	if set.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim != nil || len(set.Spec.Template.Labels) != 1 {
		t.Error("the template was changed")
	}
	for name, want := range map[string]int{"web-0": 0, "web-12": 12, "web-01": -1, "web-": -1, "web--1": -1, "web-x": -1, "other-1": -1, "web-1-2": -1, "web-99999999999": -1} {
		n, ok := ordinal(set, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%s is number %d, %t", name, n, ok)
		}
	}
}

func TestCount(t *testing.T) {
	set := newSet(func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds, s.Generation = 10, 4 })
	s, again := Count(set, pods("0 fresh", "1", "2 new unready", "3 new deleting"), "old", "new", 1, now)
	want := appsv1.StatefulSetStatus{
		ObservedGeneration: 4, CollisionCount: new(int32(1)), CurrentRevision: "old", UpdateRevision: "new", Replicas: 4, ReadyReplicas: 3,
		AvailableReplicas: 2, CurrentReplicas: 2, UpdatedReplicas: 1,
	}
	if fmt.Sprintf("%+v", *want.CollisionCount) != fmt.Sprintf("%+v", *s.CollisionCount) {
		t.Error(*s.CollisionCount)
	}
	if s.CollisionCount, want.CollisionCount = nil, nil; fmt.Sprint(s) != fmt.Sprint(want) || again != 10*time.Second {
		t.Errorf("%+v, again in %s", s, again)
	}
	done, _ := Count(newSet(), pods("0 new", "1 new", "2 new"), "old", "new", 0, now)
	if done.CurrentRevision != "new" || done.CurrentReplicas != 3 {
		t.Errorf("a rollout is complete, and the status does not say so: %+v", done)
	}
	half, _ := Count(newSet(), pods("0", "1 new", "2 new"), "old", "new", 0, now)
	if half.CurrentRevision != "old" || half.CurrentReplicas != 1 || half.UpdatedReplicas != 2 {
		t.Errorf("%+v", half)
	}
}
