package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// svc makes a Service out of words: port numbers (80, 53/UDP), 4, 6, 46, both, local, share=KEY, ask=IPS, ip=IP, app=NAME, has=IPS.
func svc(name string, age int, words string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Unix(int64(1000-age), 0), Annotations: map[string]string{}}}
	s.Spec.Type, s.Spec.IPFamilies = corev1.ServiceTypeLoadBalancer, []corev1.IPFamily{corev1.IPv4Protocol}
	s.Spec.ExternalTrafficPolicy, s.Spec.Selector = corev1.ServiceExternalTrafficPolicyCluster, map[string]string{"app": name}
	for word := range strings.FieldsSeq(words) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "6":
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		case "46", "both":
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
			if key == "both" {
				s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
			}
		case "local":
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case "share":
			s.Annotations[AnnotationSharing] = value
		case "ask":
			s.Annotations[AnnotationIPs] = value
		case "ip":
			s.Spec.LoadBalancerIP = value
		case "app":
			s.Spec.Selector["app"] = value
		case "has":
			s.Status.LoadBalancer.Ingress = ingressOf(value)
		default:
			var p corev1.ServicePort
			number, proto, _ := strings.Cut(key, "/")
			if _, err := fmt.Sscan(number, &p.Port); err != nil {
				panic(word)
			}
			p.Protocol = corev1.Protocol(proto)
			s.Spec.Ports = append(s.Spec.Ports, p)
		}
	}
	return s
}

func ingressOf(ips string) (list []corev1.LoadBalancerIngress) {
	for ip := range strings.SplitSeq(ips, ",") {
		if ip != "" {
			list = append(list, corev1.LoadBalancerIngress{IP: ip, IPMode: new(corev1.LoadBalancerIPModeVIP)})
		}
	}
	return list
}

func pools(text string) Pools {
	p, err := ParsePools(text)
	if err != nil {
		panic(err)
	}
	return p
}

func node(name string, addrs ...string) Node {
	n := Node{Name: name, Serves: true}
	for _, a := range addrs {
		n.Own = append(n.Own, netip.MustParseAddr(a))
	}
	n.Addresses = n.Own
	return n
}

// onN1 says that pods of all Services are ready on n1 alone.
func onN1(loop.Key) map[string]bool { return map[string]bool{"n1": true} }

func show(v Verdict) string {
	if v.Words != "" {
		return v.Reason + ": " + strings.TrimPrefix(v.Words, "Error syncing load balancer: failed to ensure load balancer: ")
	}
	return strings.Trim(fmt.Sprint(v.Addresses), "[]")
}

