package job

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/workload"
)

// noIndex is the index of pods that have none.
const noIndex = -1

// indexVariable tells a container the index of its pod.
const indexVariable = "JOB_COMPLETION_INDEX"

// longestPrefix is how much of a generated name is not drawn by lot.
const longestPrefix = 58

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// newPod makes a pod of the job. before is the failed pod that it replaces, if failures are counted for each index; nil if there is none.
func newPod(j *batchv1.Job, index int, before *corev1.Pod) *corev1.Pod {
	p := workload.NewPod(j, kind, &j.Spec.Template)
	track(p)
	if index == noIndex {
		return p
	}
	number := strconv.Itoa(index)
	suffix := "-" + number + "-"
	p.GenerateName = j.Name[:min(len(j.Name), longestPrefix-len(suffix))] + suffix
	p.Spec.Hostname = fmt.Sprintf("%s-%d", j.Name, index)
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, batchv1.JobCompletionIndexAnnotation, number)
	metav1.SetMetaDataLabel(&p.ObjectMeta, batchv1.JobCompletionIndexAnnotation, number)
	if j.Spec.BackoffLimitPerIndex != nil {
		counted, ignored := 0, 0
		if before != nil {
			counted, ignored = failuresOf(before)
			if judge(j.Spec.PodFailurePolicy, before).counts {
				counted++
			} else {
				ignored++
			}
		}
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(counted)
		if ignored > 0 {
			p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if !slices.ContainsFunc(list[i].Env, func(v corev1.EnvVar) bool { return v.Name == indexVariable }) {
				list[i].Env = append(list[i].Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
					FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
				}})
			}
		}
	}
	return p
}

// isTracked says that a pod is held until the job has counted it.
func isTracked(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

func track(p *corev1.Pod) {
	if !isTracked(p) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
}

func untrack(p *corev1.Pod) {
	p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
}

// indexOf is the pod's index; noIndex if it has none that makes sense.
func indexOf(p *corev1.Pod) int {
	return max(noIndex, number(p, batchv1.JobCompletionIndexAnnotation, noIndex))
}

// failuresOf is how many pods of the index failed before this one, those that count and those that a policy ignored.
func failuresOf(p *corev1.Pod) (counted, ignored int) {
	return max(0, number(p, batchv1.JobIndexFailureCountAnnotation, 0)), max(0, number(p, batchv1.JobIndexIgnoredFailureCountAnnotation, 0))
}

func number(p *corev1.Pod, annotation string, otherwise int) int {
	n, err := strconv.Atoi(p.Annotations[annotation])
	if err != nil || n > math.MaxInt32 {
		return otherwise
	}
	return n
}

var phases = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

// leastUsefulFirst sorts active pods by how far they are: those go first that have come least far.
func leastUsefulFirst(a, b *corev1.Pod) int {
	bound := func(p *corev1.Pod) int { return min(len(p.Spec.NodeName), 1) }
	ready := func(p *corev1.Pod) int {
		if workload.Ready(p) {
			return 1
		}
		return 0
	}
	restarts := func(p *corev1.Pod) (n int32) {
		for i := range p.Status.ContainerStatuses {
			n = max(n, p.Status.ContainerStatuses[i].RestartCount)
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(bound(a), bound(b)), cmp.Compare(phases[a.Status.Phase], phases[b.Status.Phase]), cmp.Compare(ready(a), ready(b)),
		workload.ReadySince(b).Compare(workload.ReadySince(a)), cmp.Compare(restarts(b), restarts(a)),
		b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID),
	)
}

func byIndex(a, b *corev1.Pod) int { return cmp.Compare(indexOf(a), indexOf(b)) }
