package proxy

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// The world of these tests: a node with three pods, a pod on another node, a client outside; and Services over them.
var (
	nodeAddr  = netip.MustParseAddr("192.0.2.1")
	outside   = netip.MustParseAddr("198.51.100.7")
	gateway   = netip.MustParseAddr("10.244.0.1")
	podA      = netip.MustParseAddr("10.244.0.5")
	podB      = netip.MustParseAddr("10.244.0.6")
	podC      = netip.MustParseAddr("10.244.0.7")
	podFar    = netip.MustParseAddr("10.244.1.9")
	localhost = netip.MustParseAddr("127.0.0.1")
	balancer  = netip.MustParseAddr("203.0.113.5")

	network = Network{
		Table: "sampan-0a1b2c3d-services", Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Node: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
		Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	}
	here = Where{Node: "n1", Zone: "z1"}
)

func ptr[T any](v T) *T { return &v }

// service makes a Service of one port, 80 to 8080.
func service(name, clusterIP string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeClusterIP, clusterIP, []string{clusterIP}
	s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	for _, f := range change {
		f(s)
	}
	return s
}

func nodePort(n int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
}

func loadBalancer(ip netip.Addr, ranges ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, ranges
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip.String()}}
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
}

func sticky(seconds int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func protocol(p corev1.Protocol) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].Protocol = p }
}

// slice makes an EndpointSlice of endpoints on this node, or on n2 if they are of its range.
func slice(port int32, endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{AddressType: discovery.AddressTypeIPv4, Endpoints: endpoints}
	for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		s.Ports = append(s.Ports, discovery.EndpointPort{Name: ptr(""), Port: &port, Protocol: &p})
	}
	return s
}

