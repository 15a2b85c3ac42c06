package deployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// version makes a settled ReplicaSet of the Deployment, of that image and revision, with so many pods, so many of them available.
func version(d *appsv1.Deployment, image string, revision, size, available int32) *appsv1.ReplicaSet {
	of := d.DeepCopy()
	of.Spec.Template.Spec.Containers[0].Image = image
	rs := newSet(of, int64(revision)).ReplicaSet
	rs.UID, rs.Generation, rs.CreationTimestamp = types.UID(image), 1, metav1.NewTime(start.Add(time.Duration(revision)*time.Second))
	rs.Annotations = sized(d, rs.Annotations)
	rs.Spec.Replicas = &size
	rs.Status = appsv1.ReplicaSetStatus{Replicas: size, ReadyReplicas: available, AvailableReplicas: available, ObservedGeneration: 1}
	return rs
}

// sizes tells what a plan makes of the sets: "v1:3 v2:+1" where v2 is new.
func (p Plan) sizes(all []*appsv1.ReplicaSet) string {
	var s []string
	for _, rs := range all {
		if slices.Contains(p.Delete, rs) {
			s = append(s, rs.Spec.Template.Spec.Containers[0].Image+":gone")
			continue
		}
		n := valueOf(rs.Spec.Replicas)
		for _, c := range p.Change {
			if c.Set == rs {
				n = c.Replicas
			}
		}
		s = append(s, fmt.Sprintf("%s:%d", rs.Spec.Template.Spec.Containers[0].Image, n))
	}
	if p.Create != nil {
		s = append(s, fmt.Sprintf("%s:+%d", p.Create.Spec.Template.Spec.Containers[0].Image, valueOf(p.Create.Spec.Replicas)))
	}
	return strings.Join(s, " ")
}

