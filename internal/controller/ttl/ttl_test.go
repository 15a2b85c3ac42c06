package ttl

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

type world struct {
	mu      sync.Mutex
	jobs    map[string]*batchv1.Job
	deleted []string
}

func (w *world) Job(key loop.Key) *batchv1.Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jobs[key.Name]
}

func (w *world) DeleteJob(_ context.Context, j *batchv1.Job) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deleted = append(w.deleted, j.Name)
	delete(w.jobs, j.Name)
	return nil
}

func TestJobsGoWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		end := func(kind batchv1.JobConditionType, status corev1.ConditionStatus, ago time.Duration) batchv1.JobStatus {
			return batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: kind, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}}
		}
		job := func(ttl *int32, status batchv1.JobStatus) *batchv1.Job {
			return &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}, Status: status}
		}
		w := &world{jobs: map[string]*batchv1.Job{
			"at once":       job(new(int32(0)), end(batchv1.JobComplete, "True", 0)),
			"long ago":      job(new(int32(60)), end(batchv1.JobFailed, "True", time.Hour)),
			"in a minute":   job(new(int32(60)), end(batchv1.JobComplete, "True", 0)),
			"kept for ever": job(nil, end(batchv1.JobComplete, "True", time.Hour)),
			"not ended":     job(new(int32(0)), end(batchv1.JobSuspended, "True", time.Hour)),
			"going already": job(new(int32(0)), end(batchv1.JobFailed, "True", time.Hour)),
		}}
		w.jobs["going already"].DeletionTimestamp = new(metav1.Now())
		for name, j := range w.jobs {
			j.Name = name
		}
		c := New(w, w, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		for name := range w.jobs {
			c.Mark(loop.Key{Name: name})
		}
		c.Mark(loop.Key{Name: "no job"})
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			slices.Sort(w.deleted)
			if !slices.Equal(w.deleted, want) {
				t.Errorf("%q, want %q", w.deleted, want)
			}
			w.deleted = nil
		}
		expect("at once", "long ago")
		time.Sleep(59 * time.Second)
		expect()
		time.Sleep(2 * time.Second)
		expect("in a minute")
		time.Sleep(time.Hour)
		expect()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
