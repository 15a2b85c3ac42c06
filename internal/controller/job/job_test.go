package job

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

func TestPodsWithoutAJobAreLetGo(t *testing.T) {
	finished := func(j *batchv1.Job) {
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
	}
	for name, c := range map[string]struct {
		change func(w *world, p *corev1.Pod)
		stays  bool
	}{
		"its job runs":             {change: func(*world, *corev1.Pod) {}, stays: true},
		"its job is gone":          {change: func(w *world, _ *corev1.Pod) { w.job = nil }},
		"its job is another one":   {change: func(w *world, _ *corev1.Pod) { w.job.UID = "job-2" }},
		"its job has ended":        {change: func(w *world, _ *corev1.Pod) { finished(w.job) }},
		"its job is somebody's":    {change: func(w *world, _ *corev1.Pod) { finished(w.job); w.job.Spec.ManagedBy = new("acme.io/jobs") }, stays: true},
		"it has no owner":          {change: func(_ *world, p *corev1.Pod) { p.OwnerReferences = nil }},
		"its owner is no job":      {change: func(_ *world, p *corev1.Pod) { p.OwnerReferences[0].Kind = "ReplicaSet" }, stays: true},
		"its owner is no such job": {change: func(_ *world, p *corev1.Pod) { p.OwnerReferences[0].APIVersion = "acme.io/v1" }, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, batchv1.JobSpec{})
			c1 := New(w, w, w, nil, nil)
			p := pods("a")[0]
			w.pods["a"] = p
			c.change(w, p)
			if err := c1.reconcileOrphan(t.Context(), loop.Key{Namespace: "ns", Name: "a"}); err != nil {
				t.Fatal(err)
			}
			if got := isTracked(w.pods["a"]); got != c.stays {
				t.Errorf("held: %t", got)
			}
		})
	}
}

func TestPodsComeAndLeaveByTheirLabels(t *testing.T) {
	w := newWorld(t, batchv1.JobSpec{ManualSelector: new(true), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "sum"}}, Template: corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": "sum"}},
	}})
	c := New(w, w, w, nil, nil)
	for _, p := range pods("a:alone:succeeded", "b:other") {
		w.pods[p.Name] = p
	}
	for range 3 {
		if err := c.Reconcile(t.Context(), theJob); err != nil {
			t.Fatal(err)
		}
	}
	if a := w.pods["a"]; !metav1.IsControlledBy(a, w.job) || isTracked(a) || w.job.Status.Succeeded != 1 || !isFinished(w.job) {
		t.Errorf("%+v, %+v", a.ObjectMeta, w.job.Status)
	}
	if b := w.pods["b"]; len(b.OwnerReferences)+len(b.Finalizers) > 0 {
		t.Errorf("%+v", b.ObjectMeta)
	}
}

// refusing refuses to create pods.
type refusing struct {
	*world
	err error
}

func (r refusing) CreatePod(context.Context, *corev1.Pod) (*corev1.Pod, error) { return nil, r.err }

func TestARefusedPodIsToldAndTriedAgain(t *testing.T) {
	w := newWorld(t, batchv1.JobSpec{Parallelism: new(int32(3))})
	quota := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))
	c := New(w, refusing{w, quota}, w, nil, nil)
	if err := c.Reconcile(t.Context(), theJob); err == nil || !strings.Contains(err.Error(), "exceeded quota") {
		t.Error(err)
	}
	if want := []string{`Warning FailedCreate Error creating: pods is forbidden: exceeded quota`}; !slices.Equal(w.events, want) {
		t.Errorf("%q", w.events)
	}
	if w.job.Status.StartTime == nil {
		t.Error("the status does not say that it has begun")
	}
	ending := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("namespace is ending"))
	ending.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	c = New(w, refusing{w, ending}, w, nil, nil)
	if err := c.Reconcile(t.Context(), theJob); err != nil || len(w.events) > 1 {
		t.Error(err, w.events)
	}
}

func TestJobsOfOthersAreLeftAlone(t *testing.T) {
	w := newWorld(t, batchv1.JobSpec{ManagedBy: new("acme.io/jobs")})
	c := New(w, w, w, nil, nil)
	if err := c.Reconcile(t.Context(), theJob); err != nil || len(w.pods) > 0 || w.job.Status.StartTime != nil {
		t.Error(err, w.job.Status)
	}
	w.job.Spec.ManagedBy = new(batchv1.JobControllerName)
	if err := c.Reconcile(t.Context(), theJob); err != nil || len(w.pods) != 1 {
		t.Error(err, w.job.Status)
	}
}