func TestDecide(t *testing.T) {
	nodes := Ground{Nodes: []Node{node("n1", "192.0.2.1", "2001:db8::1"), node("n2", "192.0.2.2")}, Reserved: map[uint16]string{6443: "the API server"}}
	pool := Ground{Nodes: nodes.Nodes, Pools: pools("192.0.2.1-192.0.2.6,2001:db8::1:0/127")}
	down := Ground{Nodes: []Node{{Name: "n1", Own: nodes.Nodes[0].Own, Addresses: nodes.Nodes[0].Own}}}
	for _, c := range []struct {
		name   string
		ground Ground
		before []*corev1.Service
		s      *corev1.Service
		want   string
	}{
		{"nodes give their addresses", nodes, nil, svc("a", 1, "80"), "192.0.2.1 192.0.2.2"},
		{"of the Service's family", nodes, nil, svc("a", 1, "80 6"), "2001:db8::1"},
		{"of both families, in its order", nodes, nil, svc("a", 1, "80 46"), "192.0.2.1 192.0.2.2 2001:db8::1"},
		{"only nodes that have pods, if packets stay there", nodes, nil, svc("a", 1, "80 local"), "192.0.2.1"},
		{"one node's address may be asked for", nodes, nil, svc("a", 1, "80 ask=192.0.2.2"), "192.0.2.2"},
		{"no node serves", down, nil, svc("a", 1, "80"), "UnAvailableLoadBalancer: There are no available nodes for LoadBalancer"},
		{"another has the port", nodes, []*corev1.Service{svc("b", 2, "443 80")}, svc("a", 1, "80"), "SyncLoadBalancerFailed: port 80/TCP of the nodes' addresses is in use by Service default/b: choose another port, delete that Service, or make a pool of addresses with the ConfigMap kube-system/sampan-load-balancer"},
		{"another has the number by another protocol", nodes, []*corev1.Service{svc("b", 2, "80/UDP")}, svc("a", 1, "80"), "192.0.2.1 192.0.2.2"},
		{"another has the port by the other family", nodes, []*corev1.Service{svc("b", 2, "80 6")}, svc("a", 1, "80"), "192.0.2.1 192.0.2.2"},
		{"the node itself has the port", nodes, nil, svc("a", 1, "6443"), "SyncLoadBalancerFailed: port 6443/TCP of the nodes' addresses is in use by the API server: choose another port, or make a pool of addresses with the ConfigMap kube-system/sampan-load-balancer"},
		{"the node has it by TCP alone", nodes, nil, svc("a", 1, "6443/UDP"), "192.0.2.1 192.0.2.2"},
		{"an address is asked for and there is no pool", nodes, nil, svc("a", 1, "80 ip=10.0.0.1"), "SyncLoadBalancerFailed: 10.0.0.1, which it asks for, is no node's address: make a pool of addresses with the ConfigMap kube-system/sampan-load-balancer"},

		{"the lowest that is free and no node's", pool, []*corev1.Service{svc("b", 2, "80")}, svc("a", 1, "80"), "192.0.2.4"},
		{"one of each family", pool, nil, svc("a", 1, "80 46"), "192.0.2.3 2001:db8::1:0"},
		{"what it has stays", pool, nil, svc("a", 1, "80 has=192.0.2.6"), "192.0.2.6"},
		{"what it has is no longer in a pool", pool, nil, svc("a", 1, "80 has=192.0.2.7"), "192.0.2.3"},
		{"what it has is another's", pool, []*corev1.Service{svc("b", 2, "80 has=192.0.2.6")}, svc("a", 1, "80 has=192.0.2.6"), "192.0.2.3"},
		{"it asks by the annotation", pool, nil, svc("a", 1, "80 ask=192.0.2.5 ip=192.0.2.6 has=192.0.2.3"), "192.0.2.5"},
		{"it asks by the old field", pool, nil, svc("a", 1, "80 ip=192.0.2.6"), "192.0.2.6"},
		{"it asks for both families", pool, nil, svc("a", 1, "80 46 ask=2001:db8::1:1,192.0.2.6"), "192.0.2.6 2001:db8::1:1"},
		{"it asks for what is in no pool", pool, nil, svc("a", 1, "80 ip=192.0.2.9"), "SyncLoadBalancerFailed: 192.0.2.9, which it asks for, is in no pool: the pools are 192.0.2.1-192.0.2.6,2001:db8::1:0-2001:db8::1:1"},
		{"it asks for a node's", pool, nil, svc("a", 1, "80 ip=192.0.2.2"), "SyncLoadBalancerFailed: 192.0.2.2, which it asks for, is an address of node n2"},
		{"it asks for what is taken", pool, []*corev1.Service{svc("b", 2, "80")}, svc("a", 1, "81 ip=192.0.2.3"), "SyncLoadBalancerFailed: 192.0.2.3, which it asks for, is taken by Service default/b; to share it both need the same annotation sampan.dev/load-balancer-sharing-key"},
		{"it asks for no address", pool, nil, svc("a", 1, "80 ask=web"), `SyncLoadBalancerFailed: "web", which it asks for, is no address`},
		{"it asks for the other family", pool, nil, svc("a", 1, "80 ip=2001:db8::1:1"), "SyncLoadBalancerFailed: 2001:db8::1:1, which it asks for, is of a family that it does not have: see its spec.ipFamilies"},
		{"it asks for too many", pool, nil, svc("a", 1, "80 ask=192.0.2.5,192.0.2.6"), "SyncLoadBalancerFailed: it asks for more than one address of a family: 192.0.2.5,192.0.2.6"},
		{"all are taken", Ground{Pools: pools("10.0.0.1")}, []*corev1.Service{svc("b", 2, "80")}, svc("a", 1, "80"), "SyncLoadBalancerFailed: all IPv4 addresses of the pools are taken: the pools are 10.0.0.1"},
		{"none is of its family", Ground{Pools: pools("10.0.0.1")}, nil, svc("a", 1, "80 6"), "SyncLoadBalancerFailed: no pool has IPv6 addresses: the pools are 10.0.0.1"},
		{"it must have two families", Ground{Pools: pools("10.0.0.1")}, nil, svc("a", 1, "80 both"), "SyncLoadBalancerFailed: no pool has IPv6 addresses: the pools are 10.0.0.1"},
		{"it prefers two families", Ground{Pools: pools("10.0.0.1")}, nil, svc("a", 1, "80 46"), "10.0.0.1"},
		{"ports of the node do not matter in a pool", Ground{Pools: pools("10.0.0.1"), Reserved: nodes.Reserved}, nil, svc("a", 1, "6443"), "10.0.0.1"},

		{"two share one", pool, []*corev1.Service{svc("b", 2, "80 share=x")}, svc("a", 1, "81 share=x"), "192.0.2.3"},
		{"another key shares nothing", pool, []*corev1.Service{svc("b", 2, "80 share=x")}, svc("a", 1, "81 share=y"), "192.0.2.4"},
		{"the same port is not shared", pool, []*corev1.Service{svc("b", 2, "80 share=x")}, svc("a", 1, "80 share=x"), "192.0.2.4"},
		{"the same port is not shared even if asked for", pool, []*corev1.Service{svc("b", 2, "80 share=x")}, svc("a", 1, "80 share=x ip=192.0.2.3"), "SyncLoadBalancerFailed: 192.0.2.3, which it asks for, is taken by Service default/b, which has port 80/TCP there"},
		{"different pods cannot share where packets stay", pool, []*corev1.Service{svc("b", 2, "80 share=x")}, svc("a", 1, "81 share=x local"), "192.0.2.4"},
		{"the same pods can", pool, []*corev1.Service{svc("b", 2, "80 share=x local app=web")}, svc("a", 1, "81 share=x local app=web"), "192.0.2.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBook(c.ground)
			for _, s := range c.before {
				if v, _ := b.Decide(ClaimOf(s), onN1); v.Words != "" {
					t.Fatalf("%s: %s", s.Name, v.Words)
				}
			}
			for range 2 { // the second time it is the same
				v, _ := b.Decide(ClaimOf(c.s), onN1)
				if got := show(v); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			}
		})
	}
}

func TestWhoWaitsGetsWhatIsGivenBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		ground  Ground
		holder  *corev1.Service
		waiters []*corev1.Service // the younger first
		after   *corev1.Service   // nil: it has gone
		wake    string
	}{
		{"a port of the nodes", Ground{Nodes: []Node{node("n1", "192.0.2.1")}}, svc("a", 9, "80 81"), []*corev1.Service{svc("c", 1, "80"), svc("b", 2, "81")}, nil, "[default/b default/c]"},
		{"one of two ports", Ground{Nodes: []Node{node("n1", "192.0.2.1")}}, svc("a", 9, "80 81"), []*corev1.Service{svc("c", 1, "80"), svc("b", 2, "81")}, svc("a", 9, "80"), "[default/b]"},
		{"any address", Ground{Pools: pools("10.0.0.1")}, svc("a", 9, "80"), []*corev1.Service{svc("c", 1, "80"), svc("b", 2, "80")}, nil, "[default/b default/c]"},
		{"the address asked for", Ground{Pools: pools("10.0.0.0/30")}, svc("a", 9, "80 ip=10.0.0.2"), []*corev1.Service{svc("b", 2, "80 ip=10.0.0.2")}, svc("a", 9, "80 ip=10.0.0.3"), "[default/b]"},
		{"an address that is shared from now on", Ground{Pools: pools("10.0.0.1")}, svc("a", 9, "80"), []*corev1.Service{svc("b", 2, "81 share=x")}, svc("a", 9, "80 share=x"), "[default/b]"},
		{"a port of a shared address", Ground{Pools: pools("10.0.0.1")}, svc("a", 9, "80 81 share=x"), []*corev1.Service{svc("b", 2, "81 share=x ip=10.0.0.1")}, svc("a", 9, "80 share=x"), "[default/b]"},
		{"nothing, if nothing changes", Ground{Pools: pools("10.0.0.1")}, svc("a", 9, "80"), []*corev1.Service{svc("b", 2, "80")}, svc("a", 9, "80"), "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBook(c.ground)
			b.Decide(ClaimOf(c.holder), onN1)
			for _, s := range c.waiters {
				if v, _ := b.Decide(ClaimOf(s), onN1); v.Words == "" {
					t.Fatalf("%s does not wait: it has %v", s.Name, v.Addresses)
				}
			}
			var wake []loop.Key
			if c.after == nil {
				wake = b.Remove(ClaimOf(c.holder).Key)
			} else {
				_, wake = b.Decide(ClaimOf(c.after), onN1)
			}
			if fmt.Sprint(wake) != c.wake {
				t.Errorf("wakes %v, want %s", wake, c.wake)
			}
		})
	}
}

// TestFromAnyStart changes Services, nodes and pools at random. Whatever happens, once all that was marked is decided on: no port of an address is two Services'; who waits could
// get nothing; deciding again changes nothing; and a book filled anew from the status says the same.
func TestFromAnyStart(t *testing.T) {
	grounds := []Ground{
		{Nodes: []Node{node("n1", "10.0.0.1", "fd00::1"), node("n2", "10.0.0.2")}, Reserved: map[uint16]string{82: "it"}},
		{Nodes: []Node{node("n1", "10.0.0.1"), {Name: "n2"}}},
		{Pools: pools("10.0.0.0/30")},
		{Pools: pools("10.0.0.3-10.0.0.6,fd00::/127"), Nodes: []Node{node("n1", "10.0.0.4")}},
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := NewBook(grounds[r.IntN(len(grounds))])
		all := map[loop.Key]*corev1.Service{}
		words := map[loop.Key]string{}
		var queue []loop.Key
		settle := func() {
			for n := 0; len(queue) > 0; n++ {
				if n > 2000 {
					t.Fatalf("seed %d: it never settles: %v", seed, queue)
				}
				key := queue[0]
				queue = queue[1:]
				if all[key] == nil {
					queue = append(queue, b.Remove(key)...)
					continue
				}
				v, wake := b.Decide(ClaimOf(all[key]), onN1)
				all[key].Status.LoadBalancer.Ingress = ingressOf(strings.Join(strings.Fields(strings.Trim(fmt.Sprint(v.Addresses), "[]")), ","))
				words[key] = v.Words
				queue = append(queue, wake...)
			}
		}
		for step := range 40 {
			key := loop.Key{Namespace: "default", Name: string(rune('a' + r.IntN(8)))}
			switch r.IntN(6) {
			case 0:
				delete(all, key)
			case 1:
				b.SetGround(grounds[r.IntN(len(grounds))])
				queue = append(queue, b.Keys()...)
			default:
				var has []corev1.LoadBalancerIngress
				if all[key] != nil {
					has = all[key].Status.LoadBalancer.Ingress
				}
				pick := func(from ...string) string { return " " + from[r.IntN(len(from))] }
				all[key] = svc(key.Name, int(key.Name[0]), pick("80", "81", "80 81", "82")+pick("", "", "6", "46", "both")+pick("", "share=x", "share=y")+pick("", "", "", "ask=10.0.0.3", "ip=10.0.0.2", "local app=z"))
				all[key].Status.LoadBalancer.Ingress = has
			}
			queue = append(queue, key)
			settle()

			where := map[string]string{}
			for key, s := range all {
				for _, a := range ClaimOf(s).Has {
					for _, p := range s.Spec.Ports {
						at := fmt.Sprint(a, p.Port)
						if where[at] != "" {
							t.Fatalf("seed %d step %d: %s and %s both have %s", seed, step, where[at], key, at)
						}
						where[at] = key.Name
					}
				}
			}
			for key, s := range all {
				v, wake := b.Decide(ClaimOf(s), onN1)
				if !sameIngress(s.Status.LoadBalancer.Ingress, v.Addresses) || v.Words != words[key] && v.Addresses != nil || len(wake) > 0 {
					t.Fatalf("seed %d step %d: %s has %v %q, and again: %v %q, waking %v", seed, step, key, ClaimOf(s).Has, words[key], v.Addresses, v.Words, wake)
				}
			}
			anew := NewBook(b.ground)
			var claims []*Claim
			for _, s := range all {
				claims = append(claims, ClaimOf(s))
			}
			anew.Fill(claims, onN1)
			for key, s := range all {
				if v, _ := anew.Decide(ClaimOf(s), onN1); !slices.Equal(v.Addresses, ClaimOf(s).Has) {
					t.Fatalf("seed %d step %d: after a restart %s has %v instead of %v: %s", seed, step, key, v.Addresses, ClaimOf(s).Has, v.Words)
				}
			}
		}
	}
}

func TestNodeOf(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeHostName, Address: "n1"}}
	check := func(what string, serves bool, want string) {
		t.Helper()
		if got := NodeOf(n); got.Serves != serves || fmt.Sprint(got.Addresses) != want {
			t.Errorf("%s: got %+v", what, got)
		}
	}
	check("it has internal addresses", true, "[192.0.2.1 fd00::1]")
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"})
	check("an external one goes before, of its family", true, "[198.51.100.1 fd00::1]")
	n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	check("it is left out", false, "[198.51.100.1 fd00::1]")
	n.Labels, n.Status.Conditions[0].Status = nil, corev1.ConditionUnknown
	check("nobody knows of it", false, "[198.51.100.1 fd00::1]")
	n.Status.Conditions[0].Status, n.Spec.Taints = corev1.ConditionTrue, []corev1.Taint{{Key: toBeDeleted}}
	check("it is about to go", false, "[198.51.100.1 fd00::1]")
	n.Spec.Taints, n.DeletionTimestamp = nil, &metav1.Time{Time: time.Unix(1, 0)}
	check("it is being deleted", false, "[198.51.100.1 fd00::1]")
}
