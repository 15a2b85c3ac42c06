package discovery

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *discoveryv1.EndpointSlice {
	t.Helper()
	s := &discoveryv1.EndpointSlice{}
	if err := yaml.UnmarshalStrict([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	EndpointSlice().Default(s)
	return s
}

func text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

const (
	label     = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	qualified = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
	value     = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)

// several gives the same entry so many times.
func several(n int, entry string) string { return strings.Repeat(entry+", ", n) }

func TestSlicesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct{ slice, want string }{
		"nothing in it": {"{addressType: IPv4}", ""},
		"all there is":  {"{addressType: IPv6, endpoints: [{addresses: ['fd00::1'], hostname: a, nodeName: n.a, zone: z, hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n.a}]}}], ports: [{}, {name: a, port: 80, protocol: SCTP, appProtocol: kubernetes.io/h2c}]}", ""},
		"no type":       {"{}", "addressType: Required value"},
		"a type":        {"{addressType: IPv5, endpoints: [{addresses: [whatever]}]}", `addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"`},
		"no addresses":  {"{addressType: IPv4, endpoints: [{}]}", "endpoints[0].addresses: Required value"},
		"addresses":     {"{addressType: IPv4, endpoints: [{addresses: [" + several(101, "10.0.0.1") + "]}]}", "endpoints[0].addresses: Too many: 101: must have at most 100 items"},
		"endpoints":     {"{addressType: IPv4, endpoints: [" + several(1001, "{addresses: [x]}") + "]}", "endpoints: Too many: 1001: must have at most 1000 items"},
		"ports":         {"{addressType: IPv4, ports: [" + several(20001, "{}") + "]}", "ports: Too many: 20001: must have at most 20000 items"},
		"no address":    {"{addressType: IPv4, endpoints: [{addresses: [x]}]}", `endpoints[0].addresses[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		"a padded one":  {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.01]}]}", `endpoints[0].addresses[0]: Invalid value: "10.0.0.01": must not have leading 0s`},
		"not four":      {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1, 'fd00::1']}]}", `endpoints[0].addresses: Invalid value: "fd00::1": must be an IPv4 address`},
		"not six":       {"{addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}]}", `endpoints[0].addresses: Invalid value: "10.0.0.1": must be an IPv6 address`},
		"loopback":      {"{addressType: IPv6, endpoints: [{addresses: ['::1']}]}", `endpoints[0].addresses[0]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
		"link-local":    {"{addressType: IPv4, endpoints: [{addresses: [169.254.1.1]}]}", `endpoints[0].addresses[0]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`},
		"a name":        {"{addressType: FQDN, endpoints: [{addresses: [a.b, a]}]}", `endpoints[0].addresses[1]: Invalid value: "a": should be a domain with at least two segments separated by dots`},
		"names":         {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hostname: A, nodeName: B}]}", `endpoints[0].nodeName: Invalid value: "B": ` + subdomain + "\n" + `endpoints[0].hostname: Invalid value: "A": ` + label},
		"topology":      {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {a b: c}}]}", `endpoints[0].deprecatedTopology: Invalid value: "a b": ` + qualified},
		"a zone there":  {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {topology.kubernetes.io/zone: c}}]}", "endpoints[0].deprecatedTopology[topology.kubernetes.io/zone]: Internal error: reserved key was not removed in conversion"},
		"a port's name": {"{addressType: IPv4, ports: [{name: A}, {name: a}, {name: a}]}", `ports[0].name: Invalid value: "A": ` + label + "\n" + `ports[2].name: Duplicate value: "a"`},
		"a protocol":    {"{addressType: IPv4, ports: [{protocol: ICMP, appProtocol: a b}]}", `ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"` + "\n" + `ports[0].appProtocol: Invalid value: "a b": ` + qualified},
		"hints":         {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a b}, {name: c}, {name: c}], forNodes: [{name: A}, {name: b}, {name: b}]}}]}", `endpoints[0].hints.forZones[0].name: Invalid value: "a b": ` + value + "\n" + `endpoints[0].hints.forZones[2].name: Duplicate value: "c"` + "\n" + `endpoints[0].hints.forNodes[0].name: Invalid value: "A": ` + subdomain + "\n" + `endpoints[0].hints.forNodes[2].name: Duplicate value: "b"`},
		"many zones":    {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [" + several(9, "{name: a}") + "]}}]}", "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"},
		"many nodes":    {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forNodes: [" + several(9, "{name: a}") + "]}}]}", "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text(EndpointSlice().Validate(parse(t, c.slice))); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
	bare := &discoveryv1.EndpointSlice{AddressType: "IPv4", Ports: []discoveryv1.EndpointPort{{}}}
	if got := text(EndpointSlice().Validate(bare)); got != "ports[0].protocol: Required value" {
		t.Error(got)
	}
}

