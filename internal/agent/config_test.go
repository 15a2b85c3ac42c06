package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NONE)": "$(NONE)", "$(EMPTY)": "",
		"$A": "$A", "$": "$", "$(A": "$(A", "a$": "a$", "$()": "$()",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	yes := true
	api := newFakeAPI()
	api.config["ns/cfg"] = &corev1.ConfigMap{Data: map[string]string{"K": "v", "A": "from"}}
	cfg := corev1.LocalObjectReference{Name: "cfg"}
	none := corev1.LocalObjectReference{Name: "none"}
	key := func(ref corev1.LocalObjectReference, k string, optional *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: k, Optional: optional}}
	}
	for name, c := range map[string]struct {
		env  []corev1.EnvVar
		from []corev1.EnvFromSource
		want string
		err  string
	}{
		"values see those before them":  {env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)"}, {Name: "C", Value: "3"}}, want: "A=1 B=1$(C) C=3"},
		"a later one wins in its place": {from: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cfg}}}, env: []corev1.EnvVar{{Name: "A", Value: "own"}}, want: "A=own K=v"},
		"with a prefix":                 {from: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cfg}}}, want: "P_A=from P_K=v"},
		"one key":                       {env: []corev1.EnvVar{{Name: "X", ValueFrom: key(cfg, "K", nil)}}, want: "X=v"},
		"a key that is missing":         {env: []corev1.EnvVar{{Name: "X", ValueFrom: key(cfg, "Z", nil)}}, err: "couldn't find key Z in ConfigMap ns/cfg"},
		"a key that may be missing":     {env: []corev1.EnvVar{{Name: "X", ValueFrom: key(cfg, "Z", &yes)}}, want: ""},
		"a map that is missing":         {env: []corev1.EnvVar{{Name: "X", ValueFrom: key(none, "Z", nil)}}, err: `configmap "none" not found`},
		"a map that may be missing":     {env: []corev1.EnvVar{{Name: "X", ValueFrom: key(none, "Z", &yes)}}, want: ""},
		"a secret that is missing": {
			env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: none, Key: "k"}}}},
			err: `secret "none" not found`,
		},
		"fields": {env: []corev1.EnvVar{
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		}, want: "IP=10.244.0.5 NAME=p CPU=4"},
		"a field that is none": {env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.what"}}}}, err: "unsupported fieldPath: spec.what"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := withAddresses(newPod(), Observed{Sandboxes: []Sandbox{sandbox0}}, "192.0.2.1")
			e, err := environmentOf(context.Background(), api, pod, &corev1.Container{Name: "c", Env: c.env, EnvFrom: c.from}, corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")})
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, kv := range e.list() {
				all = append(all, kv.Key+"="+string(kv.Value))
			}
			if got := strings.Join(all, " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestServicesAreTold(t *testing.T) {
	service := func(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	https := corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}
	api := newFakeAPI()
	api.services = []*corev1.Service{
		service("default", "kubernetes", "10.96.0.1", https),
		service("default", "elsewhere", "10.96.0.2", https),
		service("ns", "my-db", "10.96.0.3", corev1.ServicePort{Name: "sql-port", Port: 5432, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP}),
		service("ns", "headless", corev1.ClusterIPNone, https),
		service("ns", "far", ""),
		service("ns", "six", "fd00::1", corev1.ServicePort{Port: 80}),
	}
	kubernetes := "KUBERNETES_PORT=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1 KUBERNETES_PORT_443_TCP_PORT=443 " +
		"KUBERNETES_PORT_443_TCP_PROTO=tcp KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443"
	db := "MY_DB_PORT=tcp://10.96.0.3:5432 MY_DB_PORT_53_UDP=udp://10.96.0.3:53 MY_DB_PORT_53_UDP_ADDR=10.96.0.3 MY_DB_PORT_53_UDP_PORT=53 MY_DB_PORT_53_UDP_PROTO=udp " +
		"MY_DB_PORT_5432_TCP=tcp://10.96.0.3:5432 MY_DB_PORT_5432_TCP_ADDR=10.96.0.3 MY_DB_PORT_5432_TCP_PORT=5432 MY_DB_PORT_5432_TCP_PROTO=tcp " +
		"MY_DB_SERVICE_HOST=10.96.0.3 MY_DB_SERVICE_PORT=5432 MY_DB_SERVICE_PORT_SQL_PORT=5432"
	six := "SIX_PORT=tcp://[fd00::1]:80 SIX_PORT_80_TCP=tcp://[fd00::1]:80 SIX_PORT_80_TCP_ADDR=fd00::1 SIX_PORT_80_TCP_PORT=80 SIX_PORT_80_TCP_PROTO=tcp SIX_SERVICE_HOST=fd00::1 SIX_SERVICE_PORT=80"
	no := false
	for name, c := range map[string]struct {
		namespace string
		links     *bool
		env       []corev1.EnvVar
		want      string
	}{
		"those of the namespace and the API": {namespace: "ns", want: kubernetes + " " + db + " " + six},
		"the API alone":                      {namespace: "ns", links: &no, want: kubernetes},
		"in another namespace":               {namespace: "empty", want: kubernetes},
		"what the pod says itself wins, and may refer to them": {
			namespace: "empty", links: &no,
			env:  []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: "api.example"}, {Name: "URL", Value: "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)/"}},
			want: "KUBERNETES_SERVICE_HOST=api.example URL=https://api.example:443/ " + strings.Replace(kubernetes, " KUBERNETES_SERVICE_HOST=10.96.0.1", "", 1),
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod(func(p *corev1.Pod) { p.Namespace, p.Spec.EnableServiceLinks = c.namespace, c.links })
			e, err := environmentOf(t.Context(), api, pod, &corev1.Container{Name: "c", Env: c.env}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, kv := range e.list() {
				all = append(all, kv.Key+"="+string(kv.Value))
			}
			if got := strings.Join(all, " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestSecurity(t *testing.T) {
	yes, no := true, false
	uid, other, root := int64(1000), int64(2000), int64(0)
	imageIs := func(id *int64, name string) func() (*int64, string, error) {
		return func() (*int64, string, error) { return id, name, nil }
	}
	for name, c := range map[string]struct {
		pod   *corev1.PodSecurityContext
		own   *corev1.SecurityContext
		image func() (*int64, string, error)
		check func(*cri.LinuxContainerSecurityContext) bool
		err   string
	}{
		"nothing said: the runtime's seccomp profile, masked paths, no privileges": {check: func(s *cri.LinuxContainerSecurityContext) bool {
			return s.Seccomp.ProfileType == cri.SecurityProfile_RuntimeDefault && len(s.MaskedPaths) > 5 && len(s.ReadonlyPaths) > 3 && !s.Privileged && !s.NoNewPrivs && s.RunAsUser == nil
		}},
		"unconfined has to be said": {
			own: &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == cri.SecurityProfile_Unconfined
			},
		},
		"a profile of the node's": {
			pod: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("a.json")}},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == cri.SecurityProfile_Localhost && s.Seccomp.LocalhostRef == "/seccomp/a.json"
			},
		},
		"the container's user over the pod's": {
			pod: &corev1.PodSecurityContext{RunAsUser: &uid, FSGroup: &other, SupplementalGroups: []int64{7}}, own: &corev1.SecurityContext{RunAsUser: &other},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.RunAsUser.Value == 2000 && len(s.SupplementalGroups) == 2 && s.SupplementalGroups[1] == 2000
			},
		},
		"no escalation": {own: &corev1.SecurityContext{AllowPrivilegeEscalation: &no}, check: func(s *cri.LinuxContainerSecurityContext) bool { return s.NoNewPrivs }},
		"capabilities": {
			own: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}},
			check: func(s *cri.LinuxContainerSecurityContext) bool {
				return s.Capabilities.AddCapabilities[0] == "NET_ADMIN" && s.Capabilities.DropCapabilities[0] == "ALL"
			},
		},
		"not root, by a user of the image's": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: &yes}, image: imageIs(&uid, ""),
			check: func(s *cri.LinuxContainerSecurityContext) bool { return s.RunAsUser.Value == 1000 },
		},
		"not root, and the image says nothing": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: &yes}, image: imageIs(nil, ""),
			err: `container has runAsNonRoot and image will run as root (pod: "p_ns(uid)", container: c)`,
		},
		"not root, and the image has a name": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: &yes}, image: imageIs(nil, "www"),
			err: `container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "p_ns(uid)", container: c)`,
		},
		"not root, and the user is root": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: &yes}, own: &corev1.SecurityContext{RunAsUser: &root},
			err: `container's runAsUser breaks non-root policy (pod: "p_ns(uid)", container: c)`,
		},
		"a group without a user takes the image's": {
			pod: &corev1.PodSecurityContext{RunAsGroup: &uid}, image: imageIs(nil, "www"),
			check: func(s *cri.LinuxContainerSecurityContext) bool { return s.RunAsUsername == "www" },
		},
		"unmasked": {own: &corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)}, check: func(s *cri.LinuxContainerSecurityContext) bool { return len(s.MaskedPaths)+len(s.ReadonlyPaths) == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod(func(p *corev1.Pod) { p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = c.pod, c.own })
			s, err := containerSecurity(pod, &pod.Spec.Containers[0], "/seccomp", c.image)
			switch {
			case c.err != "":
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %s", err, c.err)
				}
			case err != nil:
				t.Error(err)
			case !c.check(s):
				t.Errorf("got %v", s)
			}
		})
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for name, c := range map[string]struct {
		qos                    corev1.PodQOSClass
		requests, limits       corev1.ResourceList
		shares, quota          int64
		memory, score          int64
		group                  string
		podQuota, podMemoryMax int64
	}{
		"best effort": {corev1.PodQOSBestEffort, nil, nil, 2, 0, 0, 1000, "besteffort/poduid", 0, 0},
		"burstable":   {corev1.PodQOSBurstable, list("250m", "256Mi"), list("", "512Mi"), 256, 0, 512 << 20, 750, "burstable/poduid", 0, 512 << 20},
		"guaranteed":  {corev1.PodQOSGuaranteed, list("500m", "256Mi"), list("500m", "256Mi"), 512, 50000, 256 << 20, -997, "poduid", 50000, 256 << 20},
		"a tiny limit is as small as the kernel takes": {corev1.PodQOSBurstable, list("1m", ""), list("1m", ""), 2, 1000, 0, 999, "burstable/poduid", 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod(func(p *corev1.Pod) {
				p.Status.QOSClass = c.qos
				p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
			})
			r := containerResources(pod, &pod.Spec.Containers[0], 1<<30, false)
			if r.CpuShares != c.shares || r.CpuQuota != c.quota || r.MemoryLimitInBytes != c.memory || r.OomScoreAdj != c.score {
				t.Errorf("container: %v", r)
			}
			l := podLimits(pod)
			if groupOf(pod) != c.group || l.Quota != c.podQuota || l.Memory != c.podMemoryMax || int64(l.Shares) != c.shares {
				t.Errorf("pod: %s %+v", groupOf(pod), l)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "ssd"}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("2"),
		}},
	}
	asks := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		}
	}
	other := newPod(asks("1500m"))
	for name, c := range map[string]struct {
		pod             *corev1.Pod
		others          []*corev1.Pod
		reason, message string
	}{
		"it fits":                  {pod: newPod(asks("500m")), others: []*corev1.Pod{other}},
		"too little CPU":           {newPod(asks("501m")), []*corev1.Pod{other}, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		"too many pods":            {newPod(), []*corev1.Pod{other, newPod()}, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"},
		"another node is selected": {newPod(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), nil, "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"this node is selected":    {pod: newPod(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })},
		"another system":           {newPod(func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), nil, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
	} {
		t.Run(name, func(t *testing.T) {
			if reason, message := refuse(c.pod, c.others, node); reason != c.reason || message != c.message {
				t.Errorf("got %q %q", reason, message)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	pod := newPod(func(p *corev1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain = "web-0", "web"
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	})
	host, domain := names(pod, "cluster.local")
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n10.244.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if got := string(hostsFile(pod, []string{"10.244.0.5"}, host, domain, nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	pod.Spec.HostNetwork, pod.Spec.HostAliases = true, nil
	if got := string(hostsFile(pod, nil, host, domain, []byte("127.0.0.1 here\n"))); got != "# Kubernetes-managed hosts file (host network).\n127.0.0.1 here\n" {
		t.Errorf("on the host's network: %s", got)
	}
}

func TestResolver(t *testing.T) {
	node := resolver{servers: []string{"192.0.2.53"}, searches: []string{"lan"}, options: []string{"edns0"}}
	dns := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	for name, c := range map[string]struct {
		change  func(*corev1.Pod)
		cluster []netip.Addr
		want    string
	}{
		"the cluster first":                     {func(*corev1.Pod) {}, dns, "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local lan | ndots:5"},
		"a cluster without DNS: the node's own": {func(*corev1.Pod) {}, nil, "192.0.2.53 | lan | edns0"},
		"the node's own":                        {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }, dns, "192.0.2.53 | lan | edns0"},
		"on the host's network":                 {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, dns, "192.0.2.53 | lan | edns0"},
		"on the host's network, by name":        {func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet }, dns, "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local lan | ndots:5"},
		"its own alone": {func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}}}
		}, dns, "9.9.9.9 | x | ndots:2"},
		"its own added, and its options win": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "rotate"}}}
		}, dns, "10.96.0.10 9.9.9.9 | ns.svc.cluster.local svc.cluster.local cluster.local lan | ndots:2 rotate"},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolverOf(newPod(c.change), c.cluster, "cluster.local", node)
			if got := strings.Join([]string{strings.Join(r.servers, " "), strings.Join(r.searches, " "), strings.Join(r.options, " ")}, " | "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("# x\nsearch a. b .\nnameserver 1.1.1.1\noptions ndots:1 rotate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := readResolver(path); strings.Join(r.searches, ",") != "a,b" || r.servers[0] != "1.1.1.1" || len(r.options) != 2 {
		t.Errorf("read %+v", r)
	}
}

func TestCredentials(t *testing.T) {
	secret := &corev1.Secret{Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(
		`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.io/team":{"username":"t","password":"q"},"r.io":{"username":"r","password":"q"}}}`)}}
	for image, want := range map[string]string{"nginx:1": "u/p", "r.io/team/x:1": "t/q r/q", "r.io/teams/x": "r/q", "localhost:5000/x": "", "other.io/x@sha256:0": ""} {
		var got []string
		for _, a := range credentialsIn(secret, image) {
			got = append(got, a.Username+"/"+a.Password)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", image, s, want)
		}
	}
	if got := credentialsIn(&corev1.Secret{Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{")}}, "x"); got != nil {
		t.Errorf("%v", got)
	}
}