func TestSizes(t *testing.T) {
	type v struct {
		image           string
		size, available int32
	}
	recreate := func(d *appsv1.Deployment) { d.Spec.Strategy = appsv1.DeploymentStrategy{Type: "Recreate"} }
	paused := func(d *appsv1.Deployment) { d.Spec.Paused = true }
	for name, c := range map[string]struct {
		n                  int32
		surge, unavailable string
		sets               []v // the Deployment wants v0; they were given their sizes when was were wanted
		was                int32
		change             func(*appsv1.Deployment)
		want               string
	}{
		"the first: all at once":                             {n: 3, sets: nil, want: "v0:+3"},
		"a new template: as many as the surge":               {n: 3, sets: []v{{"v1", 3, 3}}, want: "v1:3 v0:+1"},
		"where some may be unavailable, old ones go at once": {n: 4, surge: "1", unavailable: "2", sets: []v{{"v1", 4, 4}}, want: "v1:2 v0:+1"},
		"per cent round up for the surge, else down":         {n: 10, surge: "25%", unavailable: "25%", sets: []v{{"v1", 10, 10}}, want: "v1:8 v0:+3"},
		"a new one serves: an old one goes":                  {n: 3, sets: []v{{"v1", 3, 3}, {"v0", 1, 1}}, want: "v1:2 v0:1"},
		"a new one does not serve: nothing goes":             {n: 3, sets: []v{{"v1", 3, 3}, {"v0", 1, 0}}, want: "v1:3 v0:1"},
		"old ones that do not serve go first":                {n: 3, surge: "1", unavailable: "1", sets: []v{{"v1", 3, 1}, {"v0", 1, 0}}, want: "v1:2 v0:1"},
		"without surge an old one goes first":                {n: 3, surge: "0", unavailable: "1", sets: []v{{"v1", 3, 3}, {"v0", 0, 0}}, want: "v1:2 v0:0"},
		"the last old one":                                   {n: 3, sets: []v{{"v1", 1, 1}, {"v0", 3, 3}}, want: "v1:0 v0:3"},
		"overtaken: the newest grows, those before shrink":   {n: 3, sets: []v{{"v2", 2, 2}, {"v1", 2, 1}, {"v0", 0, 0}}, want: "v2:2 v1:1 v0:0"},
		"the newest has too many: it shrinks":                {n: 3, sets: []v{{"v0", 5, 5}}, want: "v0:3"},
		"larger: the only set grows":                         {n: 5, was: 3, sets: []v{{"v0", 3, 3}}, want: "v0:5"},
		"to none":                                            {n: 0, was: 3, sets: []v{{"v0", 3, 3}}, want: "v0:0"},
		"larger in the middle: by share":                     {n: 20, was: 10, surge: "25%", unavailable: "25%", sets: []v{{"v1", 8, 8}, {"v0", 5, 3}}, want: "v1:15 v0:10"},
		"smaller in the middle: by share":                    {n: 5, was: 10, surge: "2", unavailable: "0", sets: []v{{"v1", 8, 8}, {"v0", 4, 3}}, want: "v1:5 v0:2"},
		"smaller near the end: by share, too":                {n: 3, was: 5, sets: []v{{"v1", 2, 2}, {"v0", 3, 3}}, want: "v1:2 v0:2"},
		"paused: nothing moves":                              {n: 3, sets: []v{{"v1", 3, 3}}, change: paused, want: "v1:3"},
		"paused and scaled: sizes change":                    {n: 6, was: 3, sets: []v{{"v1", 3, 3}}, change: paused, want: "v1:6"},
		"Recreate: old ones go":                              {n: 3, sets: []v{{"v1", 3, 3}}, change: recreate, want: "v1:0"},
		"Recreate: new ones come when they have":             {n: 3, sets: []v{{"v1", 0, 0}}, change: recreate, want: "v1:0 v0:+3"},
		"Recreate, back to an old one":                       {n: 3, sets: []v{{"v1", 0, 0}, {"v0", 0, 0}}, change: recreate, want: "v1:0 v0:3"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.surge == "" {
				c.surge, c.unavailable = "25%", "25%"
			}
			if c.was == 0 {
				c.was = c.n
			}
			d := newDeployment(c.was, c.surge, c.unavailable)
			var all []*appsv1.ReplicaSet
			for i, v := range c.sets {
				all = append(all, version(d, v.image, int32(i+1), v.size, v.available))
			}
			d.Spec.Replicas = &c.n
			if c.change != nil {
				c.change(d)
			}
			if got := Decide(d, all, start).sizes(all); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestASetThatWorksForAnEarlierSizeIsWaitedFor(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	all := []*appsv1.ReplicaSet{version(d, "v1", 1, 3, 3), version(d, "v0", 2, 1, 1)}
	all[0].Generation = 2
	if got := Decide(d, all, start).sizes(all); got != "v1:3 v0:1" {
		t.Error(got)
	}
}

func TestRecreateWaitsForTheLastOldPodToEnd(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: "Recreate"}
	all := []*appsv1.ReplicaSet{version(d, "v1", 1, 0, 0)}
	all[0].Status.TerminatingReplicas = new(int32(1))
	if p := Decide(d, all, start); p.Create != nil {
		t.Error("a new set is made while an old pod is ending")
	}
}

func TestRevisions(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "faster", corev1.LastAppliedConfigAnnotation: "{}", annotationRevision: "2"}
	all := []*appsv1.ReplicaSet{version(d, "v1", 1, 3, 3), version(d, "v2", 2, 0, 0)}
	p := Decide(d, all, start)
	rs := p.Create
	if a := rs.Annotations; a[annotationRevision] != "3" || a["kubernetes.io/change-cause"] != "faster" || a[corev1.LastAppliedConfigAnnotation] != "" ||
		a[annotationDesired] != "3" || a[annotationMax] != "4" || p.Revision != "3" {
		t.Errorf("revision %s, %v", p.Revision, a)
	}
	hash := rs.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if rs.Name != "web-"+hash || rs.Spec.Selector.MatchLabels["pod-template-hash"] != hash || rs.Spec.Template.Labels["pod-template-hash"] != hash || !metav1.IsControlledBy(rs, d) {
		t.Errorf("%+v", rs.ObjectMeta)
	}
	// Back to the first: it becomes the newest again, and remembers what it was.
	d.Spec.Template.Spec.Containers[0].Image = "v1"
	p = Decide(d, all, start)
	if a := p.Change[0].Annotations; p.Create != nil || a[annotationRevision] != "3" || a[annotationHistory] != "1" || p.Revision != "3" {
		t.Errorf("revision %s, %v", p.Revision, a)
	}
	all[0].Annotations, all[1].Annotations[annotationRevision] = p.Change[0].Annotations, "5"
	if a := Decide(d, all, start).Change[0].Annotations; a[annotationHistory] != "1,3" || a[annotationRevision] != "6" {
		t.Errorf("%v", a)
	}
	all[0].Annotations[annotationHistory] = strings.Repeat("7,", mostHistory/2) + "8"
	if h := Decide(d, all, start).Change[0].Annotations[annotationHistory]; len(h) > mostHistory || !strings.HasSuffix(h, ",8,3") {
		t.Errorf("%d characters: …%s", len(h), h[len(h)-8:])
	}
}

func TestTheHistoryIsKeptWithinItsLimitOnceTheRolloutIsComplete(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	d.Spec.RevisionHistoryLimit = new(int32(1))
	all := []*appsv1.ReplicaSet{version(d, "v3", 3, 0, 0), version(d, "v1", 1, 0, 0), version(d, "v2", 2, 0, 0), version(d, "v0", 4, 3, 3)}
	if got := Decide(d, all, start).sizes(all); got != "v3:0 v1:0 v2:0 v0:3" {
		t.Errorf("before it is complete: %s", got)
	}
	d.Status = Decide(d, all, start).Status
	if got := Decide(d, all, start).sizes(all); got != "v3:0 v1:gone v2:gone v0:3" {
		t.Error(got)
	}
	all[1].Status.Replicas = 1
	if got := Decide(d, all, start).sizes(all); got != "v3:0 v1:0 v2:gone v0:3" {
		t.Errorf("one has a pod still: %s", got)
	}
}

// told gives a condition as "STATUS reason: message".
func told(s appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) string {
	if c := findCondition(&s, kind); c != nil {
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	return ""
}

func TestConditionsOfARollout(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	now := start
	pass := func(all ...*appsv1.ReplicaSet) Plan {
		p := Decide(d, all, now)
		d.Status = p.Status
		return p
	}
	expect := func(available, progressing string) {
		t.Helper()
		if got := told(d.Status, "Available"); got != available {
			t.Errorf("Available %s, want %s", got, available)
		}
		if got := told(d.Status, "Progressing"); got != progressing {
			t.Errorf("Progressing %s, want %s", got, progressing)
		}
	}
	const few, enough = "False MinimumReplicasUnavailable: Deployment does not have minimum availability.", "True MinimumReplicasAvailable: Deployment has minimum availability."
	rs := pass().Create
	expect(few, fmt.Sprintf("True NewReplicaSetCreated: Created new replica set %q", rs.Name))
	v0 := version(d, "v0", 1, 3, 1)
	p := pass(v0)
	expect(few, fmt.Sprintf("True ReplicaSetUpdated: ReplicaSet %q is progressing.", rs.Name))
	if p.Again != 601*time.Second {
		t.Errorf("looks again after %s", p.Again)
	}
	now = now.Add(601 * time.Second)
	pass(v0)
	expect(few, fmt.Sprintf("False ProgressDeadlineExceeded: ReplicaSet %q has timed out progressing.", rs.Name))
	v0 = version(d, "v0", 1, 3, 3)
	if p = pass(v0); p.Again != 0 {
		t.Errorf("complete, and looks again after %s", p.Again)
	}
	expect(enough, fmt.Sprintf("True NewReplicaSetAvailable: ReplicaSet %q has successfully progressed.", rs.Name))
	before := *findCondition(&d.Status, "Progressing")
	now = now.Add(time.Hour)
	if pass(v0); *findCondition(&d.Status, "Progressing") != before {
		t.Error("what has not changed is told anew")
	}
	d.Spec.Paused = true
	pass(v0)
	expect(enough, "Unknown DeploymentPaused: Deployment is paused")
	d.Spec.Paused = false
	pass(v0)
	expect(enough, fmt.Sprintf("True NewReplicaSetAvailable: ReplicaSet %q has successfully progressed.", rs.Name))
	d.Spec.ProgressDeadlineSeconds = new(int32(1<<31 - 1))
	pass(v0)
	expect(enough, "")
	v0.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: "ReplicaFailure", Status: "True", Reason: "FailedCreate", Message: "no room"}}
	pass(v0)
	if got := told(d.Status, "ReplicaFailure"); got != "True FailedCreate: no room" {
		t.Error(got)
	}
	v0.Status.Conditions = nil
	if pass(v0); told(d.Status, "ReplicaFailure") != "" {
		t.Error("a failure that is over is told still")
	}
}

