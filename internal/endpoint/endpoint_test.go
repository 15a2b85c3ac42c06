//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package endpoint

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPort(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{
			{Name: "once", Ports: []corev1.ContainerPort{{Name: "once", ContainerPort: 1, Protocol: corev1.ProtocolTCP}}},
			{Name: "aside", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "aside", ContainerPort: 2, Protocol: corev1.ProtocolTCP}}},
		},
		Containers: []corev1.Container{{Name: "web", Ports: []corev1.ContainerPort{
			{Name: "both", ContainerPort: 3, Protocol: corev1.ProtocolUDP}, {Name: "both", ContainerPort: 4, Protocol: corev1.ProtocolTCP},
		}}},
	}}
	for name, c := range map[string]struct {
		target intstr.IntOrString
		want   int32
	}{
		"a number is itself":                                 {intstr.FromInt32(80), 80},
		"a name is looked up with its protocol":              {intstr.FromString("both"), 4},
		"a container that stays beside the others has names": {intstr.FromString("aside"), 2},
		"one that only comes first has none":                 {intstr.FromString("once"), 0},
		"a name that nobody has":                             {intstr.FromString("nobody"), 0},
	} {
		got, found := Port(pod, &corev1.ServicePort{Protocol: corev1.ProtocolTCP, TargetPort: c.target})
		if got != c.want || found != (c.want != 0) {
			t.Errorf("%s: %d, %v", name, got, found)
		}
	}
}

func TestBelongs(t *testing.T) {
	pod := func(phase corev1.PodPhase, ip string, going bool) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{Phase: phase, PodIP: ip}}
		if going {
			p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		return p
	}
	for name, c := range map[string]struct {
		pod           *corev1.Pod
		always, never bool
	}{
		"it runs":                    {pod(corev1.PodRunning, "10.0.0.1", false), true, true},
		"it has no address yet":      {pod(corev1.PodPending, "", false), false, false},
		"it has failed":              {pod(corev1.PodFailed, "10.0.0.1", false), false, false},
		"it has ended well":          {pod(corev1.PodSucceeded, "10.0.0.1", false), false, false},
		"it is being deleted":        {pod(corev1.PodRunning, "10.0.0.1", true), true, false},
		"it is deleted and has gone": {pod(corev1.PodSucceeded, "10.0.0.1", true), false, false},
	} {
		if got := Belongs(c.pod, true); got != c.always {
			t.Errorf("%s: %v", name, got)
		}
		if got := Belongs(c.pod, false); got != c.never {
			t.Errorf("%s, if those that go do not count: %v", name, got)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1 IPv4", "010.0.00.1": "10.0.0.1 IPv4", "::ffff:10.0.0.1": "10.0.0.1 IPv4",
		"fd00:0::1": "fd00::1 IPv6", "FD00::A": "fd00::a IPv6", "fe80::1%eth0": "", "name": "", "": "", "10.0.0.1.2": "",
	} {
		got := ""
		if ip, kind, ok := Address(in); ok {
			got = ip + " " + string(kind)
		}
		if got != want {
			t.Errorf("%q is %q, not %q", in, got, want)
		}
	}
}

