//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package endpoints

import (
	"maps"
	"math"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/endpoint"
	"sampan.dev/internal/workload"
)

// The label of what this controller writes.
const (
	LabelManagedBy = "endpoints.kubernetes.io/managed-by"
	ManagedBy      = "endpoint-controller"
)

// Capacity is how many addresses one object tells at most.
const Capacity = 1000

// Plan is what one pass would change, as a plain value: nothing has happened yet. At most one of them is there.
type Plan struct {
	Create *corev1.Endpoints
	Update *corev1.Endpoints // with the resourceVersion that was decided on
}

// Decide compares the Endpoints that a Service shall have with those that it has, if it has any. The pods are those that it selects.
func Decide(service *corev1.Service, pods []*corev1.Pod, current *corev1.Endpoints) (p Plan) {
	subsets := endpoint.Repack(subsetsOf(service, pods))
	truncated := truncate(subsets)
	if current == nil {
		p.Create = finish(&corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}, service, subsets, truncated)
		return p
	}
	over, isMarked := current.Annotations[corev1.EndpointsOverCapacity]
	if sameLabels(current.Labels, service.Labels) && isMarked == truncated && (!truncated || over == overCapacity) && same(current.Subsets, subsets) {
		return p
	}
	next := *current
	next.Annotations = maps.Clone(current.Annotations)
	p.Update = finish(&next, service, subsets, truncated)
	return p
}

const overCapacity = "truncated"

func finish(e *corev1.Endpoints, service *corev1.Service, subsets []corev1.EndpointSubset, truncated bool) *corev1.Endpoints {
	e.Subsets = subsets
	e.Labels = make(map[string]string, len(service.Labels)+2)
	maps.Copy(e.Labels, service.Labels)
	delete(e.Labels, corev1.IsHeadlessService)
	if endpoint.Headless(service) {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	e.Labels[LabelManagedBy] = ManagedBy
	if truncated {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[corev1.EndpointsOverCapacity] = overCapacity
	} else {
		delete(e.Annotations, corev1.EndpointsOverCapacity)
	}
	return e
}

func sameLabels(has, service map[string]string) bool {
	return has[LabelManagedBy] == ManagedBy && endpoint.SameLabels(has, service, LabelManagedBy, corev1.IsHeadlessService)
}

// same compares subsets but for the revisions of pods that older writers noted.
func same(a, b []corev1.EndpointSubset) bool {
	return equality.Semantic.DeepEqual(withoutRevisions(a), withoutRevisions(b))
}

func withoutRevisions(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	noted := false
	each := func(do func(*corev1.EndpointAddress)) {
		for i := range subsets {
			for _, list := range [][]corev1.EndpointAddress{subsets[i].Addresses, subsets[i].NotReadyAddresses} {
				for j := range list {
					if list[j].TargetRef != nil && list[j].TargetRef.ResourceVersion != "" {
						do(&list[j])
					}
				}
			}
		}
	}
	each(func(*corev1.EndpointAddress) { noted = true })
	if noted {
		subsets = (&corev1.Endpoints{Subsets: subsets}).DeepCopy().Subsets
		each(func(a *corev1.EndpointAddress) { a.TargetRef.ResourceVersion = "" })
	}
	return subsets
}

// subsetsOf makes a subset of each pod and port.
func subsetsOf(service *corev1.Service, pods []*corev1.Pod) (subsets []corev1.EndpointSubset) {
	all := service.Spec.PublishNotReadyAddresses
	for _, pod := range pods {
		if !endpoint.Belongs(pod, all) {
			continue
		}
		a := address(service, pod)
		if a == nil {
			continue
		}
		add := func(ports ...corev1.EndpointPort) {
			if s := (corev1.EndpointSubset{Ports: ports}); all || workload.Ready(pod) {
				s.Addresses = []corev1.EndpointAddress{*a}
				subsets = append(subsets, s)
			} else {
				s.NotReadyAddresses = []corev1.EndpointAddress{*a}
				subsets = append(subsets, s)
			}
		}
		if len(service.Spec.Ports) == 0 && service.Spec.ClusterIP == corev1.ClusterIPNone {
			add()
		}
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			if n, found := endpoint.Port(pod, port); found {
				add(corev1.EndpointPort{Name: port.Name, Port: n, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
			}
		}
	}
	return subsets
}

// address is the pod's first of the Service's first family; nil if it has none.
func address(service *corev1.Service, pod *corev1.Pod) *corev1.EndpointAddress {
	family := endpoint.Families(service)[0]
	if len(service.Spec.IPFamilies) == 0 && endpoint.Headless(service) && netutils.IsIPv6String(pod.Status.PodIP) {
		family = discovery.AddressTypeIPv6
	}
	ips := endpoint.Addresses(pod, family)
	if len(ips) == 0 {
		return nil
	}
	return &corev1.EndpointAddress{
		IP: ips[0], NodeName: &pod.Spec.NodeName, Hostname: endpoint.Hostname(pod, service),
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
}

// truncate leaves as many addresses as one object may have: ready ones before others, and of each subset the share that it has of all.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, others := 0, 0
	for i := range subsets {
		ready += len(subsets[i].Addresses)
		others += len(subsets[i].NotReadyAddresses)
	}
	if ready+others <= Capacity {
		return false
	}
	onlyReady := ready > Capacity
	room, total := Capacity-ready, others
	if onlyReady {
		room, total = Capacity, ready
	}
	left := room
	for i := range subsets {
		s := &subsets[i]
		list := &s.NotReadyAddresses
		if onlyReady {
			list, s.NotReadyAddresses = &s.Addresses, nil
		}
		share := int(math.Ceil(float64(len(*list)) / float64(total) * float64(room)))
		*list = (*list)[:min(len(*list), share, left)]
		left -= len(*list)
	}
	return true
}
