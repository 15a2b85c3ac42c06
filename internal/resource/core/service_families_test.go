package core

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestWhatAServiceNeeds(t *testing.T) {
	for spec, want := range map[string]string{
		"{}":                                    "ip",
		"{clusterIP: None}":                     "ip",
		"{type: ExternalName, externalName: a}": "",
		"{type: NodePort}":                      "ip node ports, allocated",
		"{type: LoadBalancer}":                  "ip node ports, allocated",
		"{type: NodePort, externalTrafficPolicy: Local}":             "ip node ports, allocated",
		"{type: LoadBalancer, externalTrafficPolicy: Local}":         "ip node ports, allocated health",
		"{type: LoadBalancer, allocateLoadBalancerNodePorts: false}": "ip node ports",
		"{type: NodePort, ports: [{port: 1, nodePort: 30000}]}":      "ip node ports, allocated",
		"{externalIPs: [1.1.1.1], externalTrafficPolicy: Local}":     "ip",
	} {
		s := serviceOf(t, "spec: "+spec)
		var got []string
		for _, need := range []struct {
			is   bool
			name string
		}{
			{NeedsClusterIP(s), "ip"},
			{NeedsNodePort(s) && !AllocatesNodePorts(s), "node ports"},
			{NeedsNodePort(s) && AllocatesNodePorts(s), "node ports, allocated"},
			{NeedsHealthCheckNodePort(s), "health"},
		} {
			if need.is {
				got = append(got, need.name)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s needs %q, not %q", spec, text, want)
		}
	}
}

func TestOneAddressAndTheListOfThem(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"a new one names the address":            {"", "10.0.0.1 []", "10.0.0.1 [10.0.0.1]"},
		"a new one names only the list":          {"", " [10.0.0.1]", " [10.0.0.1]"},
		"a new one names neither":                {"", " []", " []"},
		"a new one contradicts itself":           {"", "10.0.0.1 [10.0.0.2]", "10.0.0.1 [10.0.0.2]"},
		"an older client leaves the list out":    {"10.0.0.1 [10.0.0.1 fd00::1]", "10.0.0.1 []", "10.0.0.1 [10.0.0.1 fd00::1]"},
		"an older client clears the address":     {"10.0.0.1 [10.0.0.1]", " [10.0.0.1]", " []"},
		"an older client changes the address":    {"10.0.0.1 [10.0.0.1]", "10.0.0.2 [10.0.0.1]", "10.0.0.2 [10.0.0.2]"},
		"a newer client changes both":            {"10.0.0.1 [10.0.0.1]", "10.0.0.2 [10.0.0.2]", "10.0.0.2 [10.0.0.2]"},
		"a newer client adds a second":           {"10.0.0.1 [10.0.0.1]", "10.0.0.1 [10.0.0.1 fd00::1]", "10.0.0.1 [10.0.0.1 fd00::1]"},
		"one clears the address, not its list":   {"10.0.0.1 [10.0.0.1]", " [10.0.0.2]", " [10.0.0.2]"},
		"one changes the address, no list named": {"10.0.0.1 [10.0.0.1]", "10.0.0.2 []", "10.0.0.2 []"},
		"a name becomes an address":              {" []", "10.0.0.1 []", "10.0.0.1 [10.0.0.1]"},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(text string) *corev1.Service {
				ip, list, _ := strings.Cut(text, " ")
				return &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: strings.Fields(strings.Trim(list, "[]"))}}
			}
			s := read(c.new)
			if c.old == "" {
				NormalizeClusterIPs(s, nil)
			} else {
				NormalizeClusterIPs(s, read(c.old))
			}
			if got := fmt.Sprintf("%s %v", s.Spec.ClusterIP, s.Spec.ClusterIPs); got != c.want {
				t.Errorf("is %q, not %q", got, c.want)
			}
		})
	}
}

const (
	only4   = "IPv4"
	only6   = "IPv6"
	fourSix = "IPv4 IPv6"
	sixFour = "IPv6 IPv4"
)

