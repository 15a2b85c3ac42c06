// Package endpoint is what the controllers of EndpointSlices and Endpoints share: which pods are behind a Service and at which ports, what makes two
// endpoints the same, and which Services a pod's change concerns.
//
// It watches and writes nothing. Always: no function changes what it is given.
package endpoint

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/dump"

	"sampan.dev/internal/workload"
)

// Belongs says that a pod is to be among the endpoints of the Services that select it: it has an address and has not ended. Pods that are being
// deleted belong if terminating is set.
func Belongs(pod *corev1.Pod, terminating bool) bool {
	switch {
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		return false
	case pod.Status.PodIP == "" && len(pod.Status.PodIPs) == 0:
		return false
	}
	return terminating || pod.DeletionTimestamp == nil
}

// Hostname is the name that the pod has within the Service's domain; empty if it has none there.
func Hostname(pod *corev1.Pod, service *corev1.Service) string {
	if pod.Spec.Subdomain == service.Name && pod.Namespace == service.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

// Headless says that the Service has no address of its own.
func Headless(service *corev1.Service) bool {
	return service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone
}

// FromPods says that the Service's endpoints are pods: it has a selector and is not a mere name for another host.
func FromPods(service *corev1.Service) bool {
	return service.Spec.Selector != nil && service.Spec.Type != corev1.ServiceTypeExternalName
}

// Port is the number of the pod's port that a port of a Service leads to. A name is looked up among the ports of its containers, and of those of its
// init containers that keep running.
func Port(pod *corev1.Pod, port *corev1.ServicePort) (number int32, found bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	for i := range pod.Spec.Containers {
		if number, found = named(&pod.Spec.Containers[i], port); found {
			return number, true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if number, found = named(c, port); found {
			return number, true
		}
	}
	return 0, false
}

func named(c *corev1.Container, port *corev1.ServicePort) (number int32, found bool) {
	for i := range c.Ports {
		if p := &c.Ports[i]; p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
			return p.ContainerPort, true
		}
	}
	return 0, false
}

// Changed says that a pod that is selected as before is another endpoint now.
func Changed(was, is *corev1.Pod) bool {
	ips := func(pod *corev1.Pod) []corev1.PodIP { return pod.Status.PodIPs }
	return (was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) ||
		workload.Ready(was) != workload.Ready(is) ||
		Belongs(was, true) != Belongs(is, true) ||
		!slices.Equal(ips(was), ips(is)) ||
		was.UID != is.UID || was.Spec.NodeName != is.Spec.NodeName ||
		was.Spec.Hostname != is.Spec.Hostname || was.Spec.Subdomain != is.Spec.Subdomain
}

// NamePrefix is what the names of a Service's EndpointSlices begin with.
func NamePrefix(service string) string {
	if prefix := service + "-"; len(validation.NameIsDNSSubdomain(prefix, true)) == 0 {
		return prefix
	}
	return service
}

// Key tells endpoints apart. What else there is of an endpoint may change in its place.
type Key struct{ addresses, hostname, namespace, name string }

// KeyOf is the key of an endpoint.
func KeyOf(e *discovery.Endpoint) Key {
	var k Key
	if len(e.Addresses) == 1 {
		k.addresses = e.Addresses[0]
	} else {
		k.addresses = strings.Join(slices.Sorted(slices.Values(e.Addresses)), ",")
	}
	if e.Hostname != nil {
		k.hostname = *e.Hostname
	}
	if e.TargetRef != nil {
		k.namespace, k.name = e.TargetRef.Namespace, e.TargetRef.Name
	}
	return k
}

// Same says that two endpoints of one key need no change. Hints are another matter, and so is the revision of the pod.
func Same(a, b *discovery.Endpoint) bool {
	return same(a.NodeName, b.NodeName) && same(a.Zone, b.Zone) &&
		same(a.Conditions.Ready, b.Conditions.Ready) && same(a.Conditions.Serving, b.Conditions.Serving) && same(a.Conditions.Terminating, b.Conditions.Terminating) &&
		sameTarget(a.TargetRef, b.TargetRef)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

func sameTarget(a, b *corev1.ObjectReference) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.ResourceVersion, y.ResourceVersion = "", ""
	return x == y
}

// PortsKey tells sets of ports apart, in whatever order they are.
func PortsKey(ports []discovery.EndpointPort) string {
	keys := make([]string, len(ports))
	for i := range ports {
		p := &ports[i]
		keys[i] = fmt.Sprintf("%q %q %d %q", text(p.Name), text(p.Protocol), text(p.Port), text(p.AppProtocol))
	}
	slices.Sort(keys)
	return strings.Join(keys, "\n")
}

// text has a value of its own for what is not there.
func text[T any](v *T) any {
	if v == nil {
		return struct{}{}
	}
	return *v
}

// SortPorts puts ports into the order in which upstream writes them, that of their hashes.
func SortPorts(ports []discovery.EndpointPort) { sortByHash(ports, fnv.New128a()) }

// sortByHash sorts values by the hash of all that is in them, as upstream computes it.
func sortByHash[T any](values []T, h hash.Hash) {
	if len(values) < 2 {
		return
	}
	type hashed struct {
		hash  string
		value T
	}
	all := make([]hashed, len(values))
	for i, v := range values {
		h.Reset()
		fmt.Fprint(h, dump.ForHash(v))
		all[i] = hashed{hex.EncodeToString(h.Sum(nil)), v}
	}
	slices.SortStableFunc(all, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	for i := range all {
		values[i] = all[i].value
	}
}

// SameLabels says that two objects have the same labels but for those keys.
func SameLabels(a, b map[string]string, but ...string) bool {
	return maps.Equal(without(a, but), without(b, but))
}

func without(m map[string]string, keys []string) map[string]string {
	for _, k := range keys {
		if _, has := m[k]; has {
			rest := maps.Clone(m)
			maps.DeleteFunc(rest, func(k, _ string) bool { return slices.Contains(keys, k) })
			return rest
		}
	}
	return m
}
