package netpol

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// world is all objects, and the view of them.
type world struct {
	policies   map[loop.Key]*networking.NetworkPolicy
	pods       map[loop.Key]*corev1.Pod
	namespaces map[string]*corev1.Namespace
	ready      chan struct{}
	mark       func(Kind, loop.Key)
}

func newWorld() *world {
	w := &world{
		policies: map[loop.Key]*networking.NetworkPolicy{}, pods: map[loop.Key]*corev1.Pod{}, namespaces: map[string]*corev1.Namespace{},
		ready: make(chan struct{}), mark: func(Kind, loop.Key) {},
	}
	close(w.ready)
	return w
}

func (w *world) Ready() <-chan struct{}                        { return w.ready }
func (w *world) Policy(key loop.Key) *networking.NetworkPolicy { return w.policies[key] }
func (w *world) Pod(key loop.Key) *corev1.Pod                  { return w.pods[key] }
func (w *world) Namespace(name string) *corev1.Namespace       { return w.namespaces[name] }
func (w *world) OnChange(mark func(kind Kind, key loop.Key))   { w.mark = mark }
func (w *world) All(each func(kind Kind, key loop.Key)) {
	for key := range w.policies {
		each(PolicyKind, key)
	}
	for key := range w.pods {
		each(PodKind, key)
	}
	for name := range w.namespaces {
		each(NamespaceKind, loop.Key{Name: name})
	}
}

const (
	here   = "n1"
	bridge = "sampan-0a1b2c3d"
	table  = "sampan-0a1b2c3d-policies"
)

var dns = netip.MustParseAddr("10.96.0.10")

// addrs are a pod's addresses.
func addrs(p *corev1.Pod) (all []netip.Addr) {
	for _, ip := range p.Status.PodIPs {
		all = append(all, netip.MustParseAddr(ip.IP))
	}
	return all
}

func counts(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// at finds the pods of an address.
func (w *world) at(a netip.Addr) (all []*corev1.Pod) {
	for _, p := range w.pods {
		if counts(p) && slices.Contains(addrs(p), a) {
			all = append(all, p)
		}
	}
	return all
}

// allowed says by the words of the documentation what shall become of a connection. It knows nothing of how rules are made.
func (w *world) allowed(from, to netip.Addr, proto corev1.Protocol, number int32) bool {
	if from == to {
		return true
	}
	for _, p := range w.at(from) {
		if p.Spec.NodeName == here && !w.lets(p, networking.PolicyTypeEgress, to, to, proto, number) {
			return false
		}
	}
	for _, p := range w.at(to) {
		if p.Spec.NodeName == here && !w.lets(p, networking.PolicyTypeIngress, from, to, proto, number) {
			return false
		}
	}
	return true
}

func (w *world) lets(p *corev1.Pod, way networking.PolicyType, peer, to netip.Addr, proto corev1.Protocol, number int32) bool {
	isolated := false
	for _, o := range w.policies {
		if o.Namespace != p.Namespace || !slices.Contains(o.Spec.PolicyTypes, way) || !matches(&o.Spec.PodSelector, p.Labels) {
			continue
		}
		isolated = true
		if way == networking.PolicyTypeIngress {
			for _, r := range o.Spec.Ingress {
				if w.peer(o.Namespace, r.From, peer) && w.port(r.Ports, to, proto, number) {
					return true
				}
			}
			continue
		}
		for _, r := range o.Spec.Egress {
			if w.peer(o.Namespace, r.To, peer) && w.port(r.Ports, to, proto, number) {
				return true
			}
		}
	}
	return !isolated
}

func matches(s *metav1.LabelSelector, set map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		panic(err)
	}
	return sel.Matches(labels.Set(set))
}

func (w *world) peer(namespace string, peers []networking.NetworkPolicyPeer, a netip.Addr) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if b := peer.IPBlock; b != nil {
			if netip.MustParsePrefix(b.CIDR).Contains(a) && !slices.ContainsFunc(b.Except, func(e string) bool { return netip.MustParsePrefix(e).Contains(a) }) {
				return true
			}
			continue
		}
		for _, p := range w.withDNS(a) {
			ns := w.namespaces[p.Namespace]
			inNamespace := p.Namespace == namespace
			if peer.NamespaceSelector != nil {
				inNamespace = ns != nil && matches(peer.NamespaceSelector, ns.Labels)
			}
			if inNamespace && (peer.PodSelector == nil || matches(peer.PodSelector, p.Labels)) {
				return true
			}
		}
	}
	return false
}

