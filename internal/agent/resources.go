package agent

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/cgroup"
	"sampan.dev/internal/resource/core"
)

func qosOf(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return core.QOS(pod)
}

// sharesOf and quotaOf are thousandths of a core as the kernel counts them.
func sharesOf(milli int64) uint64 {
	if milli <= 0 {
		return 2
	}
	return uint64(min(max(milli*1024/1000, 2), 262144))
}

func quotaOf(milli int64) int64 {
	if milli <= 0 {
		return 0
	}
	return max(milli*cgroup.Period/1000, 1000)
}

type podResources struct {
	requests, most corev1.ResourceList
	limits         cgroup.Limits
}

// resourcesOf sums up a pod. Its cgroup has a limit only where each of its containers has one.
func resourcesOf(pod *corev1.Pod) podResources {
	r := podResources{
		requests: helper.PodRequests(pod, helper.PodResourcesOptions{}),
		most:     helper.PodLimits(pod, helper.PodResourcesOptions{}),
	}
	cpu, memory := true, true
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			l := list[i].Resources.Limits
			cpu = cpu && !l.Cpu().IsZero()
			memory = memory && !l.Memory().IsZero()
		}
	}
	if helper.IsPodLevelLimitsSet(pod) {
		cpu, memory = cpu || !r.most.Cpu().IsZero(), memory || !r.most.Memory().IsZero()
	}
	r.limits.Shares = sharesOf(r.requests.Cpu().MilliValue())
	if cpu {
		r.limits.Quota = quotaOf(r.most.Cpu().MilliValue())
	}
	if memory {
		r.limits.Memory = r.most.Memory().Value()
	}
	return r
}

// containerResources are what the runtime limits one container to.
func containerResources(pod *corev1.Pod, c *corev1.Container, capacity int64, unified bool) *cri.LinuxContainerResources {
	request := c.Resources.Requests.Cpu().MilliValue()
	if _, set := c.Resources.Requests[corev1.ResourceCPU]; !set {
		request = c.Resources.Limits.Cpu().MilliValue()
	}
	r := &cri.LinuxContainerResources{
		CpuShares:          int64(sharesOf(request)),
		CpuPeriod:          cgroup.Period,
		CpuQuota:           quotaOf(c.Resources.Limits.Cpu().MilliValue()),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        oomScore(pod, c, capacity),
	}
	for name, q := range c.Resources.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			r.HugepageLimits = append(r.HugepageLimits, &cri.HugepageLimit{PageSize: pageSize(size), Limit: uint64(q.Value())})
		}
	}
	if unified {
		r.Unified = map[string]string{"memory.oom.group": "1"} // a container ends as a whole
	}
	return r
}

// pageSize turns 2Mi into 2MB, as the hugetlb controller names it.
func pageSize(size string) string {
	return strings.TrimSuffix(size, "i") + "B"
}

const nodeCritical = 2000001000 // priority of system-node-critical

// oomScore says whom the kernel kills first: best-effort pods, then burstable ones by how far they may exceed their request.
func oomScore(pod *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= nodeCritical {
		return -997
	}
	switch qosOf(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if capacity <= 0 {
		return 999
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	return min(max(score, 3), 999)
}

// fits says what of the node a further pod would exceed, in Kubernetes' words, or "".
func fits(pod *corev1.Pod, others []*corev1.Pod, node corev1.ResourceList) (reason, message string) {
	if allowed := node.Pods().Value(); allowed > 0 && int64(len(others))+1 > allowed {
		return "OutOfpods", fmt.Sprintf("Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), allowed)
	}
	wanted := helper.PodRequests(pod, helper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		w := wanted[name]
		if w.IsZero() {
			continue
		}
		var used int64
		for _, o := range others {
			u := helper.PodRequests(o, helper.PodResourcesOptions{})[name]
			used += count(name, u.MilliValue(), u.Value())
		}
		has, need := node[name], count(name, w.MilliValue(), w.Value())
		if capacity := count(name, has.MilliValue(), has.Value()); used+need > capacity {
			return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, need, used, capacity)
		}
	}
	for name, w := range wanted {
		has, known := node[name]
		extended := strings.Contains(string(name), "/") || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !extended || w.IsZero() || !known {
			continue
		}
		var used int64
		for _, o := range others {
			u := helper.PodRequests(o, helper.PodResourcesOptions{})[name]
			used += u.Value()
		}
		if used+w.Value() > has.Value() {
			return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, w.Value(), used, has.Value())
		}
	}
	return "", ""
}

// count takes thousandths for CPU, whole units for all else.
func count(name corev1.ResourceName, milli, whole int64) int64 {
	if name == corev1.ResourceCPU {
		return milli
	}
	return whole
}
