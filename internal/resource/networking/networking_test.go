package networking

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
)

// object reads an object of a kind and fills in what was left out.
func object(t *testing.T, k *resource.Kind, text string) resource.Object {
	t.Helper()
	o := k.New()
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(o)
	}
	return o
}

func told(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func lines(all ...string) string { return strings.Join(all, "\n") }

// wrong are specs by what is wrong with them, and what is told of them.
type wrong map[string]struct{ spec, want string }

func (w wrong) test(t *testing.T, k *resource.Kind) {
	t.Helper()
	for name, c := range w {
		t.Run(name, func(t *testing.T) {
			if got := told(k.Validate(object(t, k, "spec: "+c.spec))); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

// changes are specs before and after an update, and what is told of it.
type changes map[string]struct{ old, new, want string }

func (w changes) test(t *testing.T, k *resource.Kind) {
	t.Helper()
	for name, c := range w {
		t.Run(name, func(t *testing.T) {
			n, o := object(t, k, "{metadata: {resourceVersion: '1'}, spec: "+c.new+"}"), object(t, k, "{metadata: {resourceVersion: '1'}, spec: "+c.old+"}")
			if got := told(append(k.Validate(n), k.ValidateUpdate(n, o)...)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

const (
	dnsLabel  = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	wildcard  = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
	labelText = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
	aRange    = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
	portRange = "must be between 1 and 65535, inclusive"
)

func TestNetworkPoliciesAreDefaulted(t *testing.T) {
	for spec, want := range map[string]string{
		"{}":                                "{policyTypes: [Ingress]}",
		"{policyTypes: [Egress]}":           "{policyTypes: [Egress]}",
		"{egress: [{ports: [{port: 53}]}]}": "{policyTypes: [Ingress, Egress], egress: [{ports: [{port: 53, protocol: TCP}]}]}",
		"{ingress: [{ports: [{protocol: UDP}]}]}": "{policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP}]}]}",
	} {
		var wanted networkingv1.NetworkPolicySpec
		if err := yaml.UnmarshalStrict([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if got := object(t, NetworkPolicy(), "spec: "+spec).(*networkingv1.NetworkPolicy).Spec; !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s became %+v", spec, got)
		}
	}
}

func TestNetworkPoliciesThatAreWrong(t *testing.T) {
	in := func(s string) string { return "{ingress: [" + s + "]}" }
	wrong{
		"none":         {"{}", ""},
		"all there is": {"{podSelector: {matchLabels: {a: b}}, ingress: [{from: [{podSelector: {}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: http}, {port: 80, endPort: 90, protocol: SCTP}]}], egress: [{}], policyTypes: [Ingress, Egress]}", ""},
		"a selector":   {"{podSelector: {matchLabels: {a: b c}}}", `spec.podSelector.matchLabels: Invalid value: "b c": ` + labelText},
		"a protocol":   {in("{ports: [{protocol: ICMP}]}"), `spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`},
		"a port":       {in("{ports: [{port: 0}, {port: a--b}]}"), lines("spec.ingress[0].ports[0].port: Invalid value: 0: "+portRange, `spec.ingress[0].ports[1].port: Invalid value: "a--b": must not contain consecutive hyphens`)},
		"an end":       {in("{ports: [{port: 80, endPort: 79}, {port: a, endPort: 79}, {endPort: 79}, {port: 1, endPort: 70000}]}"), lines("spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`", "spec.ingress[0].ports[1].endPort: Invalid value: 79: may not be specified when `port` is non-numeric", "spec.ingress[0].ports[2].endPort: Invalid value: 79: may not be specified when `port` is not specified", "spec.ingress[0].ports[3].endPort: Invalid value: 70000: "+portRange)},
		"no peer":      {"{egress: [{}, {to: [{}]}]}", "spec.egress[1].to[0]: Required value: must specify a peer"},
		"two peers":    {in("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}"), "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"},
		"a peer":       {in("{from: [{podSelector: {matchLabels: {a: b c}}}, {namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}]}"), lines(`spec.ingress[0].from[0].podSelector.matchLabels: Invalid value: "b c": `+labelText, `spec.ingress[0].from[1].namespaceSelector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`)},
		"no range":     {"{egress: [{to: [{ipBlock: {cidr: ''}}]}], policyTypes: [Both]}", lines(`spec.policyTypes[0]: Unsupported value: "Both": supported values: "Ingress", "Egress"`, "spec.egress[0].to[0].ipBlock.cidr: Required value")},
		"a range":      {in("{from: [{ipBlock: {cidr: 10.0.0.1, except: [x]}}, {ipBlock: {cidr: 10.0.0.1/8}}]}"), lines(`spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.1": `+aRange, `spec.ingress[0].from[1].ipBlock.cidr: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length`)},
		"exceptions":   {in("{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [x, 10.0.0.0/16, 11.0.0.0/24, 10.0.0.0/24, 10.0.1.1/24]}}]}"), lines(`spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "x": `+aRange, "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/16\": must be a strict subset of `cidr`", "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"11.0.0.0/24\": must be a strict subset of `cidr`", `spec.ingress[0].from[0].ipBlock.except[4]: Invalid value: "10.0.1.1/24": must not have bits set beyond the prefix length`)},
		"three types":  {"{policyTypes: [Ingress, Egress, Ingress]}", `spec.policyTypes: Invalid value: ["Ingress","Egress","Ingress"]: may not specify more than two policyTypes`},
	}.test(t, NetworkPolicy())
	const odd = "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8, except: [10.1.0.1/16]}}]}]}"
	changes{
		"odd ranges stay":            {odd, "{policyTypes: [Ingress], egress: [{to: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}", ""},
		"odd ranges do not come":     {"{}", odd, lines(`spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length`, `spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "10.1.0.1/16": must not have bits set beyond the prefix length`)},
		"odd selectors stay":         {"{podSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}", "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b c, d]}]}}", ""},
		"odd selectors do not come":  {"{}", "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}", `spec.podSelector.matchExpressions[0].values[0]: Invalid value: "b c": ` + labelText},
		"no range at all stays":      {"{ingress: [{from: [{ipBlock: {}}]}]}", "{ingress: [{from: [{ipBlock: {}}]}]}", ""},
		"no range on the other side": {"{ingress: [{from: [{ipBlock: {}}]}]}", "{ingress: [{from: [{ipBlock: {}}]}], egress: [{to: [{ipBlock: {}}]}]}", "spec.egress[0].to[0].ipBlock.cidr: Required value"},
		"no range at all":            {"{ingress: [{from: [{ipBlock: {}}]}]}", "{ingress: [{from: [{ipBlock: {}}]}, {}]}", "spec.ingress[0].from[0].ipBlock.cidr: Required value"},
	}.test(t, NetworkPolicy())
}

func TestIngressesThatAreWrong(t *testing.T) {
	to := "service: {name: web, port: {number: 80}}"
	path := func(s string) string { return "{rules: [{http: {paths: [{" + s + "}]}}]}" }
	at := "spec.rules[0].http.paths[0]"
	back := func(s string) string { return "{defaultBackend: {" + s + "}}" }
	wrong{
		"a backend":    {back(to), ""},
		"all there is": {"{ingressClassName: a.b, defaultBackend: {resource: {apiGroup: a.b, kind: Bucket, name: b}}, tls: [{hosts: ['*.a.b', a.b], secretName: a.b}], rules: [{host: '*.a.b', http: {paths: [{pathType: Prefix, path: /, backend: {" + to + "}}, {pathType: ImplementationSpecific, backend: {service: {name: 1web, port: {name: http}}}}]}}, {}]}", ""},
		"nothing":      {"{}", "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"},
		"no backend":   {back(""), `spec.defaultBackend: Invalid value: "": resource or service backend is required`},
		"two backends": {back(to + ", resource: {kind: a, name: b}"), `spec.defaultBackend: Invalid value: "": cannot set both resource and service backends`},
		"a resource":   {back("resource: {apiGroup: A, kind: '', name: a/b}"), lines(`spec.defaultBackend.resource.apiGroup: Invalid value: "A": `+subdomain, "spec.defaultBackend.resource.kind: Required value: kind is required", `spec.defaultBackend.resource.name: Invalid value: "a/b": may not contain '/'`)},
		"no resource":  {back("resource: {kind: ..}"), lines(`spec.defaultBackend.resource.kind: Invalid value: "..": may not be '..'`, "spec.defaultBackend.resource.name: Required value: name is required")},
		"no service":   {back("service: {}"), lines("spec.defaultBackend.service.name: Required value", "spec.defaultBackend: Required value: port name or number is required")},
		"a service":    {back("service: {name: A, port: {name: a, number: 1}}"), lines(`spec.defaultBackend.service.name: Invalid value: "A": `+dnsLabel, `spec.defaultBackend: Invalid value: "": cannot set both port name & port number`)},
		"a port":       {back("service: {name: a, port: {number: 70000}}"), "spec.defaultBackend.service.port.number: Invalid value: 70000: " + portRange},
		"a port name":  {back("service: {name: a, port: {name: a--b}}"), `spec.defaultBackend.service.port.name: Invalid value: "a--b": must not contain consecutive hyphens`},
		"hosts":        {"{rules: [{host: 1.2.3.4}, {host: A}, {host: 'a.*'}]}", lines(`spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address`, `spec.rules[1].host: Invalid value: "A": `+subdomain, `spec.rules[2].host: Invalid value: "a.*": `+wildcard)},
		"no paths":     {"{rules: [{http: {paths: []}}]}", "spec.rules[0].http.paths: Required value"},
		"no path type": {path("path: /"), at + ".pathType: Required value: pathType must be specified"},
		"a path type":  {path("pathType: Regex, backend: {" + to + "}"), at + `.pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"`},
		"no path":      {path("pathType: Exact, backend: {" + to + "}"), at + `.path: Invalid value: "": must be an absolute path`},
		"a path":       {path("pathType: Prefix, path: a//b/./c/../d%2fe%2F/.., backend: {" + to + "}"), lines(at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must be an absolute path`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '//'`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '/./'`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '/../'`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '%2f'`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": must not contain '%2F'`, at+`.path: Invalid value: "a//b/./c/../d%2fe%2F/..": cannot end with '/..'`)},
		"its own path": {path("pathType: ImplementationSpecific, path: a//b, backend: {" + to + "}"), at + `.path: Invalid value: "a//b": must be an absolute path`},
		"secrets":      {"{defaultBackend: {" + to + "}, tls: [{hosts: [A, '*'], secretName: B}], ingressClassName: C}", lines(`spec.tls[0].hosts[0]: Invalid value: "A": `+subdomain, `spec.tls[0].hosts[1]: Invalid value: "*": `+wildcard, `spec.tls[0].secretName: Invalid value: "B": `+subdomain, `spec.ingressClassName: Invalid value: "C": `+subdomain)},
	}.test(t, Ingress())
	odd := "{rules: [{host: '*.a', http: {paths: []}}]}"
	secret := "{defaultBackend: {" + to + "}, tls: [{secretName: A}]}"
	changes{
		"odd secrets stay":      {secret, secret, ""},
		"odd secrets come":      {back(to), secret, `spec.tls[0].secretName: Invalid value: "A": ` + subdomain},
		"odd wildcards stay":    {odd, odd, ""},
		"odd wildcards come":    {back(to), odd, "spec.rules[0].http.paths: Required value"},
		"odd rules do not stay": {"{rules: [{http: {paths: []}}]}", "{rules: [{http: {paths: []}}]}", "spec.rules[0].http.paths: Required value"},
	}.test(t, Ingress())
}

func TestTheClassOfAnIngress(t *testing.T) {
	const end = ", defaultBackend: {service: {name: a, port: {number: 1}}}}}"
	for name, c := range map[string]struct{ ingress, errors, warnings string }{
		"a field":        {"{spec: {ingressClassName: a" + end, "", "[]"},
		"a note":         {"{metadata: {annotations: {kubernetes.io/ingress.class: a}}, spec: {tls: []" + end, "", `["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"]`},
		"an older note":  {"{metadata: {resourceVersion: '1', annotations: {kubernetes.io/ingress.class: a}}, spec: {tls: []" + end, "", "[]"},
		"both":           {"{metadata: {annotations: {kubernetes.io/ingress.class: a}}, spec: {ingressClassName: a" + end, "", "[]"},
		"both disagree":  {"{metadata: {annotations: {kubernetes.io/ingress.class: b}}, spec: {ingressClassName: a" + end, "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match `ingressClassName` when both are specified", "[]"},
		"both, at first": {"{metadata: {resourceVersion: '1', annotations: {kubernetes.io/ingress.class: b}}, spec: {ingressClassName: a" + end, "", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			i := object(t, Ingress(), c.ingress)
			if got := told(Ingress().Validate(i)); got != c.errors {
				t.Errorf("%s\nwant %s", got, c.errors)
			}
			if got := fmt.Sprintf("%q", Ingress().Warnings(i)); got != c.warnings {
				t.Errorf("%s\nwant %s", got, c.warnings)
			}
		})
	}
}

func TestIngressClassesThatAreWrong(t *testing.T) {
	long := "a.b/" + strings.Repeat("c", 247)
	scope := func(s string) string { return "{controller: a.b/c, parameters: {kind: K, name: n, " + s + "}}" }
	wrong{
		"a controller":    {"{controller: a.b/c, parameters: {apiGroup: a.b, kind: K, name: n}}", ""},
		"in a namespace":  {scope("scope: Namespace, namespace: a"), ""},
		"no controller":   {"{}", "spec.controller: Required value"},
		"no domain":       {"{controller: c}", `spec.controller: Invalid value: "c": must be a domain-prefixed path (such as "acme.io/foo")`},
		"a long one":      {"{controller: " + long + "}", "spec.controller: Too long: may not be more than 250 bytes"},
		"no parameters":   {"{controller: a.b/c, parameters: {}}", lines("spec.parameters.kind: Required value", "spec.parameters.name: Required value")},
		"parameters":      {"{controller: a.b/c, parameters: {apiGroup: A, kind: a/b, name: .}}", lines(`spec.parameters.apiGroup: Invalid value: "A": `+subdomain, `spec.parameters.kind: Invalid value: "a/b": may not contain '/'`, `spec.parameters.name: Invalid value: ".": may not be '.'`)},
		"a scope":         {scope("scope: World"), `spec.parameters.scope: Unsupported value: "World": supported values: "Cluster", "Namespace"`},
		"no namespace":    {scope("scope: Namespace"), "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"},
		"a namespace":     {scope("scope: Namespace, namespace: A"), `spec.parameters.namespace: Invalid value: "A": ` + dnsLabel},
		"a needless one":  {scope("namespace: a"), "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"},
		"nothing of both": {"{controller: c, parameters: {}}", lines(`spec.controller: Invalid value: "c": must be a domain-prefixed path (such as "acme.io/foo")`, "spec.parameters.kind: Required value", "spec.parameters.name: Required value")},
	}.test(t, IngressClass())
	changes{
		"another controller":        {"{controller: a.b/c}", "{controller: a.b/d}", `spec.controller: Invalid value: "a.b/d": field is immutable`},
		"other parameters":          {"{controller: a.b/c}", "{controller: a.b/c, parameters: {kind: K, name: n}}", ""},
		"no name, and another kind": {"{controller: a.b/c, parameters: {kind: K}}", "{controller: a.b/c, parameters: {kind: L}}", ""},
		"no kind any more":          {"{controller: a.b/c, parameters: {kind: K, name: p}}", "{controller: a.b/c, parameters: {name: p}}", "spec.parameters.kind: Required value"},
		"no name, as it has been":   {"{controller: a.b/c, parameters: {kind: K}}", "{controller: a.b/c, parameters: {kind: K}}", ""},
	}.test(t, IngressClass())
	bare := &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "a.b/c", Parameters: &networkingv1.IngressClassParametersReference{Kind: "K", Name: "n"}}}
	if got := told(IngressClass().Validate(bare)); got != "spec.parameters.scope: Required value" {
		t.Error(got)
	}
}

func TestServiceCIDRsThatAreWrong(t *testing.T) {
	wrong{
		"one":         {"{cidrs: [10.0.0.0/8]}", ""},
		"two":         {"{cidrs: [10.0.0.0/8, 'fd00::/108']}", ""},
		"none":        {"{}", "spec.cidrs: Required value: at least one CIDR required"},
		"three":       {"{cidrs: [10.0.0.0/8, 'fd00::/108', 11.0.0.0/8]}", `spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/8","fd00::/108","11.0.0.0/8"]}: may only hold up to 2 values`},
		"two alike":   {"{cidrs: [10.0.0.0/8, 11.0.0.0/8]}", `spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/8","11.0.0.0/8"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64`},
		"no range":    {"{cidrs: [ten]}", `spec.cidrs[0]: Invalid value: "ten": ` + aRange},
		"odd":         {"{cidrs: ['FD00::/108']}", `spec.cidrs[0]: Invalid value: "FD00::/108": must be in canonical form ("fd00::/108")`},
		"more to say": {"{cidrs: [10.0.0.1/8]}", `spec.cidrs[0]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length`},
	}.test(t, ServiceCIDR())
	changes{
		"nothing":                {"{cidrs: [10.0.0.0/8]}", "{cidrs: [10.0.0.0/8]}", ""},
		"a second comes":         {"{cidrs: [10.0.0.0/8]}", "{cidrs: [10.0.0.0/8, 'fd00::/108']}", ""},
		"one comes before it":    {"{cidrs: [10.0.0.0/8]}", "{cidrs: ['fd00::/108', 10.0.0.0/8]}", `spec.cidrs[0]: Invalid value: "fd00::/108": field is immutable`},
		"another":                {"{cidrs: [10.0.0.0/8]}", "{cidrs: [11.0.0.0/8]}", `spec.cidrs[0]: Invalid value: "11.0.0.0/8": field is immutable`},
		"the second goes":        {"{cidrs: [10.0.0.0/8, 'fd00::/108']}", "{cidrs: [10.0.0.0/8]}", `spec.cidrs: Invalid value: ["10.0.0.0/8"]: field is immutable`},
		"another second":         {"{cidrs: [10.0.0.0/8, 'fd00::/108']}", "{cidrs: [10.0.0.0/8, 'fd01::/108']}", `spec.cidrs[1]: Invalid value: "fd01::/108": field is immutable`},
		"all go":                 {"{cidrs: [10.0.0.0/8]}", "{}", lines("spec.cidrs: Required value: at least one CIDR required", "spec.cidrs: Invalid value: null: field is immutable")},
		"they change places":     {"{cidrs: [10.0.0.0/8, 'fd00::/108']}", "{cidrs: ['fd00::/108', 10.0.0.0/8]}", lines(`spec.cidrs[0]: Invalid value: "fd00::/108": field is immutable`, `spec.cidrs[1]: Invalid value: "10.0.0.0/8": field is immutable`)},
		"there were none at all": {"{}", "{cidrs: [10.0.0.0/8]}", `spec.cidrs: Invalid value: ["10.0.0.0/8"]: field is immutable`},
	}.test(t, ServiceCIDR())
}

func TestIPAddressesThatAreWrong(t *testing.T) {
	for name, want := range map[string][]string{
		"10.0.0.1": nil, "fd00::1": nil, "FD00::1": {`must be in canonical form ("fd00::1")`}, "10.0.0.01": {"must not have leading 0s"},
		"::ffff:10.0.0.1": {"must not be an IPv4-mapped IPv6 address"}, "web": {"must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"},
	} {
		if got := IPAddress().NameRule(name, false); !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	wrong{
		"a service's": {"{parentRef: {resource: services, namespace: a, name: b}}", ""},
		"nobody's":    {"{}", "spec.parentRef: Required value"},
		"nothing's":   {"{parentRef: {group: A}}", lines(`spec.parentRef.group: Invalid value: "A": `+subdomain, "spec.parentRef.resource: Required value", "spec.parentRef.name: Required value")},
		"names":       {"{parentRef: {resource: a/b, namespace: .., name: 'a%'}}", lines(`spec.parentRef.resource: Invalid value: "a/b": may not contain '/'`, `spec.parentRef.name: Invalid value: "a%": may not contain '%'`, `spec.parentRef.namespace: Invalid value: "..": may not be '..'`)},
	}.test(t, IPAddress())
	changes{
		"nothing":   {"{parentRef: {resource: a, name: b}}", "{parentRef: {resource: a, name: b}}", ""},
		"another's": {"{parentRef: {resource: a, name: b}}", "{parentRef: {resource: a, name: c}}", "spec.parentRef: Invalid value: null: field is immutable"},
		"nobody's":  {"{parentRef: {resource: a, name: b}}", "{}", lines("spec.parentRef: Invalid value: null: field is immutable", "spec.parentRef: Required value")},
	}.test(t, IPAddress())
}

func TestWhatIsSaidOfNetworkPolicies(t *testing.T) {
	p := object(t, NetworkPolicy(), "spec: {ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.1/8, except: [bad]}}]}], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ['010.1.0.0/16']}}]}]}")
	want := []string{
		`spec.ingress[0].from[1].ipBlock.cidr: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)`,
		`spec.egress[0].to[0].ipBlock.except[0]: non-standard CIDR value "010.1.0.0/16" is invalid: use "10.1.0.0/16"`,
	}
	if got := NetworkPolicy().Warnings(p); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestGenerationsAndStatuses(t *testing.T) {
	for k, spec := range map[*resource.Kind][2]string{
		NetworkPolicy(): {"{}", "{policyTypes: [Egress]}"},
		IngressClass():  {"{controller: a.b/c}", "{controller: a.b/d}"},
		Ingress():       {"{ingressClassName: a}", "{ingressClassName: b}"},
	} {
		old := object(t, k, "{metadata: {generation: 7}, spec: "+spec[0]+"}")
		if k.PrepareCreate(old); old.GetGeneration() != 1 {
			t.Errorf("%s: %d when made", k.Kind, old.GetGeneration())
		}
		same, other := object(t, k, "{metadata: {generation: 7, labels: {a: b}}, spec: "+spec[0]+"}"), object(t, k, "spec: "+spec[1])
		k.PrepareUpdate(same, old)
		k.PrepareUpdate(other, old)
		if same.GetGeneration() != 1 || other.GetGeneration() != 2 {
			t.Errorf("%s: %d and %d", k.Kind, same.GetGeneration(), other.GetGeneration())
		}
	}
	for k, text := range map[*resource.Kind]string{
		Ingress():     "{spec: {ingressClassName: a}, status: {loadBalancer: {ingress: [{ip: 1.1.1.1}]}}}",
		ServiceCIDR(): "{spec: {cidrs: [10.0.0.0/8]}, status: {conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z', reason: a, message: b}]}}",
	} {
		full, made, bare := object(t, k, text), object(t, k, text), object(t, k, "{}")
		if k.PrepareCreate(made); reflect.DeepEqual(made, full) {
			t.Errorf("%s: a status was created", k.Kind)
		}
		if k.PrepareUpdate(made, full); !reflect.DeepEqual(reflect.ValueOf(made).Elem().FieldByName("Status").Interface(), reflect.ValueOf(full).Elem().FieldByName("Status").Interface()) {
			t.Errorf("%s: a status was changed", k.Kind)
		}
		if k.Status.PrepareUpdate(bare, full); !reflect.DeepEqual(reflect.ValueOf(bare).Elem().FieldByName("Spec").Interface(), reflect.ValueOf(full).Elem().FieldByName("Spec").Interface()) {
			t.Errorf("%s: a spec was changed with the status", k.Kind)
		}
	}
	old, now := object(t, Ingress(), "status: {loadBalancer: {ingress: [{ip: 01.1.1.1}]}}"), object(t, Ingress(), "status: {loadBalancer: {ingress: [{ip: 01.1.1.1}, {ip: x}, {hostname: A}, {hostname: 1.1.1.1}]}}")
	want := lines(`status.loadBalancer.ingress[1].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
		`status.loadBalancer.ingress[2].hostname: Invalid value: "A": `+subdomain, `status.loadBalancer.ingress[3].hostname: Invalid value: "1.1.1.1": must be a DNS name, not an IP address`)
	if got := told(Ingress().Status.ValidateUpdate(now, old)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestRows(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, c := range map[string]struct {
		kind         *resource.Kind
		object, want string
	}{
		"a policy for all":       {NetworkPolicy(), "{}", "x|<none>|5m"},
		"a policy":               {NetworkPolicy(), "spec: {podSelector: {matchLabels: {b: c, a: b}}}", "x|a=b,b=c|5m"},
		"an ingress":             {Ingress(), "{}", "x|<none>|*||80|5m"},
		"an ingress with hosts":  {Ingress(), "{spec: {ingressClassName: c, tls: [{}], rules: [{host: a}, {host: b}]}, status: {loadBalancer: {ingress: [{hostname: h}, {ip: 2.2.2.2}, {ip: 1.1.1.1}, {ip: 1.1.1.1}]}}}", "x|c|a,b|1.1.1.1,2.2.2.2,h|80, 443|5m"},
		"an ingress with many":   {Ingress(), "spec: {rules: [{host: a}, {host: b}, {host: c}, {host: d}, {}]}", "x|<none>|a,b,c + 2 more...||80|5m"},
		"a class":                {IngressClass(), "spec: {controller: a.b/c}", "x|a.b/c|<none>|5m"},
		"a class and parameters": {IngressClass(), "spec: {controller: a.b/c, parameters: {apiGroup: a.b, kind: K, name: p}}", "x|a.b/c|K.a.b/p|5m"},
		"a core kind":            {IngressClass(), "spec: {controller: a.b/c, parameters: {kind: K, name: p}}", "x|a.b/c|K/p|5m"},
		"ranges":                 {ServiceCIDR(), "spec: {cidrs: [10.0.0.0/8, 'fd00::/108']}", "x|10.0.0.0/8,fd00::/108|5m"},
		"a service's address":    {IPAddress(), "spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}", "x|services/default/kubernetes|5m"},
		"a gateway's address":    {IPAddress(), "spec: {parentRef: {group: A.b, resource: gateways, name: g}}", "x|gateways.a.b/g|5m"},
		"nobody's address":       {IPAddress(), "{}", "x|<none>|5m"},
	} {
		t.Run(name, func(t *testing.T) {
			o := object(t, c.kind, c.object)
			o.SetName("x")
			o.SetCreationTimestamp(metav1.NewTime(now.Add(-5 * time.Minute)))
			var cells []string
			for _, cell := range c.kind.Row(o, now) {
				cells = append(cells, fmt.Sprint(cell))
			}
			if got := strings.Join(cells, "|"); got != c.want {
				t.Errorf("is %s, not %s", got, c.want)
			}
		})
	}
}