// Each case is a Service, perhaps what it was before, and what it becomes in clusters of the families named: policy, families, addresses.
func TestFamiliesOfServices(t *testing.T) {
	notHere := func(i int, f string) string {
		return fmt.Sprintf("spec.ipFamilies[%d]: Invalid value: %q: not configured on this cluster", i, f)
	}
	const noBoth = `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`
	was4 := "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack"
	was46 := "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: "
	for name, c := range map[string]struct {
		old, new string
		want     map[string]string
	}{
		"nothing is said": {"", "{}", map[string]string{only4: "SingleStack [IPv4] []", only6: "SingleStack [IPv6] []", fourSix: "SingleStack [IPv4] []", sixFour: "SingleStack [IPv6] []"}},
		"a name":          {"", "{type: ExternalName, externalName: a}", map[string]string{only4: " [] []", fourSix: " [] []"}},
		"both are preferred": {
			"", "{ipFamilyPolicy: PreferDualStack}",
			map[string]string{only4: "PreferDualStack [IPv4] []", only6: "PreferDualStack [IPv6] []", fourSix: "PreferDualStack [IPv4 IPv6] []", sixFour: "PreferDualStack [IPv6 IPv4] []"},
		},
		"both are required": {"", "{ipFamilyPolicy: RequireDualStack}", map[string]string{only4: noBoth, only6: noBoth, fourSix: "RequireDualStack [IPv4 IPv6] []", sixFour: "RequireDualStack [IPv6 IPv4] []"}},
		"the other first":   {"", "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]}", map[string]string{only4: notHere(0, "IPv6"), only6: "PreferDualStack [IPv6] []", fourSix: "PreferDualStack [IPv6 IPv4] []"}},
		"one family":        {"", "{ipFamilies: [IPv6]}", map[string]string{only4: notHere(0, "IPv6"), only6: "SingleStack [IPv6] []", fourSix: "SingleStack [IPv6] []"}},
		"two families without a policy": {"", "{ipFamilies: [IPv4, IPv6]}", map[string]string{
			only4:   `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`,
			fourSix: `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`,
		}},
		"two families, both required": {"", "{ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack}", map[string]string{only4: noBoth + "\n" + notHere(1, "IPv6"), sixFour: "RequireDualStack [IPv4 IPv6] []"}},
		"an address tells its family": {"", "{clusterIP: 'fd00::1'}", map[string]string{
			only4: `spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster`, only6: "SingleStack [IPv6] [fd00::1]", fourSix: "SingleStack [IPv6] [fd00::1]",
		}},
		"two addresses without a policy": {"", "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1', 10.0.0.1]}", map[string]string{
			fourSix: `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified`,
		}},
		"two addresses, both preferred": {"", "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1', 10.0.0.1], ipFamilyPolicy: PreferDualStack}", map[string]string{
			fourSix: "PreferDualStack [IPv6 IPv4] [fd00::1 10.0.0.1]", only4: `spec.clusterIPs[0]: Invalid value: ["fd00::1","10.0.0.1"]: IPv6 is not configured on this cluster`,
		}},
		"no address at all": {"", "{clusterIP: ten}", map[string]string{only4: `spec.clusterIPs[0]: Invalid value: "ten": ` + anAddress}},
		"headless":          {"", "{clusterIP: None, selector: {a: b}}", map[string]string{only4: "SingleStack [IPv4] [None]", sixFour: "SingleStack [IPv6] [None]"}},
		"headless, both":    {"", "{clusterIP: None, selector: {a: b}, ipFamilyPolicy: RequireDualStack}", map[string]string{only4: noBoth, sixFour: "RequireDualStack [IPv6 IPv4] [None]"}},
		"headless, nobody's": {
			"", "{clusterIP: None}",
			map[string]string{only4: "RequireDualStack [IPv4 IPv6] [None]", only6: "RequireDualStack [IPv6 IPv4] [None]", sixFour: "RequireDualStack [IPv6 IPv4] [None]"},
		},
		"headless, nobody's, single": {"", "{clusterIP: None, ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]}", map[string]string{only4: "SingleStack [IPv6] [None]"}},
		"an update says nothing":     {was4, "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]}", map[string]string{only4: "SingleStack [IPv4] [10.0.0.1]", fourSix: "SingleStack [IPv4] [10.0.0.1]"}},
		"a second is asked for":      {was4, "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack}", map[string]string{only4: "PreferDualStack [IPv4] [10.0.0.1]", fourSix: "PreferDualStack [IPv4 IPv6] [10.0.0.1]"}},
		"the second is let go":       {was46 + "RequireDualStack", "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack}", map[string]string{fourSix: "SingleStack [IPv4] [10.0.0.1]"}},
		"the second goes without a word": {was46 + "RequireDualStack", "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4]}", map[string]string{
			fourSix: `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary cluster IP` + "\n" +
				`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary IP family`,
		}},
		"both stay preferred as the cluster loses one": {was46 + "PreferDualStack", "{" + was46 + "PreferDualStack}", map[string]string{only4: "PreferDualStack [IPv4 IPv6] [10.0.0.1 fd00::1]"}},
		"both stay preferred as the cluster gets one": {
			"clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack", "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: PreferDualStack}",
			map[string]string{fourSix: "PreferDualStack [IPv4] [10.0.0.1]"},
		},
		"a name gets an address": {"type: ExternalName, externalName: a", "{type: NodePort}", map[string]string{sixFour: "SingleStack [IPv6] []"}},
	} {
		t.Run(name, func(t *testing.T) {
			for cluster, want := range c.want {
				s := serviceOf(t, "spec: "+c.new)
				var old *corev1.Service
				if c.old != "" {
					old = serviceOf(t, "spec: {"+c.old+"}")
				}
				NormalizeClusterIPs(s, nil)
				var families []corev1.IPFamily
				for f := range strings.FieldsSeq(cluster) {
					families = append(families, corev1.IPFamily(f))
				}
				before := old.DeepCopy()
				got := strings.Join(told(InitFamilies(s, old, families)), "\n")
				if got == "" {
					got = fmt.Sprintf("%s %v %v", orZero(s.Spec.IPFamilyPolicy), s.Spec.IPFamilies, s.Spec.ClusterIPs)
				}
				if got != want {
					t.Errorf("in a cluster of %s\nis   %s\nwant %s", cluster, got, want)
				}
				if old != nil && !reflect.DeepEqual(old, before) {
					t.Errorf("the old one became %+v", old)
				}
			}
		})
	}
}

