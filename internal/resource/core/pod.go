package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Pod is a group of containers that run together on one node.
func Pod() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("Pod"), Plural: "pods", Singular: "pod", ShortNames: []string{"po"},
		Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/pods/",
		New:     func() resource.Object { return &corev1.Pod{} },
		NewList: func() runtime.Object { return &corev1.PodList{} },

		Default:       func(o resource.Object) { DefaultPod(o.(*corev1.Pod)) },
		PrepareCreate: func(o resource.Object) { preparePod(o.(*corev1.Pod)) },
		PrepareUpdate: func(new, old resource.Object) { preparePodUpdate(new.(*corev1.Pod), old.(*corev1.Pod)) },
		NameRule:      apivalidation.NameIsDNSSubdomain,
		Validate:      func(o resource.Object) field.ErrorList { return validatePod(o.(*corev1.Pod)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return validatePodUpdate(new.(*corev1.Pod), old.(*corev1.Pod))
		},
		Warnings: func(o resource.Object) []string { return podWarnings(o.(*corev1.Pod)) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				preparePodStatus(new.(*corev1.Pod), old.(*corev1.Pod))
			},
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return validatePodStatus(new.(*corev1.Pod), old.(*corev1.Pod))
			},
		},
		Connects: []string{"attach", "binding", "eviction", "exec", "log", "portforward", "proxy"},

		Fields:     func(o resource.Object) map[string]string { return podFields(o.(*corev1.Pod)) },
		Controlled: true,
		FieldNames: append([]string{
			"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
			"status.phase", "status.podIP", "status.nominatedNodeName",
		}, resource.MetaNames()...),
		Columns:     podColumns(),
		Row:         podRow,
		GracePeriod: podGrace,
		Register:    registerPodTypes,
	}
}

// registerPodTypes adds what goes with pods: bindings, evictions, and the options of streams.
func registerPodTypes(s *runtime.Scheme) {
	s.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Binding{}, &corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{},
		&corev1.PodPortForwardOptions{}, &corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{},
		&corev1.PodTemplate{}, &corev1.PodTemplateList{},
	)
	s.AddKnownTypes(policyv1.SchemeGroupVersion, &policyv1.Eviction{})
}

// preparePod begins a pod's life: pending, at generation 1, with the service class that its resources give it.
func preparePod(p *corev1.Pod) {
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOS(p)}
	dropDisabled(&p.Spec)
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeLabelKeys(p)
}

func podGrace(o resource.Object, opts *metav1.DeleteOptions) (seconds int64, graceful bool) {
	if opts == nil {
		return 0, false
	}
	p := o.(*corev1.Pod)
	switch {
	case p.Spec.NodeName == "", p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
		seconds = 0 // nothing runs, so nothing needs time
	case opts.GracePeriodSeconds != nil:
		seconds = *opts.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		seconds = 1
	}
	return seconds, true
}

func podFields(p *corev1.Pod) map[string]string {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return metaFields(p, map[string]string{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	})
}

// containerKind says which of a pod's three lists a container is in.
type containerKind int

const (
	regular containerKind = iota
	initial
	ephemeral
)

// eachContainer visits all containers with their paths below spec, in upstream's order: init, regular, ephemeral.
func eachContainer(spec *corev1.PodSpec, at *field.Path, visit func(c *corev1.Container, at *field.Path, kind containerKind)) {
	for i := range spec.InitContainers {
		visit(&spec.InitContainers[i], at.Child("initContainers").Index(i), initial)
	}
	for i := range spec.Containers {
		visit(&spec.Containers[i], at.Child("containers").Index(i), regular)
	}
	for i := range spec.EphemeralContainers {
		c := (*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon)
		visit(c, at.Child("ephemeralContainers").Index(i), ephemeral)
	}
}

// IsSidecar says that an init container keeps running beside the regular ones.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func isTrue(b *bool) bool { return b != nil && *b }
