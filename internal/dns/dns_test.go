package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	upstream "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cluster is a server that knows one Service of each kind, and may ask nobody.
func cluster(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		ClusterPrefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/108")},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			t.Error("another server was asked")
			return nil, net.ErrClosed
		},
	}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	s.SetNamespace("default", true)
	s.SetNamespace("empty", true)
	s.SetService(service4("web", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}, corev1.ServicePort{Port: 80}, corev1.ServicePort{Name: "dns", Protocol: "UDP", Port: 53}))
	dual := service4("dual", "10.96.0.2", corev1.ServicePort{Name: "http", Port: 80})
	dual.Spec.ClusterIPs = append(dual.Spec.ClusterIPs, "fd00:96::2")
	s.SetService(dual)
	six := service4("six", "fd00:96::6")
	s.SetService(six)
	for _, name := range []string{"pets", "quiet", "early", "later"} {
		s.SetService(service4(name, "None", corev1.ServicePort{Name: "peer", Port: 1}))
	}
	early := service4("early", "None", corev1.ServicePort{Name: "peer", Port: 1})
	early.Spec.PublishNotReadyAddresses = true
	s.SetService(early)
	s.SetSlice(slice4("pets-a", "pets", endpointOf("10.244.0.1", "pet-0", nil), endpointOf("10.244.0.2", "pet-1", new(true)), endpointOf("10.244.0.9", "pet-9", new(false))))
	s.SetSlice(slice4("pets-b", "pets", endpointOf("10.244.0.3", "", nil), endpointOf("10.244.0.1", "pet-0", nil), endpointOf("10.244.0.4", "pet-1", nil)))
	sixes := slice4("pets-6", "pets", endpointOf("fd00::5", "", nil))
	sixes.AddressType = discovery.AddressTypeIPv6
	s.SetSlice(sixes)
	s.SetSlice(slice4("quiet-a", "quiet", endpointOf("10.244.0.10", "", new(false))))
	s.SetSlice(slice4("early-a", "early", endpointOf("10.244.0.11", "", new(false))))
	s.SetSlice(slice4("abroad-a", "abroad", endpointOf("192.0.2.77", "far", nil)))
	s.SetService(service4("abroad", "None"))
	s.SetSlice(slice4("web-a", "web", endpointOf("10.244.0.21", "", nil), endpointOf("10.244.0.22", "front", nil), endpointOf("10.244.0.23", "", new(false))))
	for name, to := range map[string]string{
		"inner": "web.default.svc.cluster.local", "twice": "inner.default.svc.cluster.local.", "nowhere": "none.default.svc.cluster.local",
		"ring": "rang.default.svc.cluster.local", "rang": "ring.default.svc.cluster.local", "number": "192.0.2.1", "outer": "www.example.com",
		"back": "1.0.96.10.in-addr.arpa", "aback": "8.0.96.10.in-addr.arpa",
		"chain": "outer.default.svc.cluster.local",
	} {
		svc := service4(name, "")
		svc.Spec.Type, svc.Spec.ExternalName, svc.Spec.ClusterIPs = corev1.ServiceTypeExternalName, to, nil
		s.SetService(svc)
	}
	return s
}

func service4(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports},
	}
}

func slice4(name, service string, endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discovery.EndpointPort{{Name: new("peer"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(7000))}, {Name: new(""), Port: new(int32(9))}},
	}
}

func endpointOf(ip, host string, ready *bool) discovery.Endpoint {
	e := discovery.Endpoint{Addresses: []string{ip}, Conditions: discovery.EndpointConditions{Ready: ready}}
	if host != "" {
		e.Hostname = &host
	}
	return e
}

// asked puts a packet to the server as if it had come by UDP or TCP, and reads the answer; nil if there is none.
func asked(t testing.TB, s *Server, m *upstream.Msg, tcp bool) *upstream.Msg {
	t.Helper()
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return read(t, raw(t, s, packet, tcp))
}

func read(t testing.TB, b []byte) *upstream.Msg {
	t.Helper()
	if b == nil {
		return nil
	}
	got := new(upstream.Msg)
	if err := got.Unpack(b); err != nil {
		t.Fatalf("answer %x: %v", b, err)
	}
	return got
}

func raw(t testing.TB, s *Server, packet []byte, tcp bool) []byte {
	t.Helper()
	var q query
	work := &flights{ctx: context.Background()}
	var late []byte
	b := s.handle(&q, packet, nil, tcp, work, func(*query) func([]byte) { return func(b []byte) { late = b } })
	work.wait.Wait()
	if b == nil {
		b = late
	}
	return b
}

func question(name, kind string) *upstream.Msg {
	return new(upstream.Msg).SetQuestion(upstream.Fqdn(name), upstream.StringToType[kind])
}

// said writes an answer as a line: code, answers, and behind a bar what is beside them, each sorted and without class.
func said(m *upstream.Msg) string {
	if m == nil {
		return "nothing"
	}
	words := []string{upstream.RcodeToString[m.Rcode]}
	for i, section := range [][]upstream.RR{m.Answer, m.Ns, m.Extra} {
		var all []string
		for _, rr := range section {
			if rr.Header().Rrtype == typeOPT {
				continue
			}
			if rr.Header().Class != classIN || rr.Header().Ttl != 5 {
				all = append(all, "BAD "+rr.String())
				continue
			}
			if i == 1 {
				all = append(all, "SOA "+rr.Header().Name) // what else it says has its own case
				continue
			}
			text := strings.Fields(rr.String())
			all = append(all, strings.Join(append([]string{text[0]}, text[3:]...), " "))
		}
		if i != 0 && len(all) > 0 {
			words = append(words, "|")
		}
		slices.SortFunc(all, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
		words = append(words, strings.Join(all, ", "))
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}
