package core

import corev1 "k8s.io/api/core/v1"

// QOS is the class of service that a pod's requests and limits give it: Guaranteed where every container limits cpu and
// memory and requests just that, BestEffort where nobody asks for anything, else Burstable. The class it was given at
// creation stays.
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	return computeQOS(&p.Spec)
}

var qosResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

func computeQOS(spec *corev1.PodSpec) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	allLimited := true
	count := func(r *corev1.ResourceRequirements) {
		for _, name := range qosResources {
			if q, ok := r.Requests[name]; ok && q.Sign() > 0 {
				q.Add(requests[name])
				requests[name] = q
			}
			q, ok := r.Limits[name]
			if !ok || q.Sign() <= 0 {
				allLimited = false
				continue
			}
			q.Add(limits[name])
			limits[name] = q
		}
	}
	if podLevel(spec) {
		count(spec.Resources) // what the whole pod states takes the place of what its containers state
	} else {
		for i := range spec.InitContainers {
			count(&spec.InitContainers[i].Resources)
		}
		for i := range spec.Containers {
			count(&spec.Containers[i].Resources)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if !allLimited || len(requests) != len(limits) {
		return corev1.PodQOSBurstable
	}
	for name, asked := range requests {
		if limit, ok := limits[name]; !ok || asked.Cmp(limit) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

func podLevel(spec *corev1.PodSpec) bool {
	return spec.Resources != nil && len(spec.Resources.Requests)+len(spec.Resources.Limits) > 0
}
