package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

func (w *world) budgets() *resource.Kind {
	k, _ := w.table.ByKind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	return k
}

// budget makes a budget for the pods of an app, with that status.
func (w *world) budget(name, app string, status policyv1.PodDisruptionBudgetStatus, change ...func(*policyv1.PodDisruptionBudget)) {
	w.t.Helper()
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
	}
	for _, f := range change {
		f(b)
	}
	if _, err := w.Create(context.Background(), w.budgets(), b, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.report(w.budgets(), name, func(o resource.Object) { o.(*policyv1.PodDisruptionBudget).Status = status })
}

func (w *world) report(kind *resource.Kind, name string, change func(resource.Object)) {
	w.t.Helper()
	_, _, err := w.Update(context.Background(), kind, "status", "default", name, func(o resource.Object) (resource.Object, error) {
		o.SetResourceVersion("")
		change(o)
		return o, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// running makes a pod of an app that is bound and runs; ready or not.
func (w *world) running(name, app string, ready bool) {
	w.t.Helper()
	p := pod(name)
	p.Labels, p.Spec.NodeName, p.Finalizers = map[string]string{"app": app}, "n1", []string{"test/stay"}
	w.create(p)
	w.report(w.kind("Pod"), name, func(o resource.Object) {
		s := &o.(*corev1.Pod).Status
		s.Phase = corev1.PodRunning
		if ready {
			s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		}
	})
}

func (w *world) now(kind *resource.Kind, name string) resource.Object {
	w.shown(w.create(configMap(fmt.Sprintf("mark-%d", time.Now().UnixNano()))))
	if o := w.cache.Snapshot().Get(kind, "default", name); o != nil {
		return o.Decoded()
	}
	return nil
}

func words(err error) string {
	if err == nil {
		return ""
	}
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return err.Error()
	}
	text := fmt.Sprintf("%d %s", s.Status().Code, s.Status().Message)
	if d := s.Status().Details; d != nil {
		for _, c := range d.Causes {
			text += fmt.Sprintf(" [%s: %s]", c.Type, c.Message)
		}
		if d.RetryAfterSeconds > 0 {
			text += fmt.Sprintf(" after %d", d.RetryAfterSeconds)
		}
	}
	return text
}

func TestEvictionAsksTheBudget(t *testing.T) {
	const over = "429 Cannot evict pod as it would violate the pod's disruption budget. [DisruptionBudget: The disruption budget b "
	allow := func(n int32) policyv1.PodDisruptionBudgetStatus {
		return policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: n, DesiredHealthy: 2, CurrentHealthy: 2 + n}
	}
	policy := func(p policyv1.UnhealthyPodEvictionPolicyType) func(*policyv1.PodDisruptionBudget) {
		return func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = &p }
	}
	for name, c := range map[string]struct {
		prepare func(w *world)
		options metav1.DeleteOptions
		want    string
	}{
		"no budget: it goes":                         {prepare: func(w *world) { w.running("p", "a", true) }},
		"another's budget: it goes":                  {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "z", allow(0)) }},
		"a budget with room: it goes":                {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", allow(1)) }},
		"a budget without room: it stays":            {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", allow(0)) }, want: over + "needs 2 healthy pods and has 2 currently]"},
		"an empty selector selects all":              {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", allow(0), everything) }, want: over + "needs 2 healthy pods and has 2 currently]"},
		"no selector selects nothing":                {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", allow(0), nothing) }},
		"its controller has not seen the budget yet": {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", policyv1.PodDisruptionBudgetStatus{}) }, want: over + "is still being processed by the server.] after 10"},
		"the budget could not be computed":           {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", failedSync()) }, want: over + "does not allow evicting pods currently because it failed sync: no scale]"},
		"too many are on their way":                  {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", crowded()) }, want: `403 poddisruptionbudget.policy "b" is forbidden: DisruptedPods map too big - too many evictions not confirmed by PDB controller [DisruptionBudget: The disruption budget b does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller]`},
		"two budgets":                                {prepare: func(w *world) { w.running("p", "a", true); w.budget("b", "a", allow(1)); w.budget("c", "a", allow(1)) }, want: "500 This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."},
		"a pending pod goes without asking": {prepare: func(w *world) {
			w.running("p", "a", false)
			w.phase("p", corev1.PodPending)
			w.budget("b", "a", allow(0))
		}},
		"an ended pod goes without asking": {prepare: func(w *world) {
			w.running("p", "a", false)
			w.phase("p", corev1.PodFailed)
			w.budget("b", "a", allow(0))
		}},
		"not ready, the others are enough: it goes": {prepare: func(w *world) { w.running("p", "a", false); w.budget("b", "a", allow(0)) }},
		"not ready, the others are too few: it stays": {prepare: func(w *world) {
			w.running("p", "a", false)
			w.budget("b", "a", few(), policy(policyv1.IfHealthyBudget))
		}, want: over + "needs 2 healthy pods and has 1 currently]"},
		"not ready, and always allowed: it goes": {prepare: func(w *world) { w.running("p", "a", false); w.budget("b", "a", few(), policy(policyv1.AlwaysAllow)) }},
		"another uid": {
			prepare: func(w *world) { w.running("p", "a", true) }, options: metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("x")},
			want: "409 Operation cannot be fulfilled on Pod \"p\": the UID in the precondition (x) does not match",
		},
		"no such pod": {prepare: func(*world) {}, want: `404 pods "p" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.prepare(w)
			err := w.Evict(context.Background(), "default", "p", c.options)
			if got := words(err); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
				t.Fatalf("%s\nwant %s", got, c.want)
			}
			p, _ := w.now(w.kind("Pod"), "p").(*corev1.Pod)
			if c.want == "" {
				if p.DeletionTimestamp == nil || condition(p) != "True EvictionByEvictionAPI Eviction API: evicting" {
					t.Errorf("deletion %v, condition %s", p.DeletionTimestamp, condition(p))
				}
			} else if p != nil && (p.DeletionTimestamp != nil || condition(p) != "") {
				t.Errorf("it is to stay: %v %s", p.DeletionTimestamp, condition(p))
			}
		})
	}
}

func (w *world) phase(name string, phase corev1.PodPhase) {
	w.report(w.kind("Pod"), name, func(o resource.Object) { o.(*corev1.Pod).Status.Phase = phase })
}

func everything(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = &metav1.LabelSelector{} }
func nothing(b *policyv1.PodDisruptionBudget)    { b.Spec.Selector = nil }

func few() policyv1.PodDisruptionBudgetStatus {
	return policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DesiredHealthy: 2, CurrentHealthy: 1}
}

func failedSync() policyv1.PodDisruptionBudgetStatus {
	return policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{{
		Type: "DisruptionAllowed", Status: "False", Reason: "SyncFailed", Message: "no scale", LastTransitionTime: metav1.Unix(1, 0),
	}}}
}

func crowded() policyv1.PodDisruptionBudgetStatus {
	s := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, DisruptedPods: map[string]metav1.Time{}}
	for i := range 2001 {
		s.DisruptedPods[fmt.Sprint(i)] = metav1.Unix(1, 0)
	}
	return s
}

func condition(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

func TestAnEvictionIsTakenFromTheBudget(t *testing.T) {
	w := newWorld(t)
	w.running("p", "a", true)
	w.budget("b", "a", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, DesiredHealthy: 2, CurrentHealthy: 3})
	if err := w.Evict(context.Background(), "default", "p", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	if p := w.now(w.kind("Pod"), "p").(*corev1.Pod); p.DeletionTimestamp != nil || condition(p) != "" {
		t.Errorf("a dry run leaves %+v", p)
	}
	if b := w.now(w.budgets(), "b").(*policyv1.PodDisruptionBudget); b.Status.DisruptionsAllowed != 1 {
		t.Errorf("a dry run leaves %+v", b.Status)
	}
	if err := w.Evict(context.Background(), "default", "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s := w.now(w.budgets(), "b").(*policyv1.PodDisruptionBudget).Status
	if _, noted := s.DisruptedPods["p"]; !noted || s.DisruptionsAllowed != 0 || len(s.Conditions) != 1 || s.Conditions[0].Reason != "InsufficientPods" {
		t.Errorf("%+v", s)
	}
	if err := w.Evict(context.Background(), "default", "p", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("what is being deleted is evicted: %v", err)
	}
}

// However many evict at once, as many pass as the budget allows.
func TestEvictionsAtOnceNeverPassMoreThanTheBudget(t *testing.T) {
	const pods, allowed = 60, 7
	w := newWorld(t)
	for i := range pods {
		w.running(fmt.Sprint("p", i), "a", true)
	}
	w.budget("b", "a", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: allowed, DesiredHealthy: pods - allowed, CurrentHealthy: pods})
	var passed atomic.Int32
	var all sync.WaitGroup
	for i := range pods {
		all.Go(func() {
			err := w.Evict(context.Background(), "default", fmt.Sprint("p", i), metav1.DeleteOptions{})
			switch {
			case err == nil:
				passed.Add(1)
			case !apierrors.IsTooManyRequests(err):
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := w.now(w.budgets(), "b").(*policyv1.PodDisruptionBudget).Status
	if passed.Load() != allowed || s.DisruptionsAllowed != 0 || len(s.DisruptedPods) != allowed {
		t.Errorf("%d passed, the budget says %+v", passed.Load(), s)
	}
	going := 0
	for o := range w.cache.Snapshot().List(w.kind("Pod"), cache.Selection{}) {
		if o.Decoded().GetDeletionTimestamp() != nil {
			going++
		}
	}
	if going != allowed {
		t.Errorf("%d pods go", going)
	}
}
