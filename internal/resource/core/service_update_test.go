package core

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// stored is a Service as the store has it.
func stored(t *testing.T, spec string) *corev1.Service {
	t.Helper()
	s := serviceOf(t, "spec: "+spec)
	s.ResourceVersion = "1"
	return s
}

func TestWhatAnUpdateOfAServiceKeepsAndDrops(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"the manifest again keeps the address": {
			"{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80}]}", "{ports: [{port: 81}]}", "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 81}]}",
		},
		"node ports are found again by name": {
			"{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30001}]}",
			"{type: NodePort, ports: [{name: b, port: 81}, {name: c, port: 82}, {name: a, port: 90}]}",
			"{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: b, port: 81, nodePort: 30001}, {name: c, port: 82}, {name: a, port: 90, nodePort: 30000}]}",
		},
		"a node port given to another port is not given twice": {
			"{type: NodePort, ports: [{name: a, port: 80, nodePort: 30000}]}", "{type: NodePort, ports: [{name: b, port: 80, nodePort: 30000}, {name: a, port: 81}]}",
			"{type: NodePort, ports: [{name: b, port: 80, nodePort: 30000}, {name: a, port: 81}]}",
		},
		"a load balancer keeps the node ports it had": {
			"{type: NodePort, ports: [{port: 80, nodePort: 30000}]}", "{type: LoadBalancer, ports: [{port: 80}]}", "{type: LoadBalancer, ports: [{port: 80, nodePort: 30000}]}",
		},
		"the port for health stays": {
			"{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001}", "{type: LoadBalancer, externalTrafficPolicy: Local}",
			"{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001}",
		},
		"the port for health goes with the policy": {
			"{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001}", "{type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 30001}",
			"{type: LoadBalancer, externalTrafficPolicy: Cluster}",
		},
		"another port for health is left to be refused": {
			"{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001}", "{type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 30002}",
			"{type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 30002}",
		},
		"all that a balancer had goes with it": {
			"{type: LoadBalancer, allocateLoadBalancerNodePorts: true, loadBalancerClass: a, ports: [{port: 80, nodePort: 30000}]}",
			"{type: ClusterIP, allocateLoadBalancerNodePorts: true, loadBalancerClass: a, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30000}]}",
			"{type: ClusterIP, ports: [{port: 80}]}",
		},
		"what was changed is left to be refused": {
			"{type: LoadBalancer, loadBalancerClass: a, ports: [{port: 80, nodePort: 30000}]}",
			"{type: ClusterIP, loadBalancerClass: b, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 30001}]}",
			"{type: ClusterIP, loadBalancerClass: b, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 30001}]}",
		},
		"a name elsewhere has no address": {
			"{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack}",
			"{type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, internalTrafficPolicy: Cluster}",
			"{type: ExternalName, externalName: a.b, internalTrafficPolicy: Cluster}",
		},
		"an address set to nothing goes with the type": {
			"{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]}", "{type: ExternalName, externalName: a.b, clusterIPs: [10.0.0.1]}", "{type: ExternalName, externalName: a.b}",
		},
		"a node port is at home in a cluster address with outer ones": {
			"{type: NodePort, externalIPs: [1.1.1.1]}", "{type: ClusterIP, externalIPs: [1.1.1.1], externalTrafficPolicy: Cluster}",
			"{type: ClusterIP, externalIPs: [1.1.1.1], externalTrafficPolicy: Cluster}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			old, s, want := stored(t, c.old), stored(t, c.new), stored(t, c.want)
			if want.Spec.InternalTrafficPolicy == nil { // what was given before stays, whatever the type
				want.Spec.InternalTrafficPolicy = s.Spec.InternalTrafficPolicy
			}
			before := old.DeepCopy()
			Service().PrepareUpdate(s, old)
			if got := s.Spec; !reflect.DeepEqual(got, want.Spec) {
				t.Errorf("is   %s\nwant %s", specText(t, &got), specText(t, &want.Spec))
			}
			once := s.DeepCopy()
			if Service().PrepareUpdate(s, old); !reflect.DeepEqual(s, once) {
				t.Errorf("the second time gives %s", specText(t, &s.Spec))
			}
			if len(s.Spec.ClusterIPs) > 0 && len(old.Spec.ClusterIPs) > 0 {
				s.Spec.ClusterIPs[0] = "changed"
			}
			if !reflect.DeepEqual(old, before) {
				t.Errorf("the old one became %+v", old)
			}
		})
	}
}

func TestTheStatusOfAServiceGoesWithItsBalancer(t *testing.T) {
	old := stored(t, "{type: LoadBalancer}")
	old.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.1.1.1", IPMode: new(corev1.LoadBalancerIPModeVIP)}}
	s := stored(t, "{type: LoadBalancer}")
	if Service().PrepareUpdate(s, old); len(s.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("%+v", s.Status)
	}
	s.Spec.Type = corev1.ServiceTypeNodePort
	if Service().PrepareUpdate(s, old); len(s.Status.LoadBalancer.Ingress) != 0 || len(old.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("%+v, and the old one %+v", s.Status, old.Status)
	}
	s.Spec.Type, s.Spec.Ports = corev1.ServiceTypeExternalName, []corev1.ServicePort{{Port: 1}}
	if Service().Status.PrepareUpdate(s, old); s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.Ports != nil {
		t.Errorf("%+v", s.Spec)
	}
}

func TestStatusesOfServicesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		want    []string
	}{
		"right":          {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1, ipMode: Proxy, ports: [{port: 80, protocol: TCP}]}, {hostname: a.b}]}}}", nil},
		"of none":        {"{spec: {type: NodePort}, status: {loadBalancer: {ingress: [{ip: x}]}}}", []string{"status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"}},
		"an address":     {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x, ipMode: VIP}]}}}", []string{`status.loadBalancer.ingress[0].ip: Invalid value: "x": ` + anAddress}},
		"stays as it is": {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 01.1.1.1, ipMode: VIP}]}}}", nil},
		"a mode":         {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1, ipMode: Nat}]}}}", []string{`status.loadBalancer.ingress[0].ipMode: Unsupported value: "Nat": supported values: "Proxy", "VIP"`}},
		"a mode of none": {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{hostname: a, ipMode: VIP}]}}}", []string{"status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set"}},
		"a name":         {"{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{hostname: A}, {hostname: 1.1.1.1}]}}}", []string{`status.loadBalancer.ingress[0].hostname: Invalid value: "A": ` + subdomain, `status.loadBalancer.ingress[1].hostname: Invalid value: "1.1.1.1": must be a DNS name, not an IP address`}},
	} {
		t.Run(name, func(t *testing.T) {
			old := &corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "01.1.1.1"}}}}}
			same(t, told(Service().Status.ValidateUpdate(serviceOf(t, c.service), old)), c.want...)
		})
	}
	s := serviceOf(t, "{spec: {type: LoadBalancer}}")
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.1.1.1"}}
	same(t, told(Service().Status.ValidateUpdate(s, s)), "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set")
}

const (
	four = "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack"
	both = "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack"
)

func TestWhatMayNotChangeInAService(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		want     []string
	}{
		"nothing changes":           {four, four, nil},
		"a second family comes":     {four, both, nil},
		"the second family goes":    {both, four, nil},
		"it becomes a name":         {four, "type: ExternalName, externalName: a.b", nil},
		"a name becomes an address": {"type: ExternalName, externalName: a.b", four, nil},
		"headless gets a family":    {"ports: [{port: 80}], clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4]", "ports: [{port: 80}], clusterIP: None, clusterIPs: [None], ipFamilies: [IPv6]", nil},
		"another address": {
			four, "ports: [{port: 80}], clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ipFamilies: [IPv4]",
			[]string{`spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`},
		},
		"it becomes headless": {
			four, "ports: [{port: 80}], clusterIP: None, clusterIPs: [None], ipFamilies: [IPv6]",
			[]string{`spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`},
		},
		"no address": {
			four, "ports: [{port: 80}], ipFamilies: [IPv4]",
			[]string{"spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"},
		},
		"no family": {
			four, "ports: [{port: 80}]",
			[]string{"spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset", "spec.ipFamilies[0]: Invalid value: null: primary ipFamily can not be unset"},
		},
		"another second address": {
			both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::2'], ipFamilies: [IPv4, IPv6]",
			[]string{`spec.clusterIPs[1]: Invalid value: ["10.0.0.1","fd00::2"]: may not change once set`},
		},
		"the first address goes": {
			both, "ports: [{port: 80}], clusterIP: 'fd00::1', clusterIPs: ['fd00::1'], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack",
			[]string{`spec.clusterIPs[0]: Invalid value: ["fd00::1"]: may not change once set`, `spec.ipFamilies[0]: Invalid value: ["fd00::1"]: may not change once set`},
		},
		"one goes and the policy stays": {
			both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack",
			[]string{`spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to 'SingleStack' when releasing the secondary clusterIP`, `spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to 'SingleStack' when releasing the secondary ipFamily`},
		},
		"one comes before the first": {
			four, "ports: [{port: 80}], clusterIP: 'fd00::1', clusterIPs: ['fd00::1', 10.0.0.1], ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack",
			[]string{`spec.clusterIPs[0]: Invalid value: ["fd00::1","10.0.0.1"]: may not change once set`, `spec.ipFamilies[0]: Invalid value: ["fd00::1","10.0.0.1"]: may not change once set`},
		},
		"the families change places": {
			both, "ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv6, IPv4]",
			[]string{
				`spec.ipFamilies[0]: Invalid value: ["IPv6","IPv4"]: may not change once set`, `spec.ipFamilies[0]: Invalid value: ["IPv6","IPv4"]: may not change once set`,
				"spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`", "spec.clusterIPs[1]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[1]`",
			},
		},
		"another class": {
			"type: LoadBalancer, loadBalancerClass: a, " + four, "type: LoadBalancer, loadBalancerClass: b, " + four,
			[]string{`spec.loadBalancerClass: Invalid value: "b": may not change once set`},
		},
		"a class comes later": {
			"type: LoadBalancer, " + four, "type: LoadBalancer, loadBalancerClass: b, " + four,
			[]string{`spec.loadBalancerClass: Invalid value: "b": may not change once set`},
		},
		"a class comes with the type": {four, "type: LoadBalancer, loadBalancerClass: b, " + four, nil},
		"another port for health": {
			"type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30000, " + four, "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, " + four,
			[]string{"spec.healthCheckNodePort: Forbidden: field is immutable"},
		},
		"bad addresses stay":         {"externalIPs: [01.1.1.1], " + four, "externalIPs: [01.1.1.1], " + four, nil},
		"a loopback address may not": {"externalIPs: [127.0.0.1], " + four, "externalIPs: [127.0.0.1], " + four, []string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		"bad ranges stay":            {"type: LoadBalancer, loadBalancerSourceRanges: [' 10.0.0.1/8'], " + four, "type: LoadBalancer, loadBalancerSourceRanges: ['10.0.0.1/8 '], " + four, nil},
	} {
		t.Run(name, func(t *testing.T) {
			same(t, told(Service().ValidateUpdate(stored(t, "{"+c.new+"}"), stored(t, "{"+c.old+"}"))), c.want...)
		})
	}
}
