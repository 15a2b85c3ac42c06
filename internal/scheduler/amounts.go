package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// amounts are quantities of resources, to be added up fast.
type amounts struct {
	cpu      int64 // thousandths of a core
	memory   int64 // bytes
	storage  int64 // bytes, ephemeral
	extended map[corev1.ResourceName]int64
}

// What a container that asks for none is scored as, so that such pods spread too.
const (
	scoredCPU    = 100               // thousandths of a core
	scoredMemory = 200 * 1024 * 1024 // bytes
)

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = quantity.MilliValue()
		case corev1.ResourceMemory:
			a.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = quantity.Value()
		case corev1.ResourcePods:
		default:
			if a.extended == nil {
				a.extended = map[corev1.ResourceName]int64{}
			}
			a.extended[name] = quantity.Value()
		}
	}
	return a
}

// requests is what the pod asks for: the greater of its containers together and each init container beside the
// sidecars before it, and its overhead. scored is the same with something for containers that ask for nothing.
func requests(pod *corev1.Pod) (asked, scored amounts) {
	o := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	asked = amountsOf(resourcehelper.PodRequests(pod, o))
	if asksEverywhere(pod) {
		return asked, asked
	}
	o.NonMissingContainerRequests = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(scoredCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(scoredMemory, resource.BinarySI),
	}
	return asked, amountsOf(resourcehelper.PodRequests(pod, o))
}

// asksEverywhere reports whether each container asks for CPU and memory.
func asksEverywhere(pod *corev1.Pod) bool {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			r := containers[i].Resources.Requests
			if _, ok := r[corev1.ResourceCPU]; !ok {
				return false
			}
			if _, ok := r[corev1.ResourceMemory]; !ok {
				return false
			}
		}
	}
	return true
}

// plus is a and sign times b; sign is 1 or -1. It may change a's map.
func (a amounts) plus(b amounts, sign int64) amounts {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	for name, n := range b.extended {
		if a.extended == nil {
			a.extended = map[corev1.ResourceName]int64{}
		}
		if a.extended[name] += sign * n; a.extended[name] == 0 {
			delete(a.extended, name)
		}
	}
	return a
}

// grew reports whether any resource is more than it was in old.
func (a amounts) grew(old amounts) bool {
	if a.cpu > old.cpu || a.memory > old.memory || a.storage > old.storage {
		return true
	}
	for name, n := range a.extended {
		if n > old.extended[name] {
			return true
		}
	}
	return false
}

func (a amounts) equal(b amounts) bool {
	return a.cpu == b.cpu && a.memory == b.memory && a.storage == b.storage && maps.Equal(a.extended, b.extended)
}

// port is a port of the node that a pod's container takes.
type port struct {
	ip       string // empty or 0.0.0.0: all addresses
	protocol corev1.Protocol
	number   int32
}

// ports are the node's ports that the pod takes while it runs: those of containers and sidecars.
func ports(pod *corev1.Pod) []port {
	var taken []port
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				protocol := p.Protocol
				if protocol == "" {
					protocol = corev1.ProtocolTCP
				}
				taken = append(taken, port{ip: p.HostIP, protocol: protocol, number: p.HostPort})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return taken
}

// collides reports whether both cannot be taken on one node.
func (p port) collides(q port) bool {
	if p.number != q.number || p.protocol != q.protocol {
		return false
	}
	return p.ip == q.ip || everyAddress(p.ip) || everyAddress(q.ip)
}

func everyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" }