func TestFamilies(t *testing.T) {
	const four, six = discovery.AddressTypeIPv4, discovery.AddressTypeIPv6
	for name, c := range map[string]struct {
		spec corev1.ServiceSpec
		want []discovery.AddressType
	}{
		"as it says, in its order":          {corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{"IPv6", "IPv4"}, ClusterIP: "10.0.0.1"}, []discovery.AddressType{six, four}},
		"that of its address":               {corev1.ServiceSpec{ClusterIP: "10.0.0.1"}, []discovery.AddressType{four}},
		"that of its IPv6 address":          {corev1.ServiceSpec{ClusterIP: "fd00::1"}, []discovery.AddressType{six}},
		"both, since it has no address":     {corev1.ServiceSpec{ClusterIP: "None"}, []discovery.AddressType{four, six}},
		"both, since it has no address yet": {corev1.ServiceSpec{}, []discovery.AddressType{four, six}},
	} {
		if got := Families(&corev1.Service{Spec: c.spec}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestKeysTellEndpointsAndPortsApart(t *testing.T) {
	at := func(change func(*discovery.Endpoint)) Key {
		e := &discovery.Endpoint{Addresses: []string{"a", "b"}, TargetRef: &corev1.ObjectReference{Namespace: "ns", Name: "p"}}
		change(e)
		return KeyOf(e)
	}
	same := at(func(*discovery.Endpoint) {})
	if got := at(func(e *discovery.Endpoint) { e.Addresses = []string{"b", "a"} }); got != same {
		t.Error("the order of addresses counts")
	}
	if got := at(func(e *discovery.Endpoint) { e.NodeName, e.TargetRef.UID = new("n"), "u" }); got != same {
		t.Error("what may change in its place counts")
	}
	for name, change := range map[string]func(*discovery.Endpoint){
		"address":  func(e *discovery.Endpoint) { e.Addresses = []string{"a"} },
		"hostname": func(e *discovery.Endpoint) { e.Hostname = new("h") },
		"pod":      func(e *discovery.Endpoint) { e.TargetRef.Name = "q" },
		"none":     func(e *discovery.Endpoint) { e.TargetRef = nil },
	} {
		if at(change) == same {
			t.Errorf("another %s is the same endpoint", name)
		}
	}
	port := discovery.EndpointPort{Name: new("http"), Port: new(int32(80)), Protocol: new(corev1.ProtocolTCP)}
	other := port
	other.AppProtocol = new("")
	if PortsKey([]discovery.EndpointPort{port}) == PortsKey([]discovery.EndpointPort{other}) {
		t.Error("an empty protocol of the application is none")
	}
	if PortsKey([]discovery.EndpointPort{port, other}) != PortsKey([]discovery.EndpointPort{other, port}) {
		t.Error("the order of ports counts")
	}
	if PortsKey(nil) != PortsKey([]discovery.EndpointPort{}) {
		t.Error("no ports are not no ports")
	}
}

func TestNamePrefix(t *testing.T) {
	if got := NamePrefix("web"); got != "web-" {
		t.Error(got)
	}
	long := strings.Repeat("a", 254)
	if got := NamePrefix(long); got != long {
		t.Error(got)
	}
}

func ips(list []corev1.EndpointAddress) (all []string) {
	for _, a := range list {
		all = append(all, a.IP)
	}
	return all
}

// told is what subsets say of each address and port: ready or not.
func told(subsets []corev1.EndpointSubset) map[string]bool {
	m := map[string]bool{}
	for _, s := range subsets {
		ports := s.Ports
		if len(ports) == 0 {
			ports = []corev1.EndpointPort{{}}
		}
		for _, p := range ports {
			for i, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
				for _, a := range list {
					key := fmt.Sprint(p.Name, p.Port, p.Protocol, " ", a.IP)
					if ready, known := m[key]; !known || ready {
						m[key] = i == 0
					}
				}
			}
		}
	}
	return m
}

func portCount(seed uint64, r *rand.Rand) int {
	if seed%4 == 0 {
		return 0
	}
	return 1 + r.IntN(3)
}

func TestRepackSaysTheSameOnce(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		var in []corev1.EndpointSubset
		for range r.IntN(6) {
			var s corev1.EndpointSubset
			for range r.IntN(5) {
				s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: fmt.Sprint("10.0.0.", r.IntN(4))})
			}
			for range r.IntN(3) {
				s.NotReadyAddresses = append(s.NotReadyAddresses, corev1.EndpointAddress{IP: fmt.Sprint("10.0.0.", r.IntN(4))})
			}
			for range portCount(seed, r) { // a port tells more than none: they are not mixed here
				s.Ports = append(s.Ports, corev1.EndpointPort{Port: int32(1 + r.IntN(3)), Protocol: []corev1.Protocol{"TCP", "UDP"}[r.IntN(2)]})
			}
			in = append(in, s)
		}
		out := Repack(in)
		if !maps.Equal(told(in), told(out)) {
			t.Fatalf("seed %d: %v\nbecame %v", seed, in, out)
		}
		count := 0
		for _, s := range out {
			count += (len(s.Addresses) + len(s.NotReadyAddresses)) * max(len(s.Ports), 1)
			if !slices.IsSorted(ips(s.Addresses)) || !slices.IsSorted(ips(s.NotReadyAddresses)) {
				t.Fatalf("seed %d: not sorted: %v", seed, s)
			}
		}
		if count != len(told(out)) {
			t.Fatalf("seed %d: told more than once: %v", seed, out)
		}
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		if again := Repack(in); !reflect.DeepEqual(again, out) {
			t.Fatalf("seed %d: in another order %v\nnot %v", seed, again, out)
		}
		if again := Repack(out); !reflect.DeepEqual(again, out) {
			t.Fatalf("seed %d: %v\nrepacked again %v", seed, out, again)
		}
	}
}

