package loops

import (
	"context"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/controller/job"
	"sampan.dev/internal/controller/ttl"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// jobs shows Jobs to their controllers.
type jobs struct {
	*world
	kind *resource.Kind
}

func newJobs(w *world) jobs {
	return jobs{w, w.kindOf(batchv1.SchemeGroupVersion.WithKind("Job"))}
}

// jobController is the controller of Jobs.
func jobController(w *world) part {
	js := newJobs(w)
	c := job.New(js, js, w.Events.As("job-controller", ""), w.Queues, w.Log)
	return part{account: "job-controller", run: c.Run, on: map[*resource.Kind]func(change){
		js.kind: func(ch change) {
			c.Mark(ch.key)
			if ch.new != nil {
				return
			}
			for _, p := range owned[*corev1.Pod](w, w.pods, ch.key.Namespace, ch.was.UID) {
				if isHeld(p.Finalizers) {
					c.PodOrphaned(loop.Key{Namespace: p.Namespace, Name: p.Name})
				}
			}
		},
		w.pods: func(ch change) {
			w.markControllers(ch, js.kind, jobSelector, c.Mark)
			if ch.new != nil && isHeld(ch.is.Finalizers) && js.isOrphan(ch) {
				c.PodOrphaned(ch.key)
			}
		},
	}}
}

// expiry deletes Jobs some time after they have ended.
func expiry(w *world) part {
	js := newJobs(w)
	c := ttl.New(js, expired{js}, w.Queues, w.Log)
	return part{account: "ttl-after-finished-controller", run: c.Run, on: map[*resource.Kind]func(change){
		js.kind: func(ch change) {
			if ch.new == nil {
				return
			}
			if _, ever := ttl.Expires(ch.new.Decoded().(*batchv1.Job)); ever {
				c.Mark(ch.key)
			}
		},
	}}
}

func jobSelector(o resource.Object) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(o.(*batchv1.Job).Spec.Selector)
}

// isHeld says that a job's controller has to let the pod go.
func isHeld(finalizers []string) bool {
	return slices.Contains(finalizers, batchv1.JobTrackingFinalizer)
}

// isOrphan says that no job of that name is there. The controller looks more closely.
func (js jobs) isOrphan(ch change) bool {
	owner := controllerOf(ch.is)
	return owner == nil || owner.Kind == js.kind.Kind && js.Cache.Snapshot().Get(js.kind, ch.key.Namespace, owner.Name) == nil
}

func (js jobs) Job(key loop.Key) *batchv1.Job {
	return get[*batchv1.Job](js.world, js.kind, key.Namespace, key.Name)
}

func (js jobs) Pods(j *batchv1.Job, sel labels.Selector) []*corev1.Pod {
	return append(owned[*corev1.Pod](js.world, js.pods, j.Namespace, j.UID), orphans[*corev1.Pod](js.world, js.pods, j.Namespace, sel)...)
}

func (js jobs) CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return js.createPod(ctx, pod)
}

func (js jobs) DeletePod(ctx context.Context, pod *corev1.Pod) error {
	return js.delete(ctx, js.pods, pod.Namespace, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

func (js jobs) UpdatePod(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error {
	return js.update(ctx, js.pods, "", pod.Namespace, pod.Name, pod.UID, func(o resource.Object) { change(o.(*corev1.Pod)) })
}

func (js jobs) SetStatus(ctx context.Context, j *batchv1.Job, status batchv1.JobStatus) error {
	return js.setSeen(ctx, js.kind, j, func(o resource.Object) { o.(*batchv1.Job).Status = status })
}

// setSeen changes the status of an object if it still is as it was seen, and returns a conflict if not.
func (w *world) setSeen(ctx context.Context, kind *resource.Kind, seen metav1.Object, change func(resource.Object)) error {
	_, _, err := w.Registry.Update(ctx, kind, "status", seen.GetNamespace(), seen.GetName(), func(current resource.Object) (resource.Object, error) {
		if current.GetUID() != seen.GetUID() {
			return nil, apierrors.NewNotFound(kind.GroupResource(), seen.GetName())
		}
		current.SetResourceVersion(seen.GetResourceVersion())
		change(current)
		return current, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return w.shown(ctx)
}

// expired writes for the controller that deletes jobs some time after they have ended.
type expired struct{ jobs }

func (e expired) DeleteJob(ctx context.Context, j *batchv1.Job) error {
	return e.deleteJob(ctx, j, metav1.DeletePropagationForeground)
}

func (js jobs) deleteJob(ctx context.Context, j *batchv1.Job, how metav1.DeletionPropagation) error {
	return js.delete(ctx, js.kind, j.Namespace, j.Name, metav1.DeleteOptions{PropagationPolicy: &how, Preconditions: &metav1.Preconditions{UID: &j.UID}})
}