func TestClaims(t *testing.T) {
	d := newDeployment(3, "25%", "25%")
	orphan, strange := version(d, "v0", 1, 3, 3), version(d, "v1", 1, 3, 3)
	orphan.OwnerReferences = nil
	strange.Labels = map[string]string{"app": "other"}
	p := Decide(d, []*appsv1.ReplicaSet{orphan, strange}, start)
	if len(p.Adopt) != 1 || p.Adopt[0] != orphan || len(p.Release) != 1 || p.Release[0] != strange || p.Create != nil {
		t.Errorf("%+v", p)
	}
	d.DeletionTimestamp = &metav1.Time{Time: start}
	if p := Decide(d, []*appsv1.ReplicaSet{orphan, strange}, start); len(p.Adopt)+len(p.Release)+len(p.Change) != 0 || p.Create != nil {
		t.Errorf("being deleted: %+v", p)
	}
}

// api is a Deployment and its sets as the API has them.
type api struct {
	d      *appsv1.Deployment
	sets   []*appsv1.ReplicaSet
	refuse error
	events []string
}

func (a *api) Deployment(loop.Key) *appsv1.Deployment              { return a.d }
func (a *api) ReplicaSets(*appsv1.Deployment) []*appsv1.ReplicaSet { return nil }
func (a *api) Record(_ runtime.Object, kind, reason, message string) {
	a.events = append(a.events, kind+" "+reason+" "+message)
}

