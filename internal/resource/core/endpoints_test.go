package core

import (
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func endpointsOf(t *testing.T, text string) *endpoints {
	t.Helper()
	e := &endpoints{}
	if err := yaml.UnmarshalStrict([]byte(text), e); err != nil {
		t.Fatal(err)
	}
	Endpoints().Default(e)
	return e
}

func TestEndpointsThatAreWrong(t *testing.T) {
	k := Endpoints()
	for name, c := range map[string]struct {
		subsets string
		want    []string
	}{
		"nothing":        {"[]", nil},
		"all there is":   {"[{addresses: [{ip: 10.0.0.1, hostname: a, nodeName: n.b}], notReadyAddresses: [{ip: 'fd00::1'}], ports: [{name: a, port: 80}, {name: b, port: 81, protocol: SCTP, appProtocol: a.b/c}]}]", nil},
		"no addresses":   {"[{ports: [{port: 80}]}]", []string{"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"}},
		"no address":     {"[{addresses: [{ip: x}]}]", []string{`subsets[0].addresses[0].ip: Invalid value: "x": ` + anAddress, `subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address`}},
		"a padded one":   {"[{addresses: [{ip: 10.0.0.01}]}]", []string{`subsets[0].addresses[0].ip: Invalid value: "10.0.0.01": must not have leading 0s`}},
		"loopback":       {"[{notReadyAddresses: [{ip: '::1'}]}]", []string{`subsets[0].notReadyAddresses[0].ip: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		"link-local":     {"[{addresses: [{ip: 'fe80::1'}]}]", []string{`subsets[0].addresses[0].ip: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`}},
		"many":           {"[{addresses: [{ip: 'ff02::1'}]}]", []string{`subsets[0].addresses[0].ip: Invalid value: "ff02::1": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)`}},
		"names":          {"[{addresses: [{ip: 10.0.0.1, hostname: a.b, nodeName: A}]}]", []string{`subsets[0].addresses[0].hostname: Invalid value: "a.b": must not contain dots`, `subsets[0].addresses[0].nodeName: Invalid value: "A": ` + subdomain}},
		"ports unnamed":  {"[{addresses: [{ip: 10.0.0.1}], ports: [{port: 1}, {name: B, port: 2}]}]", []string{"subsets[0].ports[0].name: Required value", `subsets[0].ports[1].name: Invalid value: "B": ` + label}},
		"a port of none": {"[{addresses: [{ip: 10.0.0.1}], ports: [{port: 0, protocol: ICMP, appProtocol: a b}]}]", []string{"subsets[0].ports[0].port: Invalid value: 0: " + portRange, `subsets[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`, `subsets[0].ports[0].appProtocol: Invalid value: "a b": ` + qualified}},
	} {
		t.Run(name, func(t *testing.T) {
			e := endpointsOf(t, "subsets: "+c.subsets)
			same(t, told(k.Validate(e)), c.want...)
			e.ResourceVersion = "1"
			same(t, told(k.Validate(e)))
			same(t, told(k.ValidateUpdate(e, e)))
			same(t, told(k.ValidateUpdate(e, endpointsOf(t, "subsets: [{}]"))), c.want...)
		})
	}
	bare := &endpoints{Subsets: endpointsOf(t, "subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]").Subsets}
	bare.Subsets[0].Ports[0].Protocol = ""
	same(t, told(k.Validate(bare)), "subsets[0].ports[0].protocol: Required value")
}

func TestWhatIsSaidOfEndpoints(t *testing.T) {
	const odd = "subsets: [{addresses: [{ip: 'FD00::1'}], notReadyAddresses: [{ip: 010.0.0.1}, {ip: bad}]}]"
	same(t, Endpoints().Warnings(endpointsOf(t, odd)), endpointsDeprecated,
		`subsets[0].addresses[0].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`,
		`subsets[0].notReadyAddresses[0].ip: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1"`)
	same(t, Endpoints().Warnings(endpointsOf(t, "{metadata: {labels: {endpoints.kubernetes.io/managed-by: endpoint-controller}}, "+odd+"}")), endpointsDeprecated)
}

func TestRowsOfEndpoints(t *testing.T) {
	for subsets, want := range map[string]string{
		"[]": "x | <none> | 3h",
		"[{notReadyAddresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]":                                                       "x |  | 3h",
		"[{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 80}]}]":                                              "x | 10.0.0.1:80,[fd00::1]:80 | 3h",
		"[{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80}, {port: 81}]}]":                                   "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... | 3h",
		"[{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}, {addresses: [{ip: 10.0.0.3}, {ip: 10.0.0.4}], ports: [{port: 1}]}]": "x | 10.0.0.1,10.0.0.2,10.0.0.3:1 + 1 more... | 3h",
	} {
		e := endpointsOf(t, "{metadata: {name: x}, subsets: "+subsets+"}")
		e.CreationTimestamp = ago(3 * time.Hour)
		if got := shown(Endpoints().Row(e, noon)); got != want {
			t.Errorf("%s is shown as %q, not %q", subsets, got, want)
		}
	}
}
