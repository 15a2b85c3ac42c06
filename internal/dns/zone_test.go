package dns

import (
	"strings"
	"testing"
)

func TestAnswersOfTheSpecification(t *testing.T) {
	s := cluster(t, nil)
	const no, none = "NOERROR | SOA cluster.local.", "NXDOMAIN | SOA cluster.local."
	for name, c := range map[string]struct{ question, want string }{
		"the schema has a version":                             {"dns-version.Z TXT", `NOERROR dns-version.Z. TXT "1.1.0"`},
		"the version is nothing but text":                      {"dns-version.Z A", no},
		"a Service has its address":                            {"web.default.svc.Z A", "NOERROR web.default.svc.Z. A 10.96.0.1"},
		"a Service of one family has none of the other":        {"web.default.svc.Z AAAA", no},
		"a Service of IPv6 has that":                           {"six.default.svc.Z AAAA", "NOERROR six.default.svc.Z. AAAA fd00:96::6"},
		"and none of IPv4":                                     {"six.default.svc.Z A", no},
		"a Service of both families has IPv4":                  {"dual.default.svc.Z A", "NOERROR dual.default.svc.Z. A 10.96.0.2"},
		"a Service of both families has IPv6":                  {"dual.default.svc.Z AAAA", "NOERROR dual.default.svc.Z. AAAA fd00:96::2"},
		"a named port is found":                                {"_https._tcp.web.default.svc.Z SRV", "NOERROR _https._tcp.web.default.svc.Z. SRV 0 100 443 web.default.svc.Z. | web.default.svc.Z. A 10.96.0.1"},
		"a named port of UDP is found":                         {"_dns._udp.web.default.svc.Z SRV", "NOERROR _dns._udp.web.default.svc.Z. SRV 0 100 53 web.default.svc.Z. | web.default.svc.Z. A 10.96.0.1"},
		"a port brings the addresses of both families":         {"_http._tcp.dual.default.svc.Z SRV", "NOERROR _http._tcp.dual.default.svc.Z. SRV 0 100 80 dual.default.svc.Z. | dual.default.svc.Z. A 10.96.0.2, dual.default.svc.Z. AAAA fd00:96::2"},
		"a port is not found under another protocol":           {"_https._udp.web.default.svc.Z SRV", none},
		"a port without name has no record":                    {"_._tcp.web.default.svc.Z SRV", none},
		"a port's name has no address":                         {"_https._tcp.web.default.svc.Z A", no},
		"above a port's name is nothing":                       {"_tcp.web.default.svc.Z SRV", no},
		"above no port's name is not even nothing":             {"_sctp.web.default.svc.Z SRV", none},
		"all ports stand under the Service":                    {"web.default.svc.Z SRV", "NOERROR web.default.svc.Z. SRV 0 33 443 web.default.svc.Z., web.default.svc.Z. SRV 0 33 53 web.default.svc.Z., web.default.svc.Z. SRV 0 33 80 web.default.svc.Z. | web.default.svc.Z. A 10.96.0.1"},
		"a Service's address has its name":                     {"1.0.96.10.in-addr.arpa PTR", "NOERROR 1.0.96.10.in-addr.arpa. PTR web.default.svc.Z."},
		"an address of IPv6 too":                               {"6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa PTR", "NOERROR 6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa. PTR six.default.svc.Z."},
		"a headless Service has its ready endpoints":           {"pets.default.svc.Z A", "NOERROR pets.default.svc.Z. A 10.244.0.1, pets.default.svc.Z. A 10.244.0.2, pets.default.svc.Z. A 10.244.0.3, pets.default.svc.Z. A 10.244.0.4"},
		"of the other family too":                              {"pets.default.svc.Z AAAA", "NOERROR pets.default.svc.Z. AAAA fd00::5"},
		"without ready endpoints it is not there":              {"quiet.default.svc.Z A", none},
		"without any endpoint it is not there":                 {"later.default.svc.Z A", none},
		"it can publish those that are not ready":              {"early.default.svc.Z A", "NOERROR early.default.svc.Z. A 10.244.0.11"},
		"an endpoint is found by its hostname":                 {"pet-0.pets.default.svc.Z A", "NOERROR pet-0.pets.default.svc.Z. A 10.244.0.1"},
		"a hostname has all its endpoints":                     {"pet-1.pets.default.svc.Z A", "NOERROR pet-1.pets.default.svc.Z. A 10.244.0.2, pet-1.pets.default.svc.Z. A 10.244.0.4"},
		"an endpoint that is not ready is not found":           {"pet-9.pets.default.svc.Z A", none},
		"an endpoint has no address of the other family":       {"pet-0.pets.default.svc.Z AAAA", no},
		"an endpoint without hostname is found by its address": {"10-244-0-3.pets.default.svc.Z A", "NOERROR 10-244-0-3.pets.default.svc.Z. A 10.244.0.3"},
		"of IPv6 too":                                               {"fd00--5.pets.default.svc.Z AAAA", "NOERROR fd00--5.pets.default.svc.Z. AAAA fd00::5"},
		"an endpoint with hostname is not":                          {"10-244-0-1.pets.default.svc.Z A", none},
		"an address that is no endpoint is not":                     {"10-244-0-200.pets.default.svc.Z A", none},
		"a Service with an address has endpoints too":               {"10-244-0-21.web.default.svc.Z A", "NOERROR 10-244-0-21.web.default.svc.Z. A 10.244.0.21"},
		"by hostname":                                               {"front.web.default.svc.Z A", "NOERROR front.web.default.svc.Z. A 10.244.0.22"},
		"a Service without ports has none":                          {"six.default.svc.Z SRV", no},
		"and with ports":                                            {"front.web.default.svc.Z SRV", "NOERROR front.web.default.svc.Z. SRV 0 50 7000 front.web.default.svc.Z., front.web.default.svc.Z. SRV 0 50 9 front.web.default.svc.Z. | front.web.default.svc.Z. A 10.244.0.22"},
		"of which those that are not ready are not found":           {"10-244-0-23.web.default.svc.Z A", none},
		"nor others":                                                {"10-244-0-1.web.default.svc.Z A", none},
		"and their addresses have no names":                         {"21.0.244.10.in-addr.arpa PTR", "NXDOMAIN | SOA 244.10.in-addr.arpa."},
		"each endpoint has a port":                                  {"_peer._tcp.pets.default.svc.Z SRV", "NOERROR _peer._tcp.pets.default.svc.Z. SRV 0 20 7000 10-244-0-3.pets.default.svc.Z., _peer._tcp.pets.default.svc.Z. SRV 0 20 7000 fd00--5.pets.default.svc.Z., _peer._tcp.pets.default.svc.Z. SRV 0 20 7000 pet-0.pets.default.svc.Z., _peer._tcp.pets.default.svc.Z. SRV 0 20 7000 pet-1.pets.default.svc.Z., _peer._tcp.pets.default.svc.Z. SRV 0 20 7000 pet-1.pets.default.svc.Z. | 10-244-0-3.pets.default.svc.Z. A 10.244.0.3, fd00--5.pets.default.svc.Z. AAAA fd00::5, pet-0.pets.default.svc.Z. A 10.244.0.1, pet-1.pets.default.svc.Z. A 10.244.0.2, pet-1.pets.default.svc.Z. A 10.244.0.4"},
		"one endpoint has ports":                                    {"pet-0.pets.default.svc.Z SRV", "NOERROR pet-0.pets.default.svc.Z. SRV 0 50 7000 pet-0.pets.default.svc.Z., pet-0.pets.default.svc.Z. SRV 0 50 9 pet-0.pets.default.svc.Z. | pet-0.pets.default.svc.Z. A 10.244.0.1"},
		"an endpoint's address has its hostname":                    {"1.0.244.10.in-addr.arpa PTR", "NOERROR 1.0.244.10.in-addr.arpa. PTR pet-0.pets.default.svc.Z."},
		"an endpoint's address without hostname has itself as name": {"3.0.244.10.in-addr.arpa PTR", "NOERROR 3.0.244.10.in-addr.arpa. PTR 10-244-0-3.pets.default.svc.Z."},
		"an endpoint outside the ranges has its name":               {"77.2.0.192.in-addr.arpa PTR", "NOERROR 77.2.0.192.in-addr.arpa. PTR far.abroad.default.svc.Z."},
		"and nothing else":                                          {"77.2.0.192.in-addr.arpa A", "NOERROR | SOA 77.2.0.192.in-addr.arpa."},
		"an address that is not ready has no name":                  {"9.0.244.10.in-addr.arpa PTR", "NXDOMAIN | SOA 244.10.in-addr.arpa."},
		"an unused address of the Services' range has no name":      {"1.2.111.10.in-addr.arpa PTR", "NXDOMAIN | SOA 111.10.in-addr.arpa."},
		"an unused address of IPv6 has no name":                     {"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa PTR", "NXDOMAIN | SOA 0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa."},
		"a used address has nothing but its name":                   {"1.0.96.10.in-addr.arpa A", "NOERROR | SOA 96.10.in-addr.arpa."},
		"half an address has nothing":                               {"0.96.10.in-addr.arpa PTR", "NOERROR | SOA 96.10.in-addr.arpa."},
		"the range itself has nothing":                              {"244.10.in-addr.arpa PTR", "NOERROR | SOA 244.10.in-addr.arpa."},
		"below an address is nothing":                               {"x.1.0.96.10.in-addr.arpa PTR", "NXDOMAIN | SOA 96.10.in-addr.arpa."},
		"what is no number is not asked of others":                  {"x.0.96.10.in-addr.arpa PTR", "NXDOMAIN | SOA 96.10.in-addr.arpa."},
		"an ExternalName is another name":                           {"inner.default.svc.Z A", "NOERROR inner.default.svc.Z. CNAME web.default.svc.Z., web.default.svc.Z. A 10.96.0.1"},
		"whatever is asked":                                         {"inner.default.svc.Z AAAA", "NOERROR inner.default.svc.Z. CNAME web.default.svc.Z. | SOA Z."},
		"even its own":                                              {"outer.default.svc.Z CNAME", "NOERROR outer.default.svc.Z. CNAME www.example.com."},
		"an ExternalName may lead to another":                       {"twice.default.svc.Z A", "NOERROR inner.default.svc.Z. CNAME web.default.svc.Z., twice.default.svc.Z. CNAME inner.default.svc.Z., web.default.svc.Z. A 10.96.0.1"},
		"an ExternalName may lead nowhere":                          {"nowhere.default.svc.Z A", "NXDOMAIN nowhere.default.svc.Z. CNAME none.default.svc.Z. | SOA Z."},
		"an ExternalName may lead to a reverse name":                {"back.default.svc.Z PTR", "NOERROR 1.0.96.10.in-addr.arpa. PTR web.default.svc.Z., back.default.svc.Z. CNAME 1.0.96.10.in-addr.arpa."},
		"even one of nothing":                                       {"aback.default.svc.Z PTR", "NXDOMAIN aback.default.svc.Z. CNAME 8.0.96.10.in-addr.arpa. | SOA 96.10.in-addr.arpa."},
		"an address is no ExternalName":                             {"number.default.svc.Z A", none},
		"a pod's address stands in its name":                        {"10-1-2-3.default.pod.Z A", "NOERROR 10-1-2-3.default.pod.Z. A 10.1.2.3"},
		"of IPv6 too, which IPv4 has not":                           {"fd00--1.default.pod.Z A", no},
		"of IPv6 it is found":                                       {"fd00--1.default.pod.Z AAAA", "NOERROR fd00--1.default.pod.Z. AAAA fd00::1"},
		"a pod's name is an address":                                {"10-1-2.default.pod.Z A", none},
		"a pod's name needs its namespace":                          {"10-1-2-3.gone.pod.Z A", none},
		"nothing is below a pod":                                    {"x.10-1-2-3.default.pod.Z A", none},
		"the zone begins":                                           {"Z NS", "NOERROR Z. NS ns.dns.Z."},
		"the zone itself has no address":                            {"Z A", no},
		"svc has nothing but names below":                           {"svc.Z A", no},
		"pod has nothing but names below":                           {"pod.Z A", no},
		"dns has nothing but a name below":                          {"dns.Z A", no},
		"a namespace has nothing but names below":                   {"default.svc.Z A", no},
		"an empty namespace has nothing":                            {"empty.svc.Z A", no},
		"a namespace of pods has nothing but names below":           {"empty.pod.Z A", no},
		"a namespace that is not there":                             {"gone.svc.Z A", none},
		"a Service of a namespace that is not there":                {"web.gone.svc.Z A", none},
		"a Service that is not there":                               {"wob.default.svc.Z A", none},
		"there are no wildcards":                                    {"*.default.svc.Z A", none},
		"nor for namespaces":                                        {"web.*.svc.Z A", none},
		"nor for ports":                                             {"_*._tcp.web.default.svc.Z SRV", none},
		"what a search list makes of an outside name":               {"example.com.default.svc.Z A", none},
		"and its second try":                                        {"example.com.svc.Z A", none},
		"and its third":                                             {"example.com.Z A", none},
		"the question for everything has a small answer":            {"web.default.svc.Z ANY", `NOERROR web.default.svc.Z. HINFO "RFC8482" ""`},
		"about nothing it has none":                                 {"wob.default.svc.Z ANY", none},
		"a type that nobody has":                                    {"web.default.svc.Z HTTPS", no},
	} {
		t.Run(name, func(t *testing.T) {
			asks, kind, _ := strings.Cut(strings.ReplaceAll(c.question, "Z", "cluster.local"), " ")
			want := strings.ReplaceAll(c.want, "Z.", "cluster.local.")
			for _, tcp := range []bool{true, false} {
				m := question(asks, kind).SetEdns0(1232, false)
				got := asked(t, s, m, tcp)
				if text := said(got); text != want {
					t.Errorf("\n got %s\nwant %s", text, want)
				}
				if !got.Authoritative || !got.Response || got.Truncated || !got.RecursionAvailable || !got.RecursionDesired || got.Id != m.Id {
					t.Errorf("header: %v", got.MsgHdr)
				}
			}
			if got := said(asked(t, s, question(strings.ToUpper(asks), kind), true)); !strings.EqualFold(got, want) {
				t.Errorf("in capitals: %s", got)
			}
		})
	}
}