func (a *api) ReplicaSet(key loop.Key) *appsv1.ReplicaSet {
	for _, rs := range a.sets {
		if rs.Name == key.Name {
			return rs
		}
	}
	return nil
}

func (a *api) CreateReplicaSet(_ context.Context, rs *appsv1.ReplicaSet) error {
	if a.refuse != nil {
		return a.refuse
	}
	if a.ReplicaSet(loop.Key{Name: rs.Name}) != nil {
		return apierrors.NewAlreadyExists(appsv1.Resource("replicasets"), rs.Name)
	}
	a.sets = append(a.sets, rs)
	return nil
}

func (a *api) UpdateReplicaSet(_ context.Context, rs *appsv1.ReplicaSet, change func(*appsv1.ReplicaSet)) error {
	change(rs)
	return nil
}
func (a *api) DeleteReplicaSet(context.Context, *appsv1.ReplicaSet) error { return nil }

func (a *api) SetStatus(_ context.Context, _ *appsv1.Deployment, change func(*appsv1.Deployment)) error {
	a.d = a.d.DeepCopy()
	change(a.d)
	return nil
}

func TestANameThatIsTakenLeadsToAnother(t *testing.T) {
	a := &api{d: newDeployment(3, "25%", "25%")}
	taken := version(a.d, "v0", 1, 0, 0)
	taken.OwnerReferences = nil
	taken.Labels = nil
	a.sets = []*appsv1.ReplicaSet{taken}
	c := New(a, a, a, nil, nil)
	for range 2 {
		if err := c.Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.sets) != 2 || *a.d.Status.CollisionCount != 1 || a.sets[1].Name == taken.Name {
		t.Errorf("%d sets, status %+v", len(a.sets), a.d.Status)
	}
	if len(a.events) != 1 || a.events[0] != fmt.Sprintf("Normal ScalingReplicaSet Scaled up replica set %s from 0 to 3", a.sets[1].Name) {
		t.Error(a.events)
	}
}

func TestARefusedSetIsToldOf(t *testing.T) {
	a := &api{d: newDeployment(3, "25%", "25%"), refuse: errors.New("quota")}
	err := New(a, a, a, nil, nil).Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "web"})
	if err == nil || !strings.HasPrefix(told(a.d.Status, "Progressing"), "False ReplicaSetCreateError: Failed to create new replica set") || len(a.events) != 1 {
		t.Errorf("%v, %+v, %v", err, a.d.Status, a.events)
	}
}
