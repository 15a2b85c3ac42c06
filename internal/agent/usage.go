package agent

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/pressure"
)

// usageOf measures pods: by the runtime, and with files also what they wrote to volumes of the node's disk and to their logs.
func (a *Agent) usageOf(ctx context.Context, pods []*corev1.Pod, files bool) ([]pressure.Pod, error) {
	request := &cri.ListPodSandboxStatsRequest{}
	if len(pods) == 1 {
		request.Filter = &cri.PodSandboxStatsFilter{LabelSelector: map[string]string{labelPodUID: string(pods[0].UID)}}
	}
	stats, err := a.runtime.ListPodSandboxStats(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("list pod stats: %w", err)
	}
	measured := map[types.UID]*pressure.Usage{}
	for _, s := range stats.Stats {
		measured[types.UID(s.GetAttributes().GetLabels()[labelPodUID])] = usageIn(s)
	}
	var all []pressure.Pod
	for _, pod := range pods {
		use := measured[pod.UID]
		if files {
			if use == nil {
				use = &pressure.Usage{}
			}
			a.measureFiles(pod, use)
		}
		all = append(all, pressure.Pod{Pod: pod, Usage: use})
	}
	return all, nil
}

// usageIn is what the runtime says of one pod.
func usageIn(s *cri.PodSandboxStats) *pressure.Usage {
	use := &pressure.Usage{Processes: int64(s.GetLinux().GetProcess().GetProcessCount().GetValue())}
	var sum int64
	for _, c := range s.GetLinux().GetContainers() {
		memory := int64(c.GetMemory().GetWorkingSetBytes().GetValue())
		sum += memory
		layer := c.GetWritableLayer()
		use.Containers = append(use.Containers, pressure.Container{
			Name: c.GetAttributes().GetLabels()[labelContainerName], Memory: memory,
			Root: pressure.Disk{Bytes: int64(layer.GetUsedBytes().GetValue()), Inodes: int64(layer.GetInodesUsed().GetValue())},
		})
	}
	use.Memory = sum
	if m := s.GetLinux().GetMemory(); m != nil { // of the pod as a whole, with what no container has
		use.Memory = int64(m.GetWorkingSetBytes().GetValue())
	}
	return use
}

// measureFiles adds what the pod has on the node's disk: logs, also of containers that do not run, and volumes that are directories there.
func (a *Agent) measureFiles(pod *corev1.Pod, use *pressure.Usage) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			name := list[i].Name
			logs := diskOf(filepath.Join(a.logDir(pod.Namespace, pod.Name, pod.UID), name))
			n := 0
			for n < len(use.Containers) && use.Containers[n].Name != name {
				n++
			}
			if n == len(use.Containers) {
				use.Containers = append(use.Containers, pressure.Container{Name: name})
			}
			use.Containers[n].Logs = logs
		}
	}
	use.Volumes = map[string]pressure.Disk{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		kind := ""
		switch {
		case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault:
			kind = "empty-dir"
		case v.ConfigMap != nil:
			kind = "configmap"
		case v.DownwardAPI != nil:
			kind = "downward-api"
		default:
			continue
		}
		use.Volumes[v.Name] = diskOf(filepath.Join(a.volumes.Dir(pod.UID), "volumes", "kubernetes.io~"+kind, v.Name))
	}
}

// removeDead removes containers that have ended, with their logs: all of pods that have ended, and of the others those that another has followed.
func (a *Agent) removeDead(ctx context.Context) {
	r, err := a.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return // the runtime will be asked again
	}
	type owner struct{ uid, name string }
	newest := map[owner]uint32{}
	of := func(c *cri.Container) owner { return owner{c.Labels[labelPodUID], c.Labels[labelContainerName]} }
	for _, c := range r.Containers {
		newest[of(c)] = max(newest[of(c)], c.GetMetadata().GetAttempt())
	}
	for _, c := range r.Containers {
		o := of(c)
		if a.workerOf(types.UID(o.uid)) == nil || c.State != cri.ContainerState_CONTAINER_EXITED {
			continue
		}
		pod := a.cfg.View.Pod(c.Labels[labelPodNamespace], c.Labels[labelPodName])
		ended := pod != nil && string(pod.UID) == o.uid && terminal(pod.Status.Phase)
		if !ended && c.GetMetadata().GetAttempt() == newest[o] {
			continue
		}
		w := worker{key: key{c.Labels[labelPodNamespace], c.Labels[labelPodName], types.UID(o.uid)}, agent: a}
		if err := w.remove(ctx, Container{ID: c.Id, Name: o.name, Attempt: c.GetMetadata().GetAttempt()}); err != nil && ctx.Err() == nil {
			a.log.Warn("remove a dead container", "error", err)
		}
	}
}
