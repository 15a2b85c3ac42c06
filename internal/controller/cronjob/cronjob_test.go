package cronjob

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// world is a CronJob and its jobs.
type world struct {
	mu      sync.Mutex
	cron    *batchv1.CronJob
	version int
	jobs    map[string]*batchv1.Job
	made    []string
	events  []string
	lucky   func() bool // asked before and after each write: false kills the program there
	dead    bool
}

func (w *world) CronJob(loop.Key) *batchv1.CronJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cron.DeepCopy()
}

func (w *world) Jobs(*batchv1.CronJob) (list []*batchv1.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, job := range w.jobs {
		list = append(list, job.DeepCopy())
	}
	return list
}

var errKilled = errors.New("the program is killed")

func (w *world) write(do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead = w.dead || !w.lucky(); w.dead {
		return errKilled
	}
	if err := do(); err != nil {
		return err
	}
	if w.dead = !w.lucky(); w.dead {
		return errKilled
	}
	return nil
}

func (w *world) CreateJob(_ context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	return job, w.write(func() error {
		if w.jobs[job.Name] != nil {
			return apierrors.NewAlreadyExists(batchv1.Resource("jobs"), job.Name)
		}
		job.UID = types.UID("uid-" + job.Name)
		job.Status.StartTime = new(metav1.Now())
		w.jobs[job.Name] = job.DeepCopy()
		w.made = append(w.made, job.Name)
		return nil
	})
}

func (w *world) DeleteJob(_ context.Context, job *batchv1.Job) error {
	return w.write(func() error { delete(w.jobs, job.Name); return nil })
}

func (w *world) SetStatus(_ context.Context, j *batchv1.CronJob, status batchv1.CronJobStatus) error {
	return w.write(func() error {
		if j.ResourceVersion != w.cron.ResourceVersion {
			return apierrors.NewConflict(batchv1.Resource("cronjobs"), j.Name, errors.New("changed"))
		}
		w.cron = w.cron.DeepCopy()
		w.version++
		w.cron.Status, w.cron.ResourceVersion = status, fmt.Sprint(w.version)
		return nil
	})
}

func (w *world) Record(_ runtime.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, kind+" "+reason+" "+message)
}

// For each time there is one job, however often the program is killed, as long as it is up again before the next time; and only so many are kept.
func TestThereIsOneJobForEachTimeOverKillsAtAnyWrite(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r, luck := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
			w := &world{jobs: map[string]*batchv1.Job{}, lucky: func() bool { return luck.IntN(6) > 0 }}
			w.cron = newCronJob(func(j *batchv1.CronJob) {
				j.CreationTimestamp, j.Spec.Schedule = metav1.NewTime(time.Now()), "*/10 * * * *"
			})
			begun := time.Now()
			key := loop.Key{Namespace: "ns", Name: "sum"}
			for w.begun() < 50 {
				ctx, stop := context.WithCancel(t.Context())
				c := New(w, w, w, nil, nil)
				done := make(chan error)
				go func() { done <- c.Run(ctx) }()
				c.Mark(key)
				for !w.isDead() && w.begun() < 50 {
					time.Sleep(time.Duration(1+r.IntN(120)) * time.Second)
					w.endSome(r)
					c.Mark(key)
					synctest.Wait()
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.dead = false
				time.Sleep(time.Second)
			}
			for i, name := range w.made {
				if at := begun.Truncate(10 * time.Minute).Add(time.Duration(i+1) * 10 * time.Minute); name != fmt.Sprintf("sum-%d", at.Unix()/60) {
					t.Fatalf("seed %d: %q", seed, w.made)
				}
			}
			if s := w.cron.Status; len(s.Active) > len(w.jobs) || s.LastScheduleTime == nil || s.LastSuccessfulTime == nil {
				t.Errorf("seed %d: %+v", seed, s)
			}
			// Left alone, it keeps what it shall keep.
			w.lucky = func() bool { return true }
			for _, job := range w.jobs {
				job.Status.Conditions = jobs("x:complete")[0].Status.Conditions
			}
			c := New(w, w, w, nil, nil)
			if err := c.Reconcile(t.Context(), key); err != nil || len(w.jobs) != 2 || len(w.cron.Status.Active) > 0 {
				t.Errorf("seed %d: %v, %d jobs are kept, %v", seed, err, len(w.jobs), w.cron.Status.Active)
			}
			w.events = nil
			if err := c.Reconcile(t.Context(), key); err != nil || len(w.events) > 0 {
				t.Errorf("seed %d: %v, and then %q", seed, err, w.events)
			}
		})
		if t.Failed() {
			return
		}
	}
}

func (w *world) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

func (w *world) begun() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.made)
}

// endSome lets some jobs end.
func (w *world) endSome(r *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := make([]string, 0, len(w.jobs))
	for name := range w.jobs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if ended(w.jobs[name]) == "" && r.IntN(4) == 0 {
			job := w.jobs[name].DeepCopy()
			job.Status.Conditions = jobs([]string{"x:complete", "x:failed"}[r.IntN(2)])[0].Status.Conditions
			if ended(job) == batchv1.JobComplete {
				job.Status.CompletionTime = new(metav1.Now())
			}
			w.jobs[name] = job
		}
	}
}