func TestWhatMayNotChangeInASlice(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"nothing":                    {"{addressType: IPv4}", "{addressType: IPv4}", ""},
		"another type":               {"{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}", "{addressType: IPv6, endpoints: [{addresses: [10.0.0.1]}]}", "addressType: Invalid value: null: field is immutable"},
		"no type":                    {"{addressType: IPv4}", "{}", "addressType: Invalid value: null: field is immutable\naddressType: Required value"},
		"bad endpoints stay":         {"{addressType: IPv4, endpoints: [{addresses: [x]}, {}]}", "{addressType: IPv4, endpoints: [{addresses: [x]}, {}], ports: [{port: 80}]}", ""},
		"bad endpoints do not grow":  {"{addressType: IPv4, endpoints: [{}]}", "{addressType: IPv4, endpoints: [{}, {addresses: [10.0.0.1]}]}", "endpoints[0].addresses: Required value"},
		"ports are looked at always": {"{addressType: IPv4, ports: [{name: A}]}", "{addressType: IPv4, ports: [{name: A}]}", `ports[0].name: Invalid value: "A": ` + label},
	} {
		t.Run(name, func(t *testing.T) {
			s := parse(t, c.new)
			s.ResourceVersion = "1"
			if got := text(append(EndpointSlice().Validate(s), EndpointSlice().ValidateUpdate(s, parse(t, c.old))...)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWhatIsSetInASlice(t *testing.T) {
	k := EndpointSlice()
	s := parse(t, "{addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {kubernetes.io/hostname: n}}]}")
	k.PrepareCreate(s)
	if *s.Ports[0].Name != "" || *s.Ports[0].Protocol != "TCP" || s.Generation != 1 || s.Endpoints[0].DeprecatedTopology != nil || s.Endpoints[0].NodeName != nil {
		t.Errorf("%+v", s)
	}
	for name, c := range map[string]struct {
		change     func(*discoveryv1.EndpointSlice)
		generation int64
	}{
		"nothing":        {func(*discoveryv1.EndpointSlice) {}, 1},
		"its own number": {func(s *discoveryv1.EndpointSlice) { s.Generation = 9 }, 1},
		"an annotation":  {func(s *discoveryv1.EndpointSlice) { s.Annotations = map[string]string{"a": "b"} }, 1},
		"a label":        {func(s *discoveryv1.EndpointSlice) { s.Labels = map[string]string{"a": "b"} }, 2},
		"a port":         {func(s *discoveryv1.EndpointSlice) { s.Ports = nil }, 2},
		"an endpoint":    {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = new(false) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := s.DeepCopy()
			c.change(n)
			if k.PrepareUpdate(n, s); n.Generation != c.generation {
				t.Errorf("generation %d", n.Generation)
			}
		})
	}
}

// Older clients wrote a node's name into the topology. What is stored so stays until the endpoints change; then the name goes to its field.
func TestTheNodesOfOlderClients(t *testing.T) {
	old := parse(t, "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {kubernetes.io/hostname: n, a: b}}]}")
	same := old.DeepCopy()
	if EndpointSlice().PrepareUpdate(same, old); !reflect.DeepEqual(same.Endpoints, old.Endpoints) {
		t.Errorf("%+v", same.Endpoints)
	}
	changed := parse(t, "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {kubernetes.io/hostname: n}}, {addresses: [10.0.0.2], deprecatedTopology: {kubernetes.io/hostname: new}}, {addresses: [10.0.0.3], nodeName: m, deprecatedTopology: {kubernetes.io/hostname: n}}]}")
	EndpointSlice().PrepareUpdate(changed, old)
	want := parse(t, "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: n}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3], nodeName: m}]}")
	if !reflect.DeepEqual(changed.Endpoints, want.Endpoints) {
		t.Errorf("%+v", changed.Endpoints)
	}
}

func TestWhatIsSaidOfSlices(t *testing.T) {
	const odd = `endpoints[0].addresses[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`
	for name, c := range map[string]struct {
		slice string
		want  []string
	}{
		"names":                {"{addressType: FQDN, endpoints: [{addresses: [a.b]}]}", []string{"spec.addressType: FQDN endpoints are deprecated"}},
		"names that are there": {"{metadata: {resourceVersion: '1'}, addressType: FQDN}", nil},
		"an odd address":       {"{addressType: IPv6, endpoints: [{addresses: ['FD00::1']}]}", []string{odd}},
		"of the controller":    {"{metadata: {labels: {endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}, addressType: IPv6, endpoints: [{addresses: ['FD00::1']}]}", nil},
		"of the mirror":        {"{metadata: {labels: {endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io}}, addressType: IPv6, endpoints: [{addresses: ['FD00::1']}]}", nil},
		"of somebody":          {"{metadata: {labels: {endpointslice.kubernetes.io/managed-by: me}}, addressType: IPv6, endpoints: [{addresses: ['FD00::1']}]}", []string{odd}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := EndpointSlice().Warnings(parse(t, c.slice)); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestRows(t *testing.T) {
	now := time.Unix(1e9, 0)
	for slice, want := range map[string]string{
		"{addressType: IPv4}": "[s IPv4 <unset> <unset> 5m]",
		"{addressType: IPv4, ports: [{port: 80}, {name: a}], endpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: [10.0.0.3]}]}":                                                          "[s IPv4 80,a 10.0.0.1,10.0.0.2,10.0.0.3 5m]",
		"{addressType: IPv4, ports: [{port: 1}, {port: 2}, {port: 3}, {port: 4}, {port: 5}], endpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]}": "[s IPv4 1,2,3 + 2 more... 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... 5m]",
	} {
		s := parse(t, slice)
		s.Name, s.CreationTimestamp = "s", metav1.NewTime(now.Add(-5*time.Minute))
		if got := fmt.Sprint(EndpointSlice().Row(s, now)); got != want {
			t.Errorf("%s is shown as %s, not %s", slice, got, want)
		}
	}
}
