package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource/batch"
)

var theJob = loop.Key{Namespace: "ns", Name: "sum"}

// world is a job, its pods, and a node that runs them. It keeps books of its own on what ends how, and compares them with the status at each write.
type world struct {
	t *testing.T

	mu     sync.Mutex
	job    *batchv1.Job // nil: it is gone
	pods   map[string]*corev1.Pod
	made   int
	events []string

	lucky   func() bool                   // asked before each write and after it: false kills the program there
	meddle  func()                        // called before each write, with the lock held
	dead    bool                          // the program has been killed: nothing it does has any effect
	booked  map[types.UID]corev1.PodPhase // as what a pod was first written into the status
	surplus map[types.UID]bool            // pods that the controller did not want any more
}

var errKilled = errors.New("the program is killed")

func newWorld(t *testing.T, spec batchv1.JobSpec) *world {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: theJob.Namespace, Name: theJob.Name, UID: "job-1", CreationTimestamp: seconds(time.Now())}, Spec: spec}
	if j.Spec.Template.Spec.RestartPolicy == "" {
		j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "work", Image: "sum"}}
	kind := batch.Job()
	kind.Default(j)
	kind.PrepareCreate(j)
	if errs := kind.Validate(j); len(errs) > 0 {
		t.Fatal(errs)
	}
	j.ResourceVersion = "1"
	return &world{t: t, job: j, pods: map[string]*corev1.Pod{}, booked: map[types.UID]corev1.PodPhase{}, surplus: map[types.UID]bool{}}
}

func (w *world) Job(key loop.Key) *batchv1.Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	if key != theJob {
		return nil
	}
	return w.job.DeepCopy()
}

func (w *world) Pod(key loop.Key) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[key.Name].DeepCopy()
}

func (w *world) Pods(j *batchv1.Job, sel labels.Selector) (list []*corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.sorted() {
		if ref := metav1.GetControllerOf(p); ref != nil && ref.UID == j.UID || ref == nil && sel.Matches(labels.Set(p.Labels)) {
			list = append(list, p.DeepCopy())
		}
	}
	return list
}

func (w *world) sorted() []*corev1.Pod {
	list := make([]*corev1.Pod, 0, len(w.pods))
	for _, p := range w.pods {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *corev1.Pod) int { return len(a.UID) - len(b.UID) + 2*compare(a.UID, b.UID) })
	return list
}

