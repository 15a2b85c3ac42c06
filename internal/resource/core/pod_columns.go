package core

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

func podColumns() []metav1.TableColumnDefinition {
	status := corev1.PodStatus{}.SwaggerDoc()
	spec := corev1.PodSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		resource.NameColumn(),
		column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", 0),
		column("Status", "string", "The aggregate status of the containers in this pod.", 0),
		column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.", 0),
		resource.AgeColumn(),
		column("IP", "string", status["podIP"], 1),
		column("Node", "string", spec["nodeName"], 1),
		column("Nominated Node", "string", status["nominatedNodeName"], 1),
		column("Readiness Gates", "string", spec["readinessGates"], 1),
	}
}

// nodeLost is the reason of a pod whose node no longer answers.
const nodeLost = "NodeLost"

func podRow(o resource.Object, now time.Time) []any {
	p := o.(*corev1.Pod)
	s := summarize(p)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts != 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, resource.Since(s.lastRestart, now))
	}
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	gates := "<none>"
	if len(p.Spec.ReadinessGates) > 0 {
		open := 0
		for _, gate := range p.Spec.ReadinessGates {
			if conditionTrue(p, gate.ConditionType) {
				open++
			}
		}
		gates = fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.status, restarts, resource.Age(p, now),
		orNone(ip), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), gates,
	}
}

// summary is what one line says about all containers of a pod.
type summary struct {
	ready, total int
	status       string
	restarts     int
	lastRestart  metav1.Time
}

func (s *summary) count(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if end := c.LastTerminationState.Terminated; end != nil && s.lastRestart.Before(&end.FinishedAt) {
		s.lastRestart = end.FinishedAt
	}
}

func summarize(p *corev1.Pod) summary {
	s := summary{total: len(p.Spec.Containers), status: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.status = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.status = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := make(map[string]bool)
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; IsSidecar(c) {
			sidecars[c.Name] = true
			s.total++
		}
	}
	running := s // goes on from here once initialized: then only sidecars count of the init containers
	initializing := s.initStatus(p, sidecars, &running)
	if !initializing || conditionTrue(p, corev1.PodInitialized) {
		running.ready = s.ready
		if initializing {
			running.status = s.status // a sidecar's trouble stays visible until a container tells something else
		}
		running.mainStatus(p)
		s = running
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == nodeLost:
			s.status = "Unknown"
		case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
			s.status = "Terminating"
		}
	}
	return s
}

// initStatus goes through the init containers up to the first that is not done, and says whether there is one.
func (s *summary) initStatus(p *corev1.Pod, sidecars map[string]bool, running *summary) bool {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.count(c)
		if sidecars[c.Name] {
			running.count(c)
		}
		switch end, wait := c.State.Terminated, c.State.Waiting; {
		case end != nil && end.ExitCode == 0:
			continue
		case sidecars[c.Name] && isTrue(c.Started):
			if c.Ready {
				s.ready++
			}
			continue
		case end != nil:
			s.status = "Init:" + endReason(end)
		case wait != nil && wait.Reason != "" && wait.Reason != "PodInitializing":
			s.status = "Init:" + wait.Reason
		default:
			s.status = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

// mainStatus goes through the regular containers; the first with something to tell has the last word.
func (s *summary) mainStatus(p *corev1.Pod) {
	anyRuns := false
	for i := range slices.Backward(p.Status.ContainerStatuses) {
		c := &p.Status.ContainerStatuses[i]
		s.count(c)
		switch end, wait := c.State.Terminated, c.State.Waiting; {
		case wait != nil && wait.Reason != "":
			s.status = wait.Reason
		case end != nil:
			s.status = endReason(end)
		case c.Ready && c.State.Running != nil:
			anyRuns = true
			s.ready++
		}
	}
	if s.status == "Completed" && anyRuns {
		s.status = "NotReady"
		if conditionTrue(p, corev1.PodReady) {
			s.status = "Running"
		}
	}
}

func endReason(end *corev1.ContainerStateTerminated) string {
	switch {
	case end.Reason != "":
		return end.Reason
	case end.Signal != 0:
		return fmt.Sprintf("Signal:%d", end.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", end.ExitCode)
}

func conditionTrue(p *corev1.Pod, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}
