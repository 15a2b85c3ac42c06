package core

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// serviceOf reads a Service and fills in what was left out.
func serviceOf(t *testing.T, text string) *corev1.Service {
	t.Helper()
	s := &corev1.Service{}
	if err := yaml.UnmarshalStrict([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	if s.Name == "" {
		s.Name = "web"
	}
	Service().Default(s)
	return s
}

// specText shows what of a spec is not as it was.
func specText(t *testing.T, s *corev1.ServiceSpec) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestServicesAreDefaulted(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"a port":        {"{ports: [{port: 80}]}", "{ports: [{port: 80, protocol: TCP, targetPort: 80}], type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster}"},
		"a named port":  {"{ports: [{port: 80, protocol: UDP, targetPort: web}]}", "{ports: [{port: 80, protocol: UDP, targetPort: web}], type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster}"},
		"a node port":   {"{type: NodePort}", "{type: NodePort, sessionAffinity: None, internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster}"},
		"a balanced":    {"{type: LoadBalancer, externalTrafficPolicy: Local}", "{type: LoadBalancer, sessionAffinity: None, internalTrafficPolicy: Cluster, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: true}"},
		"its own ports": {"{type: LoadBalancer, allocateLoadBalancerNodePorts: false}", "{type: LoadBalancer, sessionAffinity: None, internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster, allocateLoadBalancerNodePorts: false}"},
		"an outer address": {
			"{externalIPs: [1.1.1.1], internalTrafficPolicy: Local}",
			"{externalIPs: [1.1.1.1], type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Local, externalTrafficPolicy: Cluster}",
		},
		"a name elsewhere": {"{type: ExternalName, externalName: a.b}", "{type: ExternalName, externalName: a.b, sessionAffinity: None}"},
		"affinity":         {"{sessionAffinity: ClientIP}", "{type: ClusterIP, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}, internalTrafficPolicy: Cluster}"},
		"affinity for a minute": {
			"{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}",
			"{type: ClusterIP, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, internalTrafficPolicy: Cluster}",
		},
		"a configuration for nothing": {"{sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}", "{type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster}"},
	} {
		t.Run(name, func(t *testing.T) {
			var want corev1.ServiceSpec
			if err := yaml.UnmarshalStrict([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if got := serviceOf(t, "spec: "+c.spec).Spec; !reflect.DeepEqual(got, want) {
				t.Errorf("is   %s\nwant %s", specText(t, &got), specText(t, &want))
			}
		})
	}
	s := serviceOf(t, "{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}, {hostname: a.b}]}}}")
	if in := s.Status.LoadBalancer.Ingress; *in[0].IPMode != "VIP" || in[1].IPMode != nil {
		t.Errorf("%+v", in)
	}
	s = serviceOf(t, "{spec: {clusterIP: 10.0.0.1}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}]}}}")
	Service().PrepareCreate(s)
	if len(s.Status.LoadBalancer.Ingress) > 0 || !reflect.DeepEqual(s.Spec.ClusterIPs, []string{"10.0.0.1"}) || s.Generation != 0 {
		t.Errorf("%+v", s)
	}
}

const (
	qualified = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
	portRange = "must be between 1 and 65535, inclusive"
	anAddress = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
	aRange    = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
)

var wrongServices = map[string]struct {
	spec string
	want []string
}{
	"no ports":                 {"{}", []string{"spec.ports: Required value"}},
	"headless without ports":   {"{clusterIP: None}", nil},
	"a name without ports":     {"{type: ExternalName, externalName: a.b.}", nil},
	"all that there is":        {"{type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 80, nodePort: 30000, protocol: UDP, appProtocol: kubernetes.io/h2c}], loadBalancerClass: a.b/c, loadBalancerSourceRanges: [' 10.0.0.0/8 '], externalTrafficPolicy: Local, healthCheckNodePort: 30001, trafficDistribution: PreferSameNode, externalIPs: [1.1.1.1], sessionAffinity: ClientIP}", nil},
	"a type":                   {"{type: Public, ports: [{port: 80}]}", []string{`spec.type: Unsupported value: "Public": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
	"the kubelet's port":       {"{type: LoadBalancer, ports: [{port: 10250}]}", []string{"spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"}},
	"a headless balancer":      {"{type: LoadBalancer, clusterIP: None, ports: [{port: 80}]}", []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for LoadBalancer services`}},
	"a headless node port":     {"{type: NodePort, clusterIP: None, ports: [{port: 80}]}", []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`}},
	"a name with addresses":    {"{type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1, ipFamilies: [IPv4], ipFamilyPolicy: SingleStack}", []string{"spec.clusterIPs: Forbidden: may not be set for ExternalName services", "spec.ipFamilies: Forbidden: may not be set for ExternalName services", "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"}},
	"no name":                  {"{type: ExternalName}", []string{"spec.externalName: Required value"}},
	"a bad name":               {"{type: ExternalName, externalName: a_b}", []string{`spec.externalName: Invalid value: "a_b": ` + subdomain}},
	"a name with two dots":     {"{type: ExternalName, externalName: a..}", []string{`spec.externalName: Invalid value: "a.": ` + subdomain}},
	"a long name":              {"{type: ExternalName, externalName: " + strings.Repeat("a", 254) + "}", []string{`spec.externalName: Invalid value: "` + strings.Repeat("a", 254) + `": must be no more than 253 characters`}},
	"ports without names":      {"{ports: [{port: 80}, {name: a, port: 81}]}", []string{"spec.ports[0].name: Required value"}},
	"a port's name":            {"{ports: [{name: A, port: 80}]}", []string{`spec.ports[0].name: Invalid value: "A": ` + label}},
	"a port's name twice":      {"{ports: [{name: a, port: 80}, {name: a, port: 81}]}", []string{`spec.ports[1].name: Duplicate value: "a"`}},
	"a port twice":             {"{ports: [{name: a, port: 80}, {name: b, port: 80}]}", []string{`spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}`}},
	"a port for two protocols": {"{ports: [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]}", nil},
	"a node port twice":        {"{type: NodePort, ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}]}", []string{"spec.ports[1].nodePort: Duplicate value: 30000"}},
	"a node port for none":     {"{ports: [{port: 80, nodePort: 30000}]}", []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
	"no port at all":           {"{ports: [{port: 0, targetPort: 80}]}", []string{"spec.ports[0].port: Invalid value: 0: " + portRange}},
	"a large port":             {"{ports: [{port: 65536}]}", []string{"spec.ports[0].port: Invalid value: 65536: " + portRange, "spec.ports[0].targetPort: Invalid value: 65536: " + portRange}},
	"a protocol":               {"{ports: [{port: 80, protocol: tcp}]}", []string{`spec.ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`}},
	"a target":                 {"{ports: [{port: 80, targetPort: a--b}]}", []string{`spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens`}},
	"an app's protocol":        {"{ports: [{port: 80, appProtocol: a b}]}", []string{`spec.ports[0].appProtocol: Invalid value: "a b": ` + qualified}},
	"a selector":               {"{ports: [{port: 80}], selector: {a b: c}}", []string{`spec.selector: Invalid value: "a b": ` + qualified}},
	"an affinity":              {"{ports: [{port: 80}], sessionAffinity: Cookie}", []string{`spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"`}},
	"affinity for ever":        {"{ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}", []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"}},
	"affinity for no time":     {"{ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}", []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"}},
	"an address":               {"{ports: [{port: 80}], clusterIP: ten}", []string{`spec.clusterIPs[0]: Invalid value: "ten": ` + anAddress}},
	"a padded address":         {"{ports: [{port: 80}], clusterIP: 10.0.0.010}", []string{`spec.clusterIPs[0]: Invalid value: "10.0.0.010": must not have leading 0s`}},
	"addresses but no address": {"{ports: [{port: 80}], clusterIPs: [10.0.0.1]}", []string{"spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"}},
	"addresses of another":     {"{ports: [{port: 80}], clusterIP: 10.0.0.2, clusterIPs: [10.0.0.1]}", []string{"spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: first value must match `clusterIP`"}},
	"an address and None":      {"{ports: [{port: 80}], clusterIP: None, clusterIPs: [None, 10.0.0.1]}", []string{`spec.clusterIPs: Invalid value: ["None","10.0.0.1"]: 'None' must be the first and only value`}},
	"two of one family":        {"{ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2]}", []string{`spec.clusterIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family`}},
	"three":                    {"{ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1', 10.0.0.2]}", []string{`spec.clusterIPs: Invalid value: ["10.0.0.1","fd00::1","10.0.0.2"]: may only hold up to 2 values`}},
	"the other family":         {"{ports: [{port: 80}], clusterIP: 10.0.0.1, ipFamilies: [IPv6]}", []string{"spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"}},
	"families in no order":     {"{ports: [{port: 80}], clusterIP: 'fd00::1', ipFamilies: [IPv4, IPv6]}", []string{"spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`"}},
	"a family":                 {"{ports: [{port: 80}], ipFamilies: [IPv5, IPv4, IPv4]}", []string{`spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`, `spec.ipFamilies[2]: Duplicate value: "IPv4"`}},
	"a family policy":          {"{ports: [{port: 80}], ipFamilyPolicy: Any}", []string{`spec.ipFamilyPolicy: Unsupported value: "Any": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`}},
	"outer addresses": {"{ports: [{port: 80}], externalIPs: [x, 0.0.0.0, 127.0.0.1, 169.254.169.254, 224.0.0.1, '::ffff:1.2.3.4']}", []string{
		`spec.externalIPs[0]: Invalid value: "x": ` + anAddress,
		`spec.externalIPs[1]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)`,
		`spec.externalIPs[2]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
		`spec.externalIPs[3]: Invalid value: "169.254.169.254": may not be in the link-local range (169.254.0.0/16, fe80::/10)`,
		`spec.externalIPs[4]: Invalid value: "224.0.0.1": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)`,
		`spec.externalIPs[5]: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address`,
	}},
	"ranges for none":  {"{ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/8]}", []string{"spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
	"ranges":           {"{type: LoadBalancer, ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.1, 10.0.0.1/8]}", []string{`spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1": ` + aRange, `spec.LoadBalancerSourceRanges[1]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length`}},
	"allocation":       {"{ports: [{port: 80}], allocateLoadBalancerNodePorts: true}", []string{"spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
	"a class":          {"{type: LoadBalancer, ports: [{port: 80}], loadBalancerClass: a b}", []string{`spec.loadBalancerClass: Invalid value: "a b": ` + qualified}},
	"a class for none": {"{ports: [{port: 80}], loadBalancerClass: a}", []string{"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
	"policy for none":  {"{ports: [{port: 80}], externalTrafficPolicy: Local}", []string{`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`}},
	"a policy":         {"{type: NodePort, ports: [{port: 80}], externalTrafficPolicy: Near}", []string{`spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`}},
	"an inner policy":  {"{ports: [{port: 80}], internalTrafficPolicy: Near}", []string{`spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`}},
	"no health":        {"{type: LoadBalancer, ports: [{port: 80}], externalTrafficPolicy: Local}", []string{"spec.healthCheckNodePort: Required value"}},
	"health":           {"{type: LoadBalancer, ports: [{port: 80}], externalTrafficPolicy: Local, healthCheckNodePort: 70000}", []string{"spec.healthCheckNodePort: Invalid value: 70000: " + portRange}},
	"health of none":   {"{type: LoadBalancer, ports: [{port: 80}], healthCheckNodePort: 30000}", []string{"spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"}},
	"a distribution":   {"{ports: [{port: 80}], trafficDistribution: Near}", []string{`spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`}},
}

func TestServicesThatAreWrong(t *testing.T) {
	for name, c := range wrongServices {
		t.Run(name, func(t *testing.T) {
			s := serviceOf(t, "spec: "+c.spec)
			Service().PrepareCreate(s)
			same(t, told(Service().Validate(s)), c.want...)
			// An update to the same is refused in the same words, unless what is wrong is an address that was there before.
			stored := s.DeepCopy()
			stored.ResourceVersion = "1"
			same(t, told(Service().Validate(stored)))
			other := stored.DeepCopy()
			other.Spec.ExternalIPs, other.Spec.LoadBalancerSourceRanges = nil, nil
			if name != "an address" && name != "a padded address" && name != "a class" && name != "a class for none" {
				same(t, told(Service().ValidateUpdate(stored, other)), c.want...)
			}
		})
	}
	undefaulted := &corev1.Service{Spec: corev1.ServiceSpec{Type: "LoadBalancer", Ports: []corev1.ServicePort{{Port: 80}}, SessionAffinity: "ClientIP"}}
	same(t, told(serviceErrors(undefaulted, nil)), "spec.ports[0].protocol: Required value", "spec.ports[0].targetPort: Invalid value: 0: "+portRange,
		"spec.sessionAffinityConfig: Required value: when session affinity type is ClientIP", "allocateLoadBalancerNodePorts: Required value",
		"spec.externalTrafficPolicy: Required value", "spec.internalTrafficPolicy: Required value")
	undefaulted = &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP", TargetPort: serviceOf(t, "spec: {ports: [{port: 1}]}").Spec.Ports[0].TargetPort}}}}
	same(t, told(serviceErrors(undefaulted, nil)), "spec.sessionAffinity: Required value", "spec.clusterIPs: Required value", "spec.type: Required value")
}

func TestAnnotationsOfServicesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		want    []string
	}{
		"hints and mode agree":    {"{metadata: {annotations: {service.kubernetes.io/topology-aware-hints: Auto, service.kubernetes.io/topology-mode: Auto}}, spec: {ports: [{port: 80}]}}", nil},
		"hints and mode disagree": {"{metadata: {annotations: {service.kubernetes.io/topology-aware-hints: Auto, service.kubernetes.io/topology-mode: auto}}, spec: {ports: [{port: 80}]}}", []string{`metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "auto": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified`}},
		"ranges":                  {"{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, 11'}}, spec: {type: LoadBalancer, ports: [{port: 80}]}}", []string{`metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "11": ` + aRange}},
		"no ranges":               {"{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: ' '}}, spec: {type: LoadBalancer, ports: [{port: 80}]}}", nil},
		"ranges for none":         {"{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8}}, spec: {ports: [{port: 80}]}}", []string{"metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
		"the field counts":        {"{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: x}}, spec: {type: LoadBalancer, ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/8]}}", nil},
	} {
		t.Run(name, func(t *testing.T) { same(t, told(Service().Validate(serviceOf(t, c.service))), c.want...) })
	}
}

func TestNamesOfServicesMayBeginWithADigit(t *testing.T) {
	if wrong := Service().NameRule("1web", false); len(wrong) > 0 {
		t.Error(wrong)
	}
	same(t, Service().NameRule("Web", false), label)
}

func TestWhatIsSaidOfServices(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		want    []string
	}{
		"nothing":         {"spec: {ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]}", nil},
		"hints":           {"metadata: {annotations: {service.kubernetes.io/topology-aware-hints: Auto}}", []string{"annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead"}},
		"headless":        {"spec: {clusterIP: None, clusterIPs: [None], loadBalancerIP: 1.1.1.1, sessionAffinity: ClientIP}", []string{"spec.loadBalancerIP is ignored for headless services", "spec.SessionAffinity is ignored for headless services"}},
		"outer addresses": {"spec: {externalIPs: ['FD00::1', bad]}", []string{"spec.externalIPs is deprecated", `spec.externalIPs[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`}},
		"ranges":          {"spec: {loadBalancerSourceRanges: [10.0.0.1/8, bad], loadBalancerIP: 01.1.1.1}", []string{`spec.loadBalancerIP: non-standard IP address "01.1.1.1" is invalid: use "1.1.1.1"`, `spec.loadBalancerSourceRanges[0]: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)`}},
		"an address":      {"spec: {clusterIP: 'FD00::1', clusterIPs: ['FD00::1']}", []string{`spec.clusterIPs[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`}},
		"a name":          {"spec: {externalName: a.b}", []string{`spec.externalName is ignored when spec.type is not "ExternalName"`}},
		"only a name":     {"spec: {type: ExternalName, externalName: a.b, externalIPs: [1.1.1.1]}", []string{"spec.externalIPs is deprecated", `spec.externalIPs is ignored when spec.type is "ExternalName"`}},
		"what is close":   {"spec: {trafficDistribution: PreferClose}", []string{`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`}},
	} {
		t.Run(name, func(t *testing.T) { same(t, Service().Warnings(serviceOf(t, c.service)), c.want...) })
	}
}
