package job

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// kinds of jobs that a model is made of.
var specs = map[string]batchv1.JobSpec{
	"a number of successes":          {Completions: new(int32(7)), Parallelism: new(int32(3)), BackoffLimit: new(int32(1000))},
	"few failures allowed":           {Completions: new(int32(7)), Parallelism: new(int32(3)), BackoffLimit: new(int32(4))},
	"one success is enough":          {Parallelism: new(int32(3)), BackoffLimit: new(int32(1000))},
	"only the dead are replaced":     {Completions: new(int32(6)), Parallelism: new(int32(4)), BackoffLimit: new(int32(1000)), PodReplacementPolicy: new(batchv1.Failed)},
	"indexed":                        {Completions: new(int32(7)), Parallelism: new(int32(3)), BackoffLimit: new(int32(1000)), CompletionMode: new(batchv1.IndexedCompletion)},
	"indexed, failures by the index": {Completions: new(int32(7)), Parallelism: new(int32(3)), CompletionMode: new(batchv1.IndexedCompletion), BackoffLimitPerIndex: new(int32(1))},
	"indexed, some indexes suffice": {
		Completions: new(int32(7)), Parallelism: new(int32(3)), BackoffLimit: new(int32(1000)), CompletionMode: new(batchv1.IndexedCompletion),
		SuccessPolicy: &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: new("0,2-4"), SucceededCount: new(int32(2))}}},
	},
	"some failures do not count": {
		Completions: new(int32(7)), Parallelism: new(int32(3)), BackoffLimit: new(int32(1000)),
		PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{2}},
		}}},
	},
	"some failures end an index": {
		Completions: new(int32(7)), Parallelism: new(int32(3)), CompletionMode: new(batchv1.IndexedCompletion), BackoffLimitPerIndex: new(int32(3)), MaxFailedIndexes: new(int32(3)),
		PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: batchv1.PodFailurePolicyActionFailIndex, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{2}},
		}, {
			Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{3}},
		}}},
	},
}

// Whatever happens, and wherever the program is killed, every pod that ends is counted once, as what it was, and every job comes to its end. The world's
// books are compared with the status at each write.
func TestEveryPodIsCountedOnceOverKillsAtAnyWrite(t *testing.T) {
	for name, spec := range specs {
		for _, suspends := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, suspended now and then: %t", name, suspends), func(t *testing.T) {
				for seed := range uint64(60) {
					synctest.Test(t, func(t *testing.T) { play(t, *spec.DeepCopy(), seed, suspends) })
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

func play(t *testing.T, spec batchv1.JobSpec, seed uint64, suspends bool) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, spec)
	w.lucky = func() bool { return r.IntN(12) > 0 }
	w.meddle = func() {
		if r.IntN(3) == 0 {
			w.act(r)
		}
	}
	c := New(w, w, w, nil, nil)
	reconcile := func() {
		err := c.Reconcile(t.Context(), theJob)
		if w.dead { // and started again
			w.dead = false
			c = New(w, w, w, nil, nil)
		} else if err != nil && !errors.Is(err, errKilled) {
			t.Error(err)
		}
		w.atMost()
	}
	for range 120 {
		switch n := r.IntN(10); {
		case n < 5:
			reconcile()
		case n < 8:
			w.act(r)
		case n == 8:
			time.Sleep(time.Duration(r.IntN(30)) * time.Second)
		case suspends && !isFinished(w.job):
			next := w.job.DeepCopy()
			next.Spec.Suspend = new(!isSuspended(next))
			w.change(next)
		}
	}
	// From here on nobody disturbs it, and each pod succeeds.
	w.lucky, w.meddle = nil, nil
	next := w.job.DeepCopy()
	next.Spec.Suspend = new(false)
	w.change(next)
	for range 200 {
		reconcile()
		w.run()
		for _, p := range w.sorted() {
			if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
				w.end(p.Name, corev1.PodSucceeded, 0)
			}
		}
		if isFinished(w.job) {
			break
		}
		time.Sleep(10 * time.Minute) // longer than any backoff
	}
	reconcile()
	w.finished()
}

// atMost checks that no more pods are active than are wanted.
func (w *world) atMost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	active, byIndex := 0, map[int]int{}
	for _, p := range w.pods {
		if p.DeletionTimestamp == nil && (p.Status.Phase == corev1.PodPending || p.Status.Phase == corev1.PodRunning) {
			active++
			byIndex[indexOf(p)]++
			if isIndexed(w.job) && byIndex[indexOf(p)] > 1 {
				w.t.Errorf("index %d runs twice", indexOf(p))
			}
		}
	}
	if active > int(*w.job.Spec.Parallelism) {
		w.t.Errorf("%d pods are active", active)
	}
}

// finished checks a job that has come to its end.
func (w *world) finished() {
	s := w.job.Status
	if !isFinished(w.job) {
		w.t.Fatalf("it never ends: %+v", s)
	}
	if s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || len(s.UncountedTerminatedPods.Succeeded)+len(s.UncountedTerminatedPods.Failed) != 0 {
		w.t.Errorf("not all is at rest: %+v", s)
	}
	for _, p := range w.sorted() {
		if isTracked(p) {
			w.t.Errorf("%s is held", p.Name)
		}
		if phase, booked := w.booked[p.UID]; booked && p.DeletionTimestamp == nil && phase != p.Status.Phase {
			w.t.Errorf("%s is %s, and counted as %s", p.Name, p.Status.Phase, phase)
		}
	}
	ends := 0
	for _, e := range w.events {
		for _, reason := range []string{" Completed ", " BackoffLimitExceeded ", " FailedIndexes ", " MaxFailedIndexesExceeded "} {
			if i := slices.Index([]string{"Normal" + reason, "Warning" + reason}, e[:min(len(e), len(reason)+len("Warning"))]); i >= 0 {
				ends++
			}
		}
	}
	if ends > 1 {
		w.t.Errorf("it ended %d times: %q", ends, w.events)
	}
	if complete := find(s.Conditions, batchv1.JobComplete) != nil; complete && w.job.Spec.SuccessPolicy == nil && w.job.Spec.Completions != nil && s.Succeeded < *w.job.Spec.Completions {
		w.t.Errorf("complete with %d", s.Succeeded)
	}
}
