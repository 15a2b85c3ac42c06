package statefulset

import (
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/workload"
)

// Kind is the kind of the sets.
var Kind = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "StatefulSet"}

// Revision is a template under the name of the ControllerRevision that holds it.
type Revision struct {
	Name     string
	Template *corev1.PodTemplateSpec
}

// ordinal is the number in a pod's name, if the name is one that the set gives.
func ordinal(set *appsv1.StatefulSet, pod *corev1.Pod) (int, bool) {
	number, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != number {
		return 0, false
	}
	return int(n), true
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// start is the lowest ordinal of the set.
func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// newPod makes the pod of that ordinal.
func newPod(set *appsv1.StatefulSet, r Revision, ordinal int) *corev1.Pod {
	pod := workload.NewPod(set, Kind, r.Template)
	pod.Name = podName(set, ordinal)
	identify(set, pod, ordinal)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = r.Name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName // these cannot be changed later
	pod.Spec.Volumes = volumes(set, pod.Spec.Volumes, ordinal)
	return pod
}

// identify gives a pod the labels that say which one it is.
func identify(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) {
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = podName(set, ordinal)
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

func identified(pod *corev1.Pod) bool { return pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name }

// claimName is the name of the claim that a pod has for one of the set's templates.
func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + podName(set, ordinal)
}

// Names says whether a pod of the set could have a claim of that name.
func Names(set *appsv1.StatefulSet, claim string) bool {
	for i := range set.Spec.VolumeClaimTemplates {
		number, ok := strings.CutPrefix(claim, set.Spec.VolumeClaimTemplates[i].Name+"-"+set.Name+"-")
		if _, err := strconv.ParseUint(number, 10, 31); ok && err == nil {
			return true
		}
	}
	return false
}

// claims are those that the pod of that ordinal needs.
func claims(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var all []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		c := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.Name, c.Namespace = claimName(set, c.Name, ordinal), set.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		maps.Copy(c.Labels, set.Spec.Selector.MatchLabels)
		all = append(all, c)
	}
	return all
}

// volumes are those of a template, with the claims in front, which take the place of volumes of their names.
func volumes(set *appsv1.StatefulSet, others []corev1.Volume, ordinal int) []corev1.Volume {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return others
	}
	var all []corev1.Volume
	claimed := map[string]bool{}
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name
		claimed[name] = true
		all = append(all, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, name, ordinal)},
		}})
	}
	for _, v := range others {
		if !claimed[v.Name] {
			all = append(all, v)
		}
	}
	return all
}
