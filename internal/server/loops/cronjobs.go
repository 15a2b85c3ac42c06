package loops

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/controller/cronjob"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// cronJobs shows CronJobs and their Jobs to their controller.
type cronJobs struct {
	*world
	kind *resource.Kind
	jobs jobs
}

// cronJobController is the controller of CronJobs.
func cronJobController(w *world) part {
	cs := cronJobs{w, w.kindOf(batchv1.SchemeGroupVersion.WithKind("CronJob")), newJobs(w)}
	c := cronjob.New(cs, cs, w.Events.As("cronjob-controller", ""), w.Queues, w.Log)
	return part{account: "cronjob-controller", run: c.Run, on: map[*resource.Kind]func(change){
		cs.kind: func(ch change) { c.Mark(ch.key) },
		cs.jobs.kind: func(ch change) {
			for _, key := range ch.controllers(cs.kind) {
				c.Mark(key)
			}
		},
	}}
}

func (cs cronJobs) CronJob(key loop.Key) *batchv1.CronJob {
	return get[*batchv1.CronJob](cs.world, cs.kind, key.Namespace, key.Name)
}

func (cs cronJobs) Jobs(j *batchv1.CronJob) []*batchv1.Job {
	return owned[*batchv1.Job](cs.world, cs.jobs.kind, j.Namespace, j.UID)
}

func (cs cronJobs) CreateJob(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	made, err := cs.Registry.Create(ctx, cs.jobs.kind, job, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return made.(*batchv1.Job), cs.shown(ctx)
}

func (cs cronJobs) DeleteJob(ctx context.Context, job *batchv1.Job) error {
	return cs.jobs.deleteJob(ctx, job, metav1.DeletePropagationBackground)
}

func (cs cronJobs) SetStatus(ctx context.Context, j *batchv1.CronJob, status batchv1.CronJobStatus) error {
	return cs.setSeen(ctx, cs.kind, j, func(o resource.Object) { o.(*batchv1.CronJob).Status = status })
}
