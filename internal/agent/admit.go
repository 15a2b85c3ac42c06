package agent

import (
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"sampan.dev/internal/agent/pressure"
)

// admit says whether a pod has, or gets, its place on this node. One that has run here before keeps it.
func (a *Agent) admit(w *worker, pod *corev1.Pod, seen Observed) bool {
	if terminal(pod.Status.Phase) {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, has := a.admitted[pod.UID]; has {
		return true
	}
	w.mu.Lock()
	rejected := w.work.Rejected != nil
	w.mu.Unlock()
	if rejected {
		return false
	}
	if pod.Status.StartTime == nil && len(seen.Sandboxes) == 0 && pod.DeletionTimestamp == nil {
		others := make([]*corev1.Pod, 0, len(a.admitted))
		for _, o := range a.admitted {
			others = append(others, o)
		}
		reason, message := pressure.Reason, pressure.Refuses(a.relief.conditions(), pod, qosOf(pod))
		if message == "" {
			reason, message = refuse(pod, others, a.node.last())
		}
		if reason != "" {
			w.mu.Lock()
			w.work.Rejected = &Failure{Reason: reason, Message: "Pod was rejected: " + message, At: time.Now()}
			w.mu.Unlock()
			a.cfg.Events.Record(pod, corev1.EventTypeWarning, reason, message)
			return false
		}
	}
	a.admitted[pod.UID] = pod
	return true
}

// release gives a pod's place free.
func (a *Agent) release(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.admitted, uid)
}

// refuse says why a pod cannot run on the node, in Kubernetes' words, or "".
func refuse(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) (reason, message string) {
	if node == nil {
		return "", ""
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != runtime.GOOS {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if reason, message := fits(pod, others, node.Status.Allocatable); reason != "" {
		return reason, message
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	}
	for _, o := range others {
		if portsConflict(pod, o) {
			return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
		}
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && !slices.ContainsFunc(pod.Spec.Tolerations, func(x corev1.Toleration) bool { return tolerates(x, t) }) {
			return "TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)"
		}
	}
	return "", ""
}

func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	if t.Operator == corev1.TolerationOpExists {
		return true
	}
	return t.Key != "" && t.Value == taint.Value
}

func portsConflict(a, b *corev1.Pod) bool {
	for _, x := range hostPorts(a) {
		for _, y := range hostPorts(b) {
			anyIP := isAny(x.HostIP) || isAny(y.HostIP)
			if x.HostPort == y.HostPort && x.Protocol == y.Protocol && (anyIP || x.HostIP == y.HostIP) {
				return true
			}
		}
	}
	return false
}

func isAny(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort > 0 {
					ports = append(ports, p)
				}
			}
		}
	}
	return ports
}
