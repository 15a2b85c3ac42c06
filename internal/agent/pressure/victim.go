package pressure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
)

// Reason is that of a pod's end, and of its event.
const Reason = "Evicted"

// critical is the least priority of pods that the cluster cannot do without.
const critical = 2000000000

// Disk is what files take.
type Disk struct{ Bytes, Inodes int64 }

// Add is both together.
func (d Disk) Add(o Disk) Disk { return Disk{d.Bytes + o.Bytes, d.Inodes + o.Inodes} }

// Container is what one container uses.
type Container struct {
	Name   string
	Memory int64 // its working set
	Root   Disk  // what it wrote to its own file system
	Logs   Disk
}

// Usage is what one pod uses.
type Usage struct {
	Memory     int64 // its working set
	Processes  int64
	Containers []Container
	Volumes    map[string]Disk // those on the node's own file system
}

// Pod is one that runs on the node.
type Pod struct {
	*corev1.Pod
	Usage *Usage // nil: nothing is known of it
}

// Kept says that a pod is never evicted.
func Kept(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror || scheduling.PodPriority(pod) >= critical
}

// Victims are the pods that may go because of a threshold, the first one first: those that use more than they asked for before those that don't, then by priority, then
// by how far they exceed it. Of a pod whose usage is not known the worst is assumed. With a file system of their own for images, what containers wrote is on that.
func Victims(pods []Pod, because Threshold, ownImages bool) []Pod {
	var all []Pod
	for _, p := range pods {
		if !Kept(p.Pod) {
			all = append(all, p)
		}
	}
	used := func(p Pod) int64 { return p.used(because.Signal, ownImages) }
	excess := func(p Pod) int64 {
		name := because.Signal.Resource()
		requests := helper.PodRequests(p.Pod, helper.PodResourcesOptions{})
		asked := requests[name]
		return used(p) - asked.Value()
	}
	slices.SortStableFunc(all, func(a, b Pod) int {
		priority := cmp.Compare(scheduling.PodPriority(a.Pod), scheduling.PodPriority(b.Pod))
		if because.Signal == PIDAvailable {
			return cmp.Or(priority, first(a.Usage == nil, b.Usage == nil), cmp.Compare(used(b), used(a)))
		}
		if a.Usage == nil || b.Usage == nil {
			return cmp.Or(first(a.Usage == nil, b.Usage == nil), priority)
		}
		return cmp.Or(first(excess(a) > 0, excess(b) > 0), priority, cmp.Compare(excess(b), excess(a)))
	})
	return all
}

// first sorts what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// used is how much of what a signal is of the pod uses.
func (p Pod) used(signal Signal, ownImages bool) int64 {
	if p.Usage == nil {
		return 0
	}
	switch signal {
	case MemoryAvailable:
		return p.Usage.Memory
	case PIDAvailable:
		return p.Usage.Processes
	}
	var d Disk
	images := signal == ImageFsAvailable || signal == ImageFsInodes
	for _, c := range p.Usage.Containers {
		if images || !ownImages {
			d = d.Add(c.Root)
		}
		if !images || !ownImages {
			d = d.Add(c.Logs)
		}
	}
	if !images || !ownImages {
		for _, v := range p.Usage.Volumes {
			d = d.Add(v)
		}
	}
	if signal.Resource() == inodes {
		return d.Inodes
	}
	return d.Bytes
}

// Why says why a pod is evicted: what the node lacks, and which of the pod's containers use more of it than they asked for.
func Why(pod Pod, because Threshold, short []Threshold, seen Seen) string {
	name := because.Signal.Resource()
	var s strings.Builder
	fmt.Fprintf(&s, "The node was low on resource: %v. ", name)
	for _, t := range short {
		if level, known := seen[t.Signal]; known && t.Signal.Resource() == name {
			needed := t.Of(level.Capacity)
			fmt.Fprintf(&s, "Threshold quantity: %v, available: %v. ", &needed, text(name, level.Available))
			break
		}
	}
	if pod.Usage == nil {
		return s.String()
	}
	for _, c := range pod.Usage.Containers {
		var used int64
		switch name {
		case corev1.ResourceMemory:
			used = c.Memory
		case corev1.ResourceEphemeralStorage:
			used = c.Root.Bytes + c.Logs.Bytes
		default:
			continue
		}
		for i := range pod.Spec.Containers {
			spec := &pod.Spec.Containers[i]
			asked := spec.Resources.Requests[name]
			if spec.Name == c.Name && used > asked.Value() {
				fmt.Fprintf(&s, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, text(name, used), asked.String(), name)
			}
		}
	}
	return s.String()
}

// Limited says whether a pod has limits of what it may write to the node's disk: of a volume, or of its containers.
func Limited(pod *corev1.Pod) (volumes, containers bool) {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			volumes = true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			containers = containers || !list[i].Resources.Limits.StorageEphemeral().IsZero()
		}
	}
	if pod.Spec.Resources != nil {
		containers = containers || !pod.Spec.Resources.Limits.StorageEphemeral().IsZero()
	}
	return volumes, containers
}

// Exceeds says which of its own limits of disk a pod exceeds, or "".
func Exceeds(pod Pod, ownImages bool) string {
	if pod.Usage == nil {
		return ""
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		used, measured := pod.Usage.Volumes[v.Name]
		if v.EmptyDir == nil || !measured || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if v.EmptyDir.SizeLimit.CmpInt64(used.Bytes) < 0 {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	most := helper.PodLimits(pod.Pod, helper.PodResourcesOptions{})
	if limit, set := most[corev1.ResourceEphemeralStorage]; set && limit.CmpInt64(pod.used(NodeFsAvailable, false)) < 0 {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, c := range pod.Usage.Containers {
		used := c.Logs.Bytes
		if !ownImages {
			used += c.Root.Bytes
		}
		for i := range pod.Spec.Containers {
			limit := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]
			if pod.Spec.Containers[i].Name == c.Name && !limit.IsZero() && limit.CmpInt64(used) < 0 {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
			}
		}
	}
	return ""
}

// Refuses says why a pod cannot begin on a node with these conditions, or "".
func Refuses(conditions []corev1.NodeConditionType, pod *corev1.Pod, class corev1.PodQOSClass) string {
	if len(conditions) == 0 || Kept(pod) {
		return ""
	}
	if len(conditions) == 1 && conditions[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if class != corev1.PodQOSBestEffort || slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return covers(t, taint) }) {
			return ""
		}
	}
	return fmt.Sprintf("The node had condition: %v. ", conditions)
}

// covers says whether a toleration is of a taint without a value.
func covers(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	return t.Operator == corev1.TolerationOpExists || t.Key != "" && t.Value == taint.Value
}