func compare(a, b types.UID) int {
	switch {
	case len(a) != len(b):
		return len(a) - len(b)
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// write is one write of the program, which may be killed just before it or just after it.
func (w *world) write(do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	if w.meddle != nil {
		w.meddle()
	}
	if w.lucky != nil && !w.lucky() {
		w.dead = true
		return errKilled
	}
	if err := do(); err != nil {
		return err
	}
	if w.lucky != nil && !w.lucky() {
		w.dead = true
		return errKilled
	}
	return nil
}

func (w *world) CreatePod(_ context.Context, p *corev1.Pod) (*corev1.Pod, error) {
	return p, w.write(func() error {
		w.made++
		p.Name, p.UID = fmt.Sprint(p.GenerateName, w.made), types.UID(fmt.Sprint("pod-", w.made))
		p.CreationTimestamp = seconds(time.Now())
		p.Status.Phase = corev1.PodPending
		if !isTracked(p) || !metav1.IsControlledBy(p, w.job) {
			w.t.Errorf("pod %s is made without finalizer or owner", p.Name)
		}
		w.pods[p.Name] = p.DeepCopy()
		return nil
	})
}

func (w *world) DeletePod(_ context.Context, pod *corev1.Pod) error {
	return w.write(func() error { return w.remove(pod.Name) })
}

// remove tells a pod to go, as anybody may.
func (w *world) remove(name string) error {
	p := w.pods[name]
	if p == nil {
		return apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	p = p.DeepCopy()
	if p.DeletionTimestamp == nil {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.NewTime(time.Now().Add(30*time.Second))), new(int64(30))
	}
	w.put(p)
	return nil
}

// put stores a pod, or takes it away if nothing holds it.
func (w *world) put(p *corev1.Pod) {
	w.pods[p.Name] = p
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodPending
	if p.DeletionTimestamp != nil && len(p.Finalizers) == 0 && ended {
		delete(w.pods, p.Name)
	}
}

func (w *world) UpdatePod(_ context.Context, pod *corev1.Pod, change func(*corev1.Pod)) error {
	return w.write(func() error {
		if w.pods[pod.Name] == nil {
			return apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		}
		p := w.pods[pod.Name].DeepCopy()
		change(p)
		if isTracked(w.pods[pod.Name]) && !isTracked(p) {
			w.letGo(p)
		}
		w.put(p)
		return nil
	})
}

// letGo checks that a pod that nobody can count any more has been counted.
func (w *world) letGo(p *corev1.Pod) {
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil
	_, booked := w.booked[p.UID]
	switch {
	case w.job == nil || isFinished(w.job) || w.job.DeletionTimestamp != nil:
	case !ended && !booked:
		w.surplus[p.UID] = true
	case !booked && judge(w.job.Spec.PodFailurePolicy, p).counts && !w.indexIsDone(p) && find(w.job.Status.Conditions, batchv1.JobSuccessCriteriaMet) == nil:
		w.t.Errorf("pod %s (%s) is let go and not counted", p.Name, p.Status.Phase)
	}
}

func (w *world) indexIsDone(p *corev1.Pod) bool {
	if !isIndexed(w.job) || indexOf(p) >= int(*w.job.Spec.Completions) {
		return isIndexed(w.job)
	}
	n := int(*w.job.Spec.Completions)
	return parseIndexes(w.job.Status.CompletedIndexes, n).has(indexOf(p)) || parseIndexes(deref(w.job.Status.FailedIndexes), n).has(indexOf(p))
}

func (w *world) SetStatus(_ context.Context, j *batchv1.Job, status batchv1.JobStatus) error {
	return w.write(func() error {
		if w.job == nil {
			return apierrors.NewNotFound(batchv1.Resource("jobs"), j.Name)
		}
		if w.job.ResourceVersion != j.ResourceVersion {
			return apierrors.NewConflict(batchv1.Resource("jobs"), j.Name, errors.New("changed"))
		}
		next := w.job.DeepCopy()
		next.Status = *status.DeepCopy()
		if errs := batch.Job().Status.ValidateUpdate(next, w.job); len(errs) > 0 {
			w.t.Errorf("bad status: %v", errs)
		}
		w.book(next)
		w.change(next)
		return nil
	})
}

// book takes down what a status counts, and demands that it counts each once: pods by UID and pods as numbers are together as many as have been booked.
func (w *world) book(j *batchv1.Job) {
	for phase, list := range map[corev1.PodPhase][]types.UID{
		corev1.PodSucceeded: j.Status.UncountedTerminatedPods.Succeeded, corev1.PodFailed: j.Status.UncountedTerminatedPods.Failed,
	} {
		for _, uid := range list {
			if was, booked := w.booked[uid]; booked && was != phase {
				w.t.Errorf("%s was %s, and is %s now", uid, was, phase)
			}
			w.booked[uid] = phase
		}
	}
	n := map[corev1.PodPhase]int{}
	for _, phase := range w.booked {
		n[phase]++
	}
	u := j.Status.UncountedTerminatedPods
	if got := int(j.Status.Failed) + len(u.Failed); got != n[corev1.PodFailed] {
		w.t.Errorf("%d have failed, by the status %d", n[corev1.PodFailed], got)
	}
	if got := int(j.Status.Succeeded) + len(u.Succeeded); !isIndexed(j) && got != n[corev1.PodSucceeded] {
		w.t.Errorf("%d have succeeded, by the status %d", n[corev1.PodSucceeded], got)
	}
	if got := parseIndexes(j.Status.CompletedIndexes, int(deref(j.Spec.Completions))).total(); isIndexed(j) && got != int(j.Status.Succeeded) {
		w.t.Errorf("%s: that is %d, and not %d", j.Status.CompletedIndexes, got, j.Status.Succeeded)
	}
}

// change stores another state of the job.
func (w *world) change(j *batchv1.Job) {
	n, _ := strconv.Atoi(w.job.ResourceVersion)
	j.ResourceVersion = strconv.Itoa(n + 1)
	w.job = j
}

func (w *world) Record(_ runtime.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, kind+" "+reason+" "+message)
}

// end makes a pod end so. The lock is held, or nobody else is there.
func (w *world) end(name string, phase corev1.PodPhase, code int32) {
	p := w.pods[name].DeepCopy()
	p.Status.Phase = phase
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "work", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: seconds(time.Now())},
	}}}
	w.put(p)
}

// run makes the pods run that wait.
func (w *world) run() {
	for _, p := range w.sorted() {
		if p.Status.Phase == corev1.PodPending && p.DeletionTimestamp == nil {
			p = p.DeepCopy()
			p.Spec.NodeName, p.Status.Phase = "n1", corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: seconds(time.Now())}}
			w.put(p)
		}
	}
}

// act lets something happen that the controller has no hand in.
func (w *world) act(r *rand.Rand) {
	w.run()
	list := slices.DeleteFunc(w.sorted(), func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if len(list) == 0 {
		return
	}
	p := list[r.IntN(len(list))]
	switch r.IntN(6) {
	case 0, 1:
		w.end(p.Name, corev1.PodSucceeded, 0)
	case 2, 3:
		w.end(p.Name, corev1.PodFailed, int32(1+r.IntN(3)))
	case 4:
		_ = w.remove(p.Name)
	}
}
