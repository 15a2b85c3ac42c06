package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

func coreKind(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

// Images that a simulated node knows; each other one runs for ever, and is ready at once.
const (
	imageSucceeds = "sim/succeeds" // ends with 0
	imageFails    = "sim/fails"    // ends with 1, or with the number that is its tag
	imageSleeps   = "sim/sleeps"   // ends with 0 after the time that is its tag, such as 2s
	imageMissing  = "sim/missing"  // cannot be pulled
	imageStubborn = "sim/stubborn" // runs on until its grace is over
)

// fleet is all simulated nodes: one loop over the pods that are bound to any of them.
type fleet struct {
	*loop.Loop
	c     *Cluster
	pods  *resource.Kind
	nodes *resource.Kind

	mu   sync.Mutex
	next int // of the addresses for pods

	silent map[string]bool // nodes that are cut off: they do nothing that anybody can see
}

func newFleet(c *Cluster, log *slog.Logger) *fleet {
	f := &fleet{c: c, silent: map[string]bool{}}
	f.pods, _ = c.Table.ByKind(coreKind("Pod"))
	f.nodes, _ = c.Table.ByKind(coreKind("Node"))
	f.Loop = loop.New("fleet", f.reconcile, loop.Options{Workers: 4, Log: log})
	c.Cache.OnChange(f.pods, func(_, new *cache.Object) {
		if new != nil && new.Field("spec.nodeName") != "" {
			f.Mark(loop.Key{Namespace: new.Namespace(), Name: new.Name()})
		}
	})
	return f
}

// AddNode registers a simulated node, or changes it.
func (c *Cluster) AddNode(ctx context.Context, node *corev1.Node) error {
	now := metav1.Now()
	for _, condition := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	} {
		condition.LastHeartbeatTime, condition.LastTransitionTime = now, now
		node.Status.Conditions = append(node.Status.Conditions, condition)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: node.Name}}
	_, err := c.Registry.Create(ctx, c.fleet.nodes, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		for _, sub := range []string{"", "status"} {
			_, _, err = c.Registry.Update(ctx, c.fleet.nodes, sub, "", node.Name, func(current resource.Object) (resource.Object, error) {
				n := current.(*corev1.Node)
				n.ResourceVersion = ""
				n.Labels, n.Spec, n.Status = node.Labels, node.Spec, node.Status
				return n, nil
			}, metav1.UpdateOptions{})
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("add node %s: %w", node.Name, err)
	}
	return c.fleet.hear(ctx, node.Name)
}

func (f *fleet) reconcile(ctx context.Context, key loop.Key) error {
	o := f.c.Cache.Snapshot().Get(f.pods, key.Namespace, key.Name)
	if o == nil {
		return nil
	}
	pod := cache.Typed[*corev1.Pod](o)
	if f.c.Cache.Snapshot().Get(f.nodes, "", pod.Spec.NodeName) == nil || f.isSilent(pod.Spec.NodeName) {
		return nil // nobody runs it
	}
	s := step(pod, time.Now())
	switch {
	case s.later > 0:
		f.MarkAfter(key, s.later)
		return nil
	case s.remove:
		zero := int64(0)
		_, _, err := f.c.Registry.Delete(ctx, f.pods, key.Namespace, key.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		return gone(err)
	case s.status == nil:
		return nil
	}
	if s.status.PodIP == "" && pod.Status.PodIP == "" {
		s.status.PodIP = f.address()
		s.status.PodIPs = []corev1.PodIP{{IP: s.status.PodIP}}
	}
	_, _, err := f.c.Registry.Update(ctx, f.pods, "status", key.Namespace, key.Name, func(current resource.Object) (resource.Object, error) {
		p, ok := current.(*corev1.Pod)
		if !ok || p.UID != pod.UID {
			return nil, apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
		}
		p.ResourceVersion, p.Status = "", *s.status
		return p, nil
	}, metav1.UpdateOptions{})
	return gone(err)
}

func gone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (f *fleet) address() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return fmt.Sprintf("10.244.%d.%d", f.next/250, f.next%250+2)
}

// next is what a simulated node does about a pod.
type next struct {
	status *corev1.PodStatus // to report; nil: nothing new
	remove bool              // the pod has ended, and its object may go
	later  time.Duration     // until there is something to do
}

