package endpointslice

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type change func(*corev1.Service)

func newService(changes ...change) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, f := range changes {
		f(s)
	}
	return s
}

func headless(s *corev1.Service)  { s.Spec.ClusterIP = corev1.ClusterIPNone }
func portless(s *corev1.Service)  { s.Spec.Ports = nil }
func publish(s *corev1.Service)   { s.Spec.PublishNotReadyAddresses = true }
func named(s *corev1.Service)     { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }
func deleted(s *corev1.Service)   { s.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
func dualStack(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv4", "IPv6"} }
func onlySix(s *corev1.Service)   { s.Spec.IPFamilies = []corev1.IPFamily{"IPv6"} }

func prefer(what string) change {
	return func(s *corev1.Service) { s.Spec.TrafficDistribution = &what }
}

func labelled(key, value string) change {
	return func(s *corev1.Service) { s.Labels[key] = value }
}

// newPod is ready, on node n1, with the addresses 10.0.0.N and fd00::N.
func newPod(n int, changes ...func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprint("p", n)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{
			NodeName:   "n1",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 3000, Protocol: corev1.ProtocolTCP}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.0.%d.%d", n/250, n%250+1), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", n/250, n%250+1)}, {IP: fmt.Sprintf("fd00::%x", n+1)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range changes {
		f(p)
	}
	return p
}

func pods(from, to int, changes ...func(*corev1.Pod)) (all []*corev1.Pod) {
	for i := from; i < to; i++ {
		all = append(all, newPod(i, changes...))
	}
	return all
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func going(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
func ended(p *corev1.Pod)   { p.Status.Phase = corev1.PodSucceeded }
func onlyFour(p *corev1.Pod) {
	p.Status.PodIPs = p.Status.PodIPs[:1]
}

func portNumber(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func on(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func nameless(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil }
func hosted(p *corev1.Pod)   { p.Spec.Hostname, p.Spec.Subdomain = "h-"+p.Name, "web" }

// zones: n1 is in zone a, n2 in b, n0 in none; there are no others.
func zones(node string) (string, bool) {
	zone, found := map[string]string{"n0": "", "n1": "a", "n2": "b"}[node]
	return zone, found
}

// carryOut does what a plan says, as the API does. It complains of a plan that is out of its bounds.
func carryOut(t testing.TB, p Plan, existing []*discovery.EndpointSlice) (after []*discovery.EndpointSlice) {
	t.Helper()
	byName := map[string]*discovery.EndpointSlice{}
	last := 0
	for _, s := range existing {
		byName[s.Name] = s
		fmt.Sscanf(s.Name, "web-%d", &last)
	}
	for _, s := range p.Create {
		last++
		s = s.DeepCopy()
		s.Name, s.ResourceVersion = fmt.Sprintf("web-%d", last), "1"
		byName[s.Name] = s
	}
	for _, s := range p.Update {
		old := byName[s.Name]
		if old == nil || old.AddressType != s.AddressType || old.ResourceVersion != s.ResourceVersion || old.UID != s.UID {
			t.Fatalf("it updates %s, which is %v", s.Name, old)
		}
		if reflect.DeepEqual(old, s) {
			t.Errorf("it updates %s for nothing", s.Name)
		}
		byName[s.Name] = s.DeepCopy()
		byName[s.Name].ResourceVersion += "1"
	}
	for _, s := range p.Delete {
		if byName[s.Name] == nil {
			t.Fatalf("it deletes %s, which is not there", s.Name)
		}
		delete(byName, s.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		after = append(after, byName[name])
	}
	return after
}

func settle(t testing.TB, service *corev1.Service, pods []*corev1.Pod, existing []*discovery.EndpointSlice) []*discovery.EndpointSlice {
	t.Helper()
	after := carryOut(t, Decide(service, pods, zones, existing), existing)
	if p := Decide(service, pods, zones, after); len(p.Create)+len(p.Update)+len(p.Delete) > 0 {
		t.Fatalf("and then %s", p)
	}
	return after
}

func words(s *discovery.EndpointSlice) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s[", s.Name, s.AddressType)
	for i, p := range s.Ports {
		if i > 0 {
			b.WriteString(" ")
		}
		fmt.Fprintf(&b, "%s:%d", *p.Name, *p.Port)
	}
	b.WriteString("]")
	if len(s.Endpoints) > 8 {
		fmt.Fprintf(&b, " %d", len(s.Endpoints))
		return b.String()
	}
	for _, e := range s.Endpoints {
		fmt.Fprintf(&b, " %s/%s", e.TargetRef.Name, strings.Join(e.Addresses, ","))
		for i, c := range []*bool{e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating} {
			if *c {
				b.WriteByte("rst"[i])
			}
		}
		for _, v := range []*string{e.NodeName, e.Zone, e.Hostname} {
			if v != nil {
				fmt.Fprintf(&b, "@%s", *v)
			}
		}
		if e.Hints != nil {
			fmt.Fprintf(&b, " for%v%v", e.Hints.ForZones, e.Hints.ForNodes)
		}
	}
	return b.String()
}

func (p Plan) String() string {
	var all []string
	for i, list := range [][]*discovery.EndpointSlice{p.Create, p.Update, p.Delete} {
		for _, s := range list {
			if i == 2 {
				all = append(all, "delete "+s.Name)
			} else {
				all = append(all, []string{"create", "update "}[i]+words(s))
			}
		}
	}
	return strings.Join(append(all, p.Lost...), "; ")
}

// made are the slices that come of these pods.
func made(t testing.TB, service *corev1.Service, pods []*corev1.Pod) []*discovery.EndpointSlice {
	return settle(t, service, pods, nil)
}

func TestDecide(t *testing.T) {
	foreign := func() []*discovery.EndpointSlice {
		s := made(t, newService(), pods(0, 1))
		s[0].OwnerReferences[0].UID = "old"
		return s
	}
	for name, c := range map[string]struct {
		service  *corev1.Service
		pods     []*corev1.Pod
		existing []*discovery.EndpointSlice
		want     string
	}{
		"no pods: a slice says so": {newService(), nil, nil, "create IPv4[]"},
		"and it stays":             {newService(), nil, made(t, newService(), nil), ""},
		"one pod":                  {newService(), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"the empty slice becomes the first real one":      {newService(), pods(0, 1), made(t, newService(), nil), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"the last pod goes: the slice becomes empty":      {newService(), nil, made(t, newService(), pods(0, 3)), "update web-1 IPv4[]"},
		"a pod that is not ready is there":                {newService(), pods(0, 1, unready), nil, "create IPv4[http:8080] p0/10.0.0.1@n1@a"},
		"one that is going serves still":                  {newService(), pods(0, 1, going), nil, "create IPv4[http:8080] p0/10.0.0.1st@n1@a"},
		"one that has ended is not there":                 {newService(), pods(0, 1, ended), nil, "create IPv4[]"},
		"all are ready if readiness does not count":       {newService(publish), pods(0, 1, unready, going), nil, "create IPv4[http:8080] p0/10.0.0.1rt@n1@a"},
		"a node without a zone":                           {newService(), pods(0, 1, on("n0")), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n0"},
		"a node that is not there":                        {newService(), append(pods(0, 1), newPod(1, on("n9"))), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a; skipping Pod p1 for Service ns/web: Node n9 Not Found"},
		"it does not matter if all shall be published":    {newService(publish), pods(0, 1, on("n9")), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n9"},
		"both families, in the Service's order":           {newService(dualStack), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a; create IPv6[http:8080] p0/fd00::1rs@n1@a"},
		"a pod without an address of a family":            {newService(dualStack), pods(0, 1, onlyFour), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a; create IPv6[]"},
		"a family that the Service has no more":           {newService(onlySix), pods(0, 1), made(t, newService(), pods(0, 1)), "create IPv6[http:8080] p0/fd00::1rs@n1@a; delete web-1"},
		"names of ports are each pod's own":               {newService(named), []*corev1.Pod{newPod(0), newPod(1, portNumber(4000)), newPod(2)}, nil, "create IPv4[http:3000] p0/10.0.0.1rs@n1@a p2/10.0.0.3rs@n1@a; create IPv4[http:4000] p1/10.0.0.2rs@n1@a"},
		"a pod that does not know the name has no ports":  {newService(named), pods(0, 1, nameless), nil, "create IPv4[] p0/10.0.0.1rs@n1@a"},
		"headless, with a hostname":                       {newService(headless), pods(0, 1, hosted), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a@h-p0"},
		"headless, without ports":                         {newService(headless, portless), pods(0, 1), nil, "create IPv4[] p0/10.0.0.1rs@n1@a"},
		"another label of the Service":                    {newService(labelled("team", "b")), pods(0, 1), made(t, newService(), pods(0, 1)), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"a label that only slices have is not taken over": {newService(labelled(discovery.LabelManagedBy, "me")), pods(0, 1), made(t, newService(), pods(0, 1)), ""},
		"a pod becomes ready: one update":                 {newService(), pods(0, 3), made(t, newService(), append(pods(0, 2), newPod(2, unready))), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a p1/10.0.0.2rs@n1@a p2/10.0.0.3rs@n1@a"},
		"101 pods are a full slice and one more":          {newService(), pods(0, 101), nil, "create IPv4[http:8080] 100; create IPv4[http:8080] p100/10.0.0.101rs@n1@a"},
		"one more goes into the slice that it fills best": {newService(), pods(0, 150), made(t, newService(), pods(0, 149)), "update web-2 IPv4[http:8080] 50"},
		"a replaced pod changes its own slice alone":      {newService(), pods(1, 151), made(t, newService(), pods(0, 150)), "update web-1 IPv4[http:8080] 100"},
		"many at once make a slice of their own":          {newService(), pods(0, 200), made(t, newService(), pods(0, 100)), "create IPv4[http:8080] 100"},
		"other ports: the slice is used again":            {newService(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9) }), pods(0, 1), made(t, newService(), pods(0, 1)), "update web-1 IPv4[http:9] p0/10.0.0.1rs@n1@a"},
		"a slice of an earlier Service of the name":       {newService(), pods(0, 1), foreign(), "create IPv4[http:8080] p0/10.0.0.1rs@n1@a; delete web-1"},
		"a Service that is being deleted gets no more":    {newService(deleted), pods(0, 200), made(t, newService(), pods(0, 100)), ""},
		"but is kept true":                                {newService(deleted), pods(0, 1), made(t, newService(), pods(0, 2)), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"close: hints tell the zone":                      {newService(prefer("PreferClose")), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a for[{a}][]"},
		"same zone: the same":                             {newService(prefer("PreferSameZone")), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a for[{a}][]"},
		"same node: the node too":                         {newService(prefer("PreferSameNode")), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a for[{a}][{n1}]"},
		"same node, without a zone":                       {newService(prefer("PreferSameNode")), pods(0, 1, on("n0")), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n0 for[][{n0}]"},
		"no hints for those that are not ready":           {newService(prefer("PreferSameZone")), pods(0, 1, unready), nil, "create IPv4[http:8080] p0/10.0.0.1@n1@a"},
		"unknown words give no hints":                     {newService(prefer("Nearby")), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"hints come to slices that need no other change":  {newService(prefer("PreferSameZone")), pods(0, 1), made(t, newService(), pods(0, 1)), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a for[{a}][]"},
		"and go":                                 {newService(), pods(0, 1), made(t, newService(prefer("PreferSameNode")), pods(0, 1)), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
		"the node's hint goes, the zone's stays": {newService(prefer("PreferClose")), pods(0, 1), made(t, newService(prefer("PreferSameNode")), pods(0, 1)), "update web-1 IPv4[http:8080] p0/10.0.0.1rs@n1@a for[{a}][]"},
		"topology aware routing takes the preferences place": {newService(prefer("PreferClose"), func(s *corev1.Service) { s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"} }), pods(0, 1), nil, "create IPv4[http:8080] p0/10.0.0.1rs@n1@a"},
	} {
		t.Run(name, func(t *testing.T) {
			before := fmt.Sprint(c.service, c.pods, c.existing)
			p := Decide(c.service, c.pods, zones, c.existing)
			if got := p.String(); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if fmt.Sprint(c.service, c.pods, c.existing) != before {
				t.Error("it changed what it was given")
			}
			settle(t, c.service, c.pods, c.existing)
		})
	}
}

func TestASliceLooksAsUpstreams(t *testing.T) {
	s := Decide(newService(headless, labelled(corev1.IsHeadlessService, "x")), pods(0, 1), zones, nil).Create[0]
	want := metav1.ObjectMeta{
		Namespace: "ns", GenerateName: "web-", Labels: map[string]string{
			"team": "a", "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "service.kubernetes.io/headless": "",
		},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: "svc", Controller: new(true), BlockOwnerDeletion: new(true)}},
	}
	if !reflect.DeepEqual(s.ObjectMeta, want) {
		t.Errorf("%+v\nwant %+v", s.ObjectMeta, want)
	}
	ref := corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "p0", UID: "p0"}
	if got := *s.Endpoints[0].TargetRef; got != ref {
		t.Errorf("%+v", got)
	}
}