// withDNS finds the pods of an address, the DNS server among them.
func (w *world) withDNS(a netip.Addr) []*corev1.Pod {
	if a != dns {
		return w.at(a)
	}
	return []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Labels: map[string]string{"k8s-app": "kube-dns"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, ContainerPort: 53},
		}}}},
	}}
}

func (w *world) port(ports []networking.NetworkPolicyPort, to netip.Addr, proto corev1.Protocol, number int32) bool {
	if len(ports) == 0 {
		return true
	}
	for _, p := range ports {
		of := corev1.ProtocolTCP
		if p.Protocol != nil {
			of = *p.Protocol
		}
		switch {
		case of != proto:
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.Int:
			if number == p.Port.IntVal || p.EndPort != nil && p.Port.IntVal <= number && number <= *p.EndPort {
				return true
			}
		default:
			for _, pod := range w.withDNS(to) {
				for _, c := range pod.Spec.Containers {
					for _, cp := range c.Ports {
						if cp.Name == p.Port.StrVal && cp.Protocol == proto && cp.ContainerPort == number {
							return true
						}
					}
				}
			}
		}
	}
	return false
}

// Things by chance, out of few, so that they meet.

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func someLabels(r *rand.Rand) map[string]string {
	all := map[string]string{}
	for _, k := range []string{"a", "b"} {
		if r.IntN(2) == 0 {
			all[k] = oneOf(r, "1", "2")
		}
	}
	return all
}

func someSelector(r *rand.Rand) *metav1.LabelSelector {
	switch r.IntN(4) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: oneOf(r, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{oneOf(r, "a", "b"): oneOf(r, "1", "2")}}
}

var names = []string{"x", "y"}

func somePod(r *rand.Rand, i int) (loop.Key, *corev1.Pod) {
	key := loop.Key{Namespace: oneOf(r, names...), Name: fmt.Sprint("p", i)}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: someLabels(r)},
		Spec:       corev1.PodSpec{NodeName: oneOf(r, here, here, "n2"), HostNetwork: r.IntN(12) == 0},
		Status:     corev1.PodStatus{Phase: oneOf(r, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodFailed)},
	}
	switch {
	case p.Spec.HostNetwork:
		p.Status.PodIPs = []corev1.PodIP{{IP: "192.0.2.1"}}
	case r.IntN(8) > 0:
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.244.0.%d", 10+i)}, {IP: fmt.Sprintf("fd00::%x", 16+i)}}
	}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", Protocol: corev1.ProtocolTCP, ContainerPort: oneOf[int32](r, 80, 8080)}}}}
	return key, p
}

func somePorts(r *rand.Rand) (all []networking.NetworkPolicyPort) {
	for range r.IntN(3) {
		p := networking.NetworkPolicyPort{}
		if r.IntN(3) > 0 {
			p.Protocol = new(oneOf(r, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP))
		}
		switch r.IntN(5) {
		case 0:
		case 1:
			p.Port = new(intstr.FromString(oneOf(r, "web", "dns", "none")))
		case 2:
			p.Port, p.EndPort = new(intstr.FromInt32(70)), new(int32(90))
		default:
			p.Port = new(intstr.FromInt32(oneOf[int32](r, 80, 8080, 53)))
		}
		all = append(all, p)
	}
	return all
}

func somePeers(r *rand.Rand) (all []networking.NetworkPolicyPeer) {
	for range r.IntN(3) {
		var p networking.NetworkPolicyPeer
		switch r.IntN(5) {
		case 0:
			p.IPBlock = oneOf(r,
				&networking.IPBlock{CIDR: "10.244.0.0/24", Except: []string{"10.244.0.12/31", "10.244.0.14/32"}},
				&networking.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.244.0.0/28"}}, &networking.IPBlock{CIDR: "::/0"},
				&networking.IPBlock{CIDR: "198.51.100.0/24"}, &networking.IPBlock{CIDR: "fd00::/64", Except: []string{"fd00::12/127"}})
		case 1:
			p.NamespaceSelector = someSelector(r)
		case 2:
			p.NamespaceSelector, p.PodSelector = someSelector(r), someSelector(r)
		default:
			p.PodSelector = someSelector(r)
		}
		all = append(all, p)
	}
	return all
}

