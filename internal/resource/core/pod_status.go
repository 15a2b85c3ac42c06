package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/validate"
)

// preparePodStatus keeps everything but the status, and what a status may not lose once it has it.
func preparePodStatus(new, old *corev1.Pod) {
	new.Spec, new.Generation = old.Spec, old.Generation
	new.DeletionTimestamp = old.DeletionTimestamp
	new.OwnerReferences = old.OwnerReferences
	orDefault(&new.Status.QOSClass, old.Status.QOSClass)
	orDefault(&new.Status.ObservedGeneration, old.Status.ObservedGeneration)
	seen := make(map[corev1.PodConditionType][]int64) // there may be several conditions of a type
	for _, c := range old.Status.Conditions {
		seen[c.Type] = append(seen[c.Type], c.ObservedGeneration)
	}
	for i := range new.Status.Conditions {
		c := &new.Status.Conditions[i]
		if was := seen[c.Type]; len(was) > 0 {
			orDefault(&c.ObservedGeneration, was[0])
			seen[c.Type] = was[1:]
		}
	}
	syncPodIPs(&new.Status)
}

// validatePodStatus checks what a node may report.
func validatePodStatus(new, old *corev1.Pod) field.ErrorList {
	var l validate.List
	c := &podCheck{spec: &new.Spec, pod: new}
	notes := root("metadata", "annotations")
	l.Add(annotationChanges(new.Annotations, old.Annotations, notes)...)
	c.annotations(new.Annotations, notes)
	l.Add(c.Errs...)
	for i, cond := range new.Status.Conditions {
		switch cond.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			l.QualifiedName(root("metadata", "conditions").Index(i).Child("Type"), string(cond.Type))
		}
	}
	at := root("status")
	if new.Spec.NodeName != old.Spec.NodeName {
		l.Forbidden(at.Child("nodeName"), "may not be changed directly")
	}
	if name := new.Status.NominatedNodeName; name != old.Status.NominatedNodeName && name != "" {
		l.Subdomain(at.Child("nominatedNodeName"), name)
	}
	l.Same(at.Child("qosClass"), new.Status.QOSClass, old.Status.QOSClass)
	l.NonNegative(at.Child("observedGeneration"), new.Status.ObservedGeneration)
	for i := range new.Status.Conditions {
		l.NonNegative(at.Child("conditions").Index(i).Child("observedGeneration"), new.Status.Conditions[i].ObservedGeneration)
	}
	stayTerminated(&l, new.Status.ContainerStatuses, old.Status.ContainerStatuses, old.Spec.Containers,
		old.Spec.RestartPolicy, at.Child("containerStatuses"))
	stayTerminated(&l, new.Status.InitContainerStatuses, old.Status.InitContainerStatuses, old.Spec.InitContainers,
		old.Spec.RestartPolicy, at.Child("initContainerStatuses"))
	stayTerminated(&l, new.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, nil,
		corev1.RestartPolicyNever, at.Child("ephemeralContainerStatuses"))
	podIPs := make([]string, len(new.Status.PodIPs))
	for i, ip := range new.Status.PodIPs {
		podIPs[i] = ip.IP
	}
	addresses(&l, podIPs, new.Status.PodIPs, at.Child("podIPs"))
	hostIPs := make([]string, len(new.Status.HostIPs))
	for i, ip := range new.Status.HostIPs {
		hostIPs[i] = ip.IP
	}
	if len(hostIPs) > 0 && hostIPs[0] != new.Status.HostIP {
		l.Invalid(at.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`")
	}
	addresses(&l, hostIPs, new.Status.HostIPs, at.Child("hostIPs"))
	return l.Errs
}

// stayTerminated holds that a container which ended, and is not to be restarted, does not run again.
func stayTerminated(l *validate.List, new, old []corev1.ContainerStatus, spec []corev1.Container, policy corev1.RestartPolicy, at *field.Path) {
	for i, was := range old {
		end := was.State.Terminated
		if end == nil || mayRestart(spec, was.Name, policy, end.ExitCode) {
			continue
		}
		if slices.ContainsFunc(new, func(now corev1.ContainerStatus) bool {
			return now.Name == was.Name && now.State.Terminated == nil
		}) {
			l.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state")
		}
	}
}

// mayRestart says whether the container's own restart policy and rules, or else the pod's policy, allow it.
func mayRestart(spec []corev1.Container, name string, policy corev1.RestartPolicy, exitCode int32) bool {
	for _, rules := range spec {
		for _, r := range rules.RestartPolicyRules { // a rule that restarts all may restart any
			if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	if i := slices.IndexFunc(spec, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		for _, r := range spec[i].RestartPolicyRules {
			if r.ExitCodes == nil {
				continue
			}
			in := slices.Contains(r.ExitCodes.Values, exitCode)
			if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		if own := spec[i].RestartPolicy; own != nil {
			policy = corev1.RestartPolicy(*own)
		}
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && exitCode != 0
}

// addresses allows one of each family.
func addresses(l *validate.List, ips []string, shown any, at *field.Path) {
	for i, ip := range ips {
		l.Add(validation.IsValidIP(at.Index(i), ip)...)
	}
	if len(ips) < 2 {
		return
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		l.Add(field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err)))
	}
	if !dual || len(ips) > 2 {
		l.Invalid(at, shown, "may specify no more than one IP for each IP family")
	}
	seen := validate.Seen{}
	for i, ip := range ips {
		if seen.Again(ip) {
			l.Add(field.Duplicate(at.Index(i), ip))
		}
	}
}