// step decides about one pod, bound to a node that exists.
func step(pod *corev1.Pod, now time.Time) next {
	image := pod.Spec.Containers[0].Image
	if pod.DeletionTimestamp != nil {
		if left := pod.DeletionTimestamp.Sub(now); is(image, imageStubborn) && left > 0 {
			return next{later: left}
		}
		if len(pod.Finalizers) > 0 && (pod.Status.Phase == corev1.PodPending || pod.Status.Phase == corev1.PodRunning) {
			return next{status: ended(pod, corev1.PodFailed, 143, now)} // whoever holds it wants to know how it ended
		}
		return next{remove: true}
	}
	if pod.Status.Phase == corev1.PodRunning && is(image, imageSleeps) {
		return wake(pod, now)
	}
	if pod.Status.Phase == corev1.PodRunning && status(pod, corev1.ContainersReady) == corev1.ConditionTrue && status(pod, corev1.PodReady) != corev1.ConditionTrue {
		s := pod.Status.DeepCopy() // the control plane has said otherwise while the node was cut off
		setCondition(s, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)})
		return next{status: s}
	}
	if pod.Status.Phase != corev1.PodPending {
		return next{}
	}
	s := pod.Status.DeepCopy()
	at := metav1.NewTime(now)
	if s.StartTime == nil {
		s.StartTime = &at
	}
	s.HostIP, s.HostIPs = "127.0.0.1", []corev1.HostIP{{IP: "127.0.0.1"}}
	s.ContainerStatuses = nil
	running := true
	for i := range pod.Spec.Containers {
		c := corev1.ContainerStatus{Name: pod.Spec.Containers[i].Name, Image: pod.Spec.Containers[i].Image, ImageID: "sim://" + pod.Spec.Containers[i].Image}
		switch {
		case is(c.Image, imageMissing):
			c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "a simulated node has no such image"}
			running = false
		case is(c.Image, imageSucceeds):
			c.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: at, FinishedAt: at}
			s.Phase, running = corev1.PodSucceeded, false
		case is(c.Image, imageFails):
			c.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: exitCode(c.Image), StartedAt: at, FinishedAt: at}
			s.Phase, running = corev1.PodFailed, false
		default:
			c.State.Running = &corev1.ContainerStateRunning{StartedAt: at}
			c.Ready, c.Started = true, new(true)
		}
		s.ContainerStatuses = append(s.ContainerStatuses, c)
	}
	if running {
		s.Phase = corev1.PodRunning
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		status := corev1.ConditionTrue
		if !running && (kind == corev1.PodReady || kind == corev1.ContainersReady) {
			status = corev1.ConditionFalse
		}
		setCondition(s, corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: at})
	}
	if s.Phase == pod.Status.Phase && len(pod.Status.ContainerStatuses) > 0 {
		return next{} // said before
	}
	return next{status: s}
}

// wake ends a pod that has slept long enough.
func wake(pod *corev1.Pod, now time.Time) next {
	_, tag, _ := strings.Cut(pod.Spec.Containers[0].Image, ":")
	sleep, _ := time.ParseDuration(tag)
	if left := pod.Status.StartTime.Add(sleep).Sub(now); left > 0 {
		return next{later: left}
	}
	return next{status: ended(pod, corev1.PodSucceeded, 0, now)}
}

// ended is the status of a pod whose containers have run, and all ended so.
func ended(pod *corev1.Pod, phase corev1.PodPhase, code int32, now time.Time) *corev1.PodStatus {
	s, at := pod.Status.DeepCopy(), metav1.NewTime(now)
	s.Phase = phase
	reason := map[corev1.PodPhase]string{corev1.PodSucceeded: "Completed", corev1.PodFailed: "Error"}[phase]
	for i := range s.ContainerStatuses {
		c := &s.ContainerStatuses[i]
		c.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, FinishedAt: at}}
		c.Ready, c.Started = false, new(false)
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		setCondition(s, corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: at})
	}
	return s
}

func exitCode(image string) int32 {
	_, tag, _ := strings.Cut(image, ":")
	if n, err := strconv.ParseInt(tag, 10, 32); err == nil {
		return int32(n)
	}
	return 1
}

func is(image, simulated string) bool {
	name, _, _ := strings.Cut(image, ":")
	return name == simulated
}

func setCondition(s *corev1.PodStatus, condition corev1.PodCondition) {
	for i := range s.Conditions {
		if s.Conditions[i].Type == condition.Type {
			s.Conditions[i] = condition
			return
		}
	}
	s.Conditions = append(s.Conditions, condition)
}
