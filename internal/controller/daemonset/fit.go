package daemonset

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"sampan.dev/internal/workload"
)

// Kind is the kind of the sets.
var Kind = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}

// generationLabel tells of which of the set's templates a pod was made, as it was told before there were revisions.
const generationLabel = "pod-template-generation"

// Fit says on which nodes a set's pods run. It is worked out once for all nodes.
type Fit struct {
	node        string // the only one; empty: any
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
}

// FitOf works out what the set's pods ask of a node.
func FitOf(ds *appsv1.DaemonSet) *Fit {
	spec := &ds.Spec.Template.Spec
	return &Fit{node: spec.NodeName, affinity: nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec}), tolerations: tolerations(spec)}
}

// On says whether a pod is to run on the node, and whether one that runs there already may stay: taints that are only about scheduling do not end it.
func (f *Fit) On(node *corev1.Node) (run, stay bool) {
	if f.node != "" && f.node != node.Name {
		return false, false
	}
	if match, err := f.affinity.Match(node); err != nil || !match {
		return false, false
	}
	run, stay = true, true
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectNoSchedule && taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if slices.ContainsFunc(f.tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, true) }) {
			continue
		}
		run, stay = false, stay && taint.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay
}

// tolerations are those of the template and those that every daemon has: it stays through what is wrong with its node.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	all := slices.Clone(spec.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		for i := range all {
			if all[i].MatchToleration(&t) {
				all[i] = t
				return
			}
		}
		all = append(all, t)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return all
}

// newPod makes the set's pod for a node. The scheduler binds it: it fits nowhere else.
func newPod(ds *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	pod := workload.NewPod(ds, Kind, &ds.Spec.Template)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if generation, ok := templateGeneration(ds); ok {
		pod.Labels[generationLabel] = generation
	}
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	pod.Spec.Affinity = onlyOn(pod.Spec.Affinity, node)
	return pod
}

// onlyOn is the affinity with the node's name in the place of what it required of nodes: the node has been found to satisfy that.
func onlyOn(a *corev1.Affinity, node string) *corev1.Affinity {
	if a == nil {
		a = &corev1.Affinity{}
	}
	if a.NodeAffinity == nil {
		a.NodeAffinity = &corev1.NodeAffinity{}
	}
	a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
	return a
}

// nodeOf is the node that a pod is bound to, or made for; empty if it is for none in particular.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			if r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn && len(r.Values) == 1 {
				return r.Values[0]
			}
		}
	}
	return ""
}

// templateGeneration counts the templates that the set has had; Kubernetes had it before revisions, and keeps it.
func templateGeneration(ds *appsv1.DaemonSet) (string, bool) {
	text := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	_, err := strconv.ParseInt(text, 10, 64)
	return text, err == nil
}

// updated says that a pod is of the template of that hash.
func updated(ds *appsv1.DaemonSet, pod *corev1.Pod, hash string) bool {
	if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash {
		return true
	}
	generation, ok := templateGeneration(ds)
	return ok && pod.Labels[generationLabel] == generation
}