func TestTriggers(t *testing.T) {
	at := func(s int) metav1.Time { return metav1.Unix(int64(1000+s), 0) }
	pod := func(name string, s int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, LastTransitionTime: at(s)}}}}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", CreationTimestamp: at(5)}}
	var triggers Triggers
	expect := func(what string, want time.Time, pods ...*corev1.Pod) {
		t.Helper()
		if got := triggers.Next(service, pods); !got.Equal(want) {
			t.Errorf("%s: %v, not %v", what, got, want)
		}
	}
	expect("a new Service tells when it was made", at(5).Time, pod("a", 1), pod("b", 9))
	expect("nothing has changed", time.Time{}, pod("a", 1), pod("b", 9))
	expect("the earliest change of those since counts", at(11).Time, pod("a", 12), pod("b", 11))
	expect("a pod that comes tells of itself", at(3).Time, pod("a", 12), pod("b", 11), pod("c", 3))
	expect("a pod that goes tells nothing", time.Time{}, pod("a", 12))
	expect("a pod without the condition tells nothing", time.Time{}, pod("a", 12), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "d"}})
	service.CreationTimestamp = at(40)
	expect("a Service made anew tells when", at(40).Time, pod("a", 12))
	triggers.Forget("ns", "s")
	service.CreationTimestamp = at(5)
	expect("one that was forgotten is new", at(5).Time, pod("a", 50))

	m := SetTrigger(nil, at(5).Time)
	if m[corev1.EndpointsLastChangeTriggerTime] != "1970-01-01T00:16:45Z" {
		t.Error(m)
	}
	if m = SetTrigger(m, time.Time{}); len(m) != 0 {
		t.Error(m)
	}
}

// The order is what clients of Kubernetes see, of kube-dns for example.
func TestPortsComeInTheOrderOfTheirHashes(t *testing.T) {
	subsets := Repack([]corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.244.0.2"}}, Ports: []corev1.EndpointPort{
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "metrics", Port: 9153, Protocol: corev1.ProtocolTCP}, {Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP},
	}}})
	var names []string
	for _, p := range subsets[0].Ports {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"dns-tcp", "dns", "metrics"}) {
		t.Error(names)
	}
	ports := []discovery.EndpointPort{{Name: new("dns"), Port: new(int32(53))}, {Name: new("metrics"), Port: new(int32(9153))}, {Name: new("dns-tcp"), Port: new(int32(53))}}
	other := []discovery.EndpointPort{ports[2], ports[0], ports[1]}
	SortPorts(ports)
	if SortPorts(other); !reflect.DeepEqual(ports, other) {
		t.Error("it depends on the order that they had")
	}
}