func at(a netip.Addr, change ...func(*discovery.Endpoint)) discovery.Endpoint {
	e := discovery.Endpoint{Addresses: []string{a.String()}, NodeName: ptr("n1")}
	e.Conditions = discovery.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)}
	if a == podFar {
		e.NodeName = ptr("n2")
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func unready(e *discovery.Endpoint) {
	e.Conditions.Ready, e.Conditions.Serving = ptr(false), ptr(false)
}

func ending(e *discovery.Endpoint) {
	e.Conditions.Ready, e.Conditions.Terminating = ptr(false), ptr(true)
}

// pair is a Service with its slices.
type pair struct {
	service *corev1.Service
	slices  []*discovery.EndpointSlice
}

// try is a connection, and what becomes of it.
type try struct {
	from, to string // "outside", "node", "podA", …; the host and port that are asked
	proto    nft.Proto
	want     string // the ends that may answer, with spaces between; "refused" or "dropped"
	as       string // who the end thinks that it is talking to; empty: the client
}

// places are the clients.
var places = map[string]netip.Addr{"outside": outside, "node": nodeAddr, "podA": podA, "podB": podB, "podC": podC, "podFar": podFar, "gateway": gateway, "localhost": localhost}

// scene is a set of Services and what has to hold of them; the rules are asked first, and then the kernel.
type scene struct {
	pairs []pair
	tries map[string]try
}

func scenes() map[string]scene {
	three := slice(8080, at(podA), at(podB), at(podC))
	spread := slice(8080, at(podA), at(podFar))
	far := slice(8080, at(podFar))
	return map[string]scene{
		"cluster IP": {
			[]pair{{service("web", "10.96.0.9"), []*discovery.EndpointSlice{three}}},
			map[string]try{
				"a pod reaches all three":                   {from: "podB", to: "10.96.0.9:80", want: "podA podC podB", as: "podB gateway"},
				"the node itself does":                      {from: "node", to: "10.96.0.9:80", want: "podA podB podC", as: "gateway node"},
				"another port of the address is refused":    {from: "podA", to: "10.96.0.9:81", want: "refused"},
				"an address without a Service is refused":   {from: "podA", to: "10.96.0.10:80", want: "refused"},
				"and from the node at once as well":         {from: "node", to: "10.96.0.10:80", want: "refused"},
				"a pod is reached by its own address still": {from: "podB", to: "10.244.0.7:8080", want: "podC"},
			},
		},
		"one endpoint, which reaches itself": {
			[]pair{{service("web", "10.96.0.9"), []*discovery.EndpointSlice{slice(8080, at(podA))}}},
			map[string]try{
				"with the node's address, or it would drop it": {from: "podA", to: "10.96.0.9:80", want: "podA", as: "gateway"},
				"others keep theirs":                           {from: "podB", to: "10.96.0.9:80", want: "podA"},
			},
		},
		"without endpoints": {
			[]pair{
				{service("web", "10.96.0.9", nodePort(30080)), nil},
				{service("unready", "10.96.0.11", nodePort(30081)), []*discovery.EndpointSlice{slice(8080, at(podA, unready))}},
			},
			map[string]try{
				"the address is refused":                          {from: "podA", to: "10.96.0.9:80", want: "refused"},
				"so is the node port":                             {from: "outside", to: "192.0.2.1:30080", want: "refused"},
				"and from the node":                               {from: "node", to: "192.0.2.1:30080", want: "refused"},
				"one that is not ready is as one that is not":     {from: "podB", to: "10.96.0.11:80", want: "refused"},
				"its node port too, from a pod":                   {from: "podB", to: "192.0.2.1:30081", want: "refused"},
				"what listens on the node is not in anyone's way": {from: "outside", to: "192.0.2.1:9999", want: "node"},
			},
		},
		"ending endpoints": {
			[]pair{
				{service("some", "10.96.0.9"), []*discovery.EndpointSlice{slice(8080, at(podA, ending), at(podB))}},
				{service("all", "10.96.0.10"), []*discovery.EndpointSlice{slice(8080, at(podA, ending), at(podC, unready))}},
			},
			map[string]try{
				"are not used while another is ready": {from: "podC", to: "10.96.0.9:80", want: "podB"},
				"are used when none is":               {from: "podC", to: "10.96.0.10:80", want: "podA"},
			},
		},
		"node port": {
			[]pair{{service("web", "10.96.0.9", nodePort(30080)), []*discovery.EndpointSlice{three}}},
			map[string]try{
				"from outside, with its own address":    {from: "outside", to: "192.0.2.1:30080", want: "podA podB podC"},
				"by the bridge's address":               {from: "outside", to: "10.244.0.1:30080", want: "podA podB podC"},
				"from a pod":                            {from: "podB", to: "192.0.2.1:30080", want: "podA podB podC", as: "podB gateway"},
				"from the node by its own address":      {from: "node", to: "192.0.2.1:30080", want: "podA podB podC", as: "node gateway"},
				"from the node by localhost":            {from: "localhost", to: "127.0.0.1:30080", want: "podA podB podC", as: "gateway"},
				"the cluster IP from outside works too": {from: "outside", to: "10.96.0.9:80", want: "podA podB podC"},
			},
		},
		"external traffic policy Local": {
			[]pair{
				{service("spread", "10.96.0.9", nodePort(30080), externalLocal), []*discovery.EndpointSlice{spread}},
				{service("far", "10.96.0.10", nodePort(30081), externalLocal), []*discovery.EndpointSlice{far}},
				{service("none", "10.96.0.11", nodePort(30082), externalLocal), nil},
			},
			map[string]try{
				"outsiders reach what is here":                  {from: "outside", to: "192.0.2.1:30080", want: "podA"},
				"pods reach all":                                {from: "podB", to: "192.0.2.1:30080", want: "podA podFar"},
				"with nothing here outsiders wait in vain":      {from: "outside", to: "192.0.2.1:30081", want: "dropped"},
				"pods are not bound by it":                      {from: "podB", to: "192.0.2.1:30081", want: "podFar"},
				"with nothing anywhere all are refused":         {from: "outside", to: "192.0.2.1:30082", want: "refused"},
				"the cluster IP leads everywhere, from outside": {from: "outside", to: "10.96.0.10:80", want: "podFar", as: "node"},
			},
		},
		"internal traffic policy Local": {
			[]pair{
				{service("spread", "10.96.0.9", internalLocal), []*discovery.EndpointSlice{spread}},
				{service("far", "10.96.0.10", internalLocal), []*discovery.EndpointSlice{far}},
				{service("none", "10.96.0.11", internalLocal), nil},
			},
			map[string]try{
				"pods reach what is here":        {from: "podB", to: "10.96.0.9:80", want: "podA"},
				"with nothing here it is silent": {from: "podB", to: "10.96.0.10:80", want: "dropped"},
				"with nothing at all it refuses": {from: "podB", to: "10.96.0.11:80", want: "refused"},
			},
		},
		"load balancer": {
			[]pair{
				{service("open", "10.96.0.9", loadBalancer(balancer)), []*discovery.EndpointSlice{three}},
				{service("own", "10.96.0.10", loadBalancer(nodeAddr, "198.51.100.0/28", "198.51.100.0/24", "10.244.0.6/32")), []*discovery.EndpointSlice{three}},
				{service("closed", "10.96.0.11", loadBalancer(netip.MustParseAddr("203.0.113.6"), "198.51.100.128/25")), []*discovery.EndpointSlice{three}},
				{service("empty", "10.96.0.12", loadBalancer(netip.MustParseAddr("203.0.113.7"))), nil},
			},
			map[string]try{
				"from outside":                            {from: "outside", to: "203.0.113.5:80", want: "podA podB podC"},
				"from a pod":                              {from: "podB", to: "203.0.113.5:80", want: "podA podB podC", as: "podB gateway"},
				"from the node":                           {from: "node", to: "203.0.113.5:80", want: "podA podB podC", as: "node gateway"},
				"one that is the node's own address":      {from: "outside", to: "192.0.2.1:80", want: "podA podB podC"},
				"who is not in the ranges gets no answer": {from: "outside", to: "203.0.113.6:80", want: "dropped"},
				"a pod in the ranges may":                 {from: "podB", to: "192.0.2.1:80", want: "podA podB podC", as: "podB gateway"},
				"a pod outside of them may not":           {from: "podC", to: "192.0.2.1:80", want: "dropped"},
				"without endpoints it is refused":         {from: "outside", to: "203.0.113.7:80", want: "refused"},
				"another port of it is refused":           {from: "outside", to: "203.0.113.5:81", want: "refused"},
				"another port of it, from a pod":          {from: "podB", to: "203.0.113.5:81", want: "refused"},
				"another port of it, from the node":       {from: "node", to: "203.0.113.5:81", want: "refused"},
			},
		},
		"external IPs": {
			[]pair{{service("web", "10.96.0.9", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.80"} }), []*discovery.EndpointSlice{three}}},
			map[string]try{"from outside": {from: "outside", to: "203.0.113.80:80", want: "podA podB podC"}},
		},
		"session affinity": {
			[]pair{{service("web", "10.96.0.9", sticky(600), nodePort(30080)), []*discovery.EndpointSlice{three}}},
			map[string]try{
				"by the cluster IP": {from: "podB", to: "10.96.0.9:80", want: "podA podB podC", as: "podB gateway"},
				"by the node port":  {from: "outside", to: "192.0.2.1:30080", want: "podA podB podC"},
			},
		},
		"UDP": {
			[]pair{{service("dns", "10.96.0.9", protocol(corev1.ProtocolUDP), nodePort(30053)), []*discovery.EndpointSlice{three}}},
			map[string]try{
				"from a pod":          {from: "podB", to: "10.96.0.9:80", proto: nft.UDP, want: "podA podB podC", as: "podB gateway"},
				"from outside":        {from: "outside", to: "192.0.2.1:30053", proto: nft.UDP, want: "podA podB podC"},
				"TCP is another port": {from: "podB", to: "10.96.0.9:80", want: "refused"},
			},
		},
	}
}

// programFor is the program of those Services.
func programFor(pairs []pair) (*program, error) {
	p := newProgram(network)
	plans := map[loop.Key]Plan{}
	for _, x := range pairs {
		plans[loop.Key{Namespace: x.service.Namespace, Name: x.service.Name}] = Decide(x.service, x.slices, here)
	}
	p.set(plans)
	return p, nil
}

func (t try) protocol() nft.Proto {
	if t.proto == 0 {
		return nft.TCP
	}
	return t.proto
}

// allows reports whether an answer is one of those wanted.
func (t try) allows(end, as string) error {
	if !strings.Contains(" "+t.want+" ", " "+end+" ") {
		return fmt.Errorf("got %q, want one of %q", end, t.want)
	}
	wanted := t.as
	if wanted == "" {
		wanted = t.from
	}
	if as != "" && !strings.Contains(" "+wanted+" ", " "+as+" ") {
		return fmt.Errorf("%s sees %s as the client, and not %s", end, as, wanted)
	}
	return nil
}

// called is a place's name.
func called(a netip.Addr) string {
	for name, b := range places {
		if a == b {
			return name
		}
	}
	return a.String()
}