// Whatever a Service asks for in whatever cluster, once it has its families it keeps them: asking for the same again changes nothing.
func TestFamiliesOnceSettledStay(t *testing.T) {
	settled := 0
	for _, cluster := range [][]corev1.IPFamily{{"IPv4"}, {"IPv6"}, {"IPv4", "IPv6"}, {"IPv6", "IPv4"}} {
		for _, policy := range []string{"", "SingleStack", "PreferDualStack", "RequireDualStack", "Odd"} {
			for _, families := range []string{"", "IPv4", "IPv6", "IPv4, IPv6", "IPv6, IPv4", "IPv4, IPv4"} {
				for _, ips := range []string{"", "None", "10.0.0.1", "'fd00::1'", "10.0.0.1, 'fd00::1'", "'fd00::1', 10.0.0.1"} {
					for _, more := range []string{"", "selector: {a: b}", "type: LoadBalancer", "type: ExternalName"} {
						s := &corev1.Service{}
						first, _, _ := strings.Cut(ips, ",")
						spec := fmt.Sprintf("{ipFamilies: [%s], clusterIP: %s, clusterIPs: [%s], %s}", families, first, ips, more)
						if s = serviceOf(t, "spec: "+spec); policy != "" {
							s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicy(policy))
						}
						if len(InitFamilies(s, nil, cluster)) > 0 {
							continue
						}
						settled++
						again := s.DeepCopy()
						if errs := InitFamilies(again, s, cluster); len(errs) > 0 || !reflect.DeepEqual(again, s) {
							t.Fatalf("in %v %s with policy %q: %v\nfirst %s\nthen  %s", cluster, spec, policy, errs, specText(t, &s.Spec), specText(t, &again.Spec))
						}
						if n := len(s.Spec.IPFamilies); s.Spec.Type != "ExternalName" && (n == 0 || n > 2 || len(s.Spec.ClusterIPs) > n) {
							t.Fatalf("in %v %s with policy %q has %s", cluster, spec, policy, specText(t, &s.Spec))
						}
					}
				}
			}
		}
	}
	if settled < 500 {
		t.Errorf("only %d settled", settled)
	}
}