func somePolicy(r *rand.Rand, i int) (loop.Key, *networking.NetworkPolicy) {
	key := loop.Key{Namespace: oneOf(r, names...), Name: fmt.Sprint("np", i)}
	o := &networking.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	o.Spec.PodSelector = *someSelector(r)
	o.Spec.PolicyTypes = oneOf(r, []networking.PolicyType{networking.PolicyTypeIngress}, []networking.PolicyType{networking.PolicyTypeEgress}, []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress})
	for range r.IntN(3) {
		o.Spec.Ingress = append(o.Spec.Ingress, networking.NetworkPolicyIngressRule{From: somePeers(r), Ports: somePorts(r)})
	}
	for range r.IntN(3) {
		o.Spec.Egress = append(o.Spec.Egress, networking.NetworkPolicyEgressRule{To: somePeers(r), Ports: somePorts(r)})
	}
	return key, o
}

const mostPods, mostPolicies = 10, 5

// change changes one thing by chance, and says which.
func (w *world) change(r *rand.Rand) {
	switch r.IntN(6) {
	case 0:
		key, o := somePolicy(r, r.IntN(mostPolicies))
		w.policies[key] = o
		w.mark(PolicyKind, key)
	case 1:
		key, _ := somePolicy(r, r.IntN(mostPolicies))
		delete(w.policies, key)
		w.mark(PolicyKind, key)
	case 2:
		name := oneOf(r, append(names, "kube-system")...)
		if delete(w.namespaces, name); r.IntN(4) > 0 {
			w.namespaces[name] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: someLabels(r)}}
		}
		w.mark(NamespaceKind, loop.Key{Name: name})
	default:
		i := r.IntN(mostPods)
		for _, ns := range names { // an address is of one pod
			key := loop.Key{Namespace: ns, Name: fmt.Sprint("p", i)}
			delete(w.pods, key)
			w.mark(PodKind, key)
		}
		if r.IntN(5) > 0 {
			key, p := somePod(r, i)
			w.pods[key] = p
			w.mark(PodKind, key)
		}
	}
}

// links are those that a packet takes between two addresses, seen from this node.
func (w *world) links(from, to netip.Addr) (in, out string) {
	side := func(a netip.Addr) string {
		for _, p := range w.pods {
			if !p.Spec.HostNetwork && p.Spec.NodeName == here && slices.Contains(addrs(p), a) {
				return bridge
			}
		}
		return "eth0"
	}
	in, out = side(from), side(to)
	if to == dns {
		out = ""
	}
	return in, out
}

// check asks of packets by chance what becomes of them.
func (w *world) check(t *testing.T, r *rand.Rand, fake *nft.Fake, packets int) (dropped int) {
	t.Helper()
	some := func() netip.Addr {
		i := r.IntN(mostPods + 4)
		switch {
		case i >= mostPods+2:
			return netip.MustParseAddr("198.51.100.7")
		case i == mostPods+1:
			return netip.MustParseAddr("2001:db8::7")
		case i == mostPods:
			return dns
		case r.IntN(2) == 0:
			return netip.MustParseAddr(fmt.Sprintf("fd00::%x", 16+i))
		}
		return netip.MustParseAddr(fmt.Sprintf("10.244.0.%d", 10+i))
	}
	protos := map[corev1.Protocol]nft.Proto{corev1.ProtocolTCP: nft.TCP, corev1.ProtocolUDP: nft.UDP, corev1.ProtocolSCTP: nft.SCTP}
	for range packets {
		from, to := some(), some()
		if from.Is6() != to.Is6() || from == dns {
			continue
		}
		proto, number := oneOf(r, slices.Sorted(maps.Keys(protos))...), oneOf[int32](r, 80, 8080, 53, 75, 443)
		in, out := w.links(from, to)
		got := fake.Trace(nft.Packet{In: in, Out: out, From: from, To: to, Proto: protos[proto], Port: uint16(number)}).Fate
		want := "accept"
		if !w.allowed(from, to, proto, number) {
			want = "drop"
			dropped++
		}
		if got != want {
			t.Fatalf("from %s to %s by %s %d: %s, wanted %s\npolicies: %s", from, to, proto, number, got, want, w.text())
		}
		if began := fake.Trace(nft.Packet{In: in, Out: out, From: from, To: to, Proto: protos[proto], Port: uint16(number), State: nft.Established}).Fate; began != "accept" {
			t.Fatalf("from %s to %s, which has begun: %s", from, to, began)
		}
	}
	return dropped
}

func (w *world) text() (s string) {
	for _, o := range w.policies {
		s += fmt.Sprintf("\n%s/%s %+v", o.Namespace, o.Name, o.Spec)
	}
	for _, p := range w.pods {
		s += fmt.Sprintf("\n%s/%s %v on %s %v %s", p.Namespace, p.Name, p.Labels, p.Spec.NodeName, p.Status.PodIPs, p.Status.Phase)
	}
	return s
}
