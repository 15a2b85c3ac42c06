package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

// defaultPodLevel completes requests and limits of the pod as a whole, where it states any: huge pages limited as its
// containers are, requests as its containers ask or else as it is limited, limits as its containers all have them.
func defaultPodLevel(spec *corev1.PodSpec) {
	if !podLevel(spec) {
		return
	}
	pod := &corev1.Pod{Spec: *spec}
	r := spec.Resources
	limits := podresources.AggregateContainerLimits(pod, podresources.PodResourcesOptions{})
	for name, limit := range limits {
		if _, asked := r.Requests[name]; isHugePages(name) && !asked {
			putIfAbsent(&r.Limits, name, limit)
		}
	}
	if len(r.Limits) > 0 {
		for name, asked := range podresources.AggregateContainerRequests(pod, podresources.PodResourcesOptions{}) {
			if podresources.IsSupportedPodLevelResource(name) && overcommittable(name) {
				putIfAbsent(&r.Requests, name, asked)
			}
		}
		for name, limit := range r.Limits {
			if podresources.IsSupportedPodLevelResource(name) {
				putIfAbsent(&r.Requests, name, limit)
			}
		}
	}
	if podresources.IsPodLevelLimitsSet(pod) || !podresources.IsPodLevelRequestsSet(pod) {
		return
	}
	for name, limit := range limits {
		if podresources.IsSupportedPodLevelResource(name) && overcommittable(name) && allLimit(spec, name) {
			putIfAbsent(&r.Limits, name, limit)
		}
	}
}

func putIfAbsent(list *corev1.ResourceList, name corev1.ResourceName, q quantity) {
	if _, ok := (*list)[name]; ok {
		return
	}
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q.DeepCopy()
}

// allLimit says that every container limits the resource, so that their sum limits the pod.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			if _, ok := containers[i].Resources.Limits[name]; !ok {
				return false
			}
		}
	}
	return true
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNative says that the name is Kubernetes' own: without a domain, or in kubernetes.io.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommittable says that limits may add up to more than there is, so that a request may be below its limit.
func overcommittable(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }
