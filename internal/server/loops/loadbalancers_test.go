package loops

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/controller/loadbalancer"
	kind "sampan.dev/internal/resource"
)

func (s street) addReadyNode(name, ip string) {
	s.t.Helper()
	s.addNode(name)
	err := s.update(s.ctx, s.nodes, "status", "", name, "", func(o kind.Object) {
		st := &o.(*corev1.Node).Status
		st.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		st.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s street) addBalanced(name string, port int32, policy corev1.ServiceExternalTrafficPolicy) {
	s.t.Helper()
	s.make(s.services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: policy, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack),
		SessionAffinity: corev1.ServiceAffinityNone, InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster), AllocateLoadBalancerNodePorts: new(true),
		Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}},
	}})
}

// balanced waits until a Service has these addresses.
func (s street) balanced(service, want string) {
	s.t.Helper()
	s.until(service+" has "+want, func() bool {
		var ips []string
		for _, in := range get[*corev1.Service](s.world, s.services, "default", service).Status.LoadBalancer.Ingress {
			ips = append(ips, in.IP)
		}
		return strings.Join(ips, " ") == want
	})
}

func (s street) pools(text string) {
	s.t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: loadbalancer.Namespace, Name: loadbalancer.Name}, Data: map[string]string{"pools": text}}
	if s.ConfigMap(m.Namespace, m.Name) == nil {
		s.make(s.configs, m)
		return
	}
	if err := s.UpdateConfigMap(s.ctx, m.Namespace, m.Name, func(o *corev1.ConfigMap) { o.Data = m.Data }); err != nil {
		s.t.Fatal(err)
	}
}

func TestBalancedAddressesFollowNodesAndEndpoints(t *testing.T) {
	p, _ := start(t, t.TempDir())
	s := newStreet(p)
	s.addBalanced("web", 80, corev1.ServiceExternalTrafficPolicyCluster)
	s.addBalanced("local", 81, corev1.ServiceExternalTrafficPolicyLocal)
	s.until("it is told that there is no node", func() bool {
		return slices.Contains(s.plane.told("web"), "UnAvailableLoadBalancer: There are no available nodes for LoadBalancer")
	})
	s.addReadyNode("n1", "192.0.2.1")
	s.addReadyNode("n2", "192.0.2.2")
	s.balanced("web", "192.0.2.1 192.0.2.2")
	s.balanced("local", "")
	slice := func(node string, ready bool) *discovery.EndpointSlice {
		return &discovery.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "local-x", Labels: map[string]string{discovery.LabelServiceName: "local"}}, AddressType: discovery.AddressTypeIPv4,
			Endpoints: []discovery.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node, Conditions: discovery.EndpointConditions{Ready: &ready}}},
		}
	}
	s.make(s.slices, slice("n2", true))
	s.balanced("local", "192.0.2.2")
	change := func(node string, ready bool) {
		err := s.update(s.ctx, s.slices, "", "default", "local-x", "", func(o kind.Object) {
			o.(*discovery.EndpointSlice).Endpoints = slice(node, ready).Endpoints
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change("n1", true)
	s.balanced("local", "192.0.2.1")
	change("n1", false)
	s.balanced("local", "")
	s.drop(s.nodes, "", "n2", metav1.DeleteOptions{})
	s.balanced("web", "192.0.2.1")
}

func TestBalancedAddressesOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	p, stop := start(t, dir)
	s := newStreet(p)
	s.pools("10.9.0.1-10.9.0.3")
	for i, name := range []string{"a", "b", "c", "late"} {
		s.addBalanced(name, 80, corev1.ServiceExternalTrafficPolicyCluster)
		if name != "late" {
			s.balanced(name, []string{"10.9.0.1", "10.9.0.2", "10.9.0.3"}[i])
		}
	}
	s.until("the last waits", func() bool { return len(s.plane.told("late")) > 1 })
	s.drop(s.services, "default", "b", metav1.DeleteOptions{})
	s.balanced("late", "10.9.0.2")
	stop()

	p, _ = start(t, dir)
	s = newStreet(p)
	s.addBalanced("b", 80, corev1.ServiceExternalTrafficPolicyCluster)
	s.until("there is none for the one that comes now", func() bool {
		return slices.Contains(s.plane.told("b"), "SyncLoadBalancerFailed: Error syncing load balancer: failed to ensure load balancer: all IPv4 addresses of the pools are taken: the pools are 10.9.0.1-10.9.0.3")
	})
	s.balanced("a", "10.9.0.1")
	s.balanced("late", "10.9.0.2")
	s.balanced("c", "10.9.0.3")
	s.pools("10.9.0.2-10.9.0.5")
	s.balanced("late", "10.9.0.2")
	s.balanced("c", "10.9.0.3")
	s.until("the two others have the others", func() bool {
		ip := func(name string) string {
			if in := get[*corev1.Service](s.world, s.services, "default", name).Status.LoadBalancer.Ingress; len(in) == 1 {
				return in[0].IP
			}
			return ""
		}
		got := []string{ip("a"), ip("b")}
		slices.Sort(got)
		return slices.Equal(got, []string{"10.9.0.4", "10.9.0.5"})
	})
}
