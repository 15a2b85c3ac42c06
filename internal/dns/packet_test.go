package dns

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	upstream "github.com/miekg/dns"
	discovery "k8s.io/api/discovery/v1"
)

func TestTheZonesFirstRecord(t *testing.T) {
	s := cluster(t, func(c *Config) { c.Domain, c.TTL = "Example.ORG.", 30 })
	got := asked(t, s, question("example.org", "SOA"), false)
	const want = "example.org.\t30\tIN\tSOA\tns.dns.example.org. hostmaster.example.org. 1 7200 1800 86400 30"
	if len(got.Answer) != 1 || got.Answer[0].String() != want {
		t.Errorf("asked for: %v", got.Answer)
	}
	got = asked(t, s, question("no.example.org", "A"), false)
	if got.Rcode != upstream.RcodeNameError || len(got.Answer) != 0 || len(got.Ns) != 1 || got.Ns[0].String() != want {
		t.Errorf("beside a no: %v", got)
	}
}

func TestPacketsThatAreNoPlainQuestion(t *testing.T) {
	s := cluster(t, nil) // who is asked for outside names is nobody: they fail
	good, err := question("web.default.svc.cluster.local", "A").Pack()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(b []byte) []byte) []byte { return change(append([]byte(nil), good...)) }
	put := func(at int, v uint16) []byte {
		return with(func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b })
	}
	edns := func(n int, change func(*upstream.OPT)) []byte {
		m := question("web.default.svc.cluster.local", "A")
		for range n {
			o := &upstream.OPT{Hdr: upstream.RR_Header{Name: ".", Rrtype: typeOPT, Class: 1232}}
			change(o)
			m.Extra = append(m.Extra, o)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		packet []byte
		want   string
	}{
		"nothing":                            {nil, "nothing"},
		"a number alone":                     {good[:2], "nothing"},
		"half a number of flags":             {good[:3], "nothing"},
		"half a header":                      {good[:8], "FORMERR"},
		"half a response's header":           {put(2, 0x8000)[:8], "nothing"},
		"a header alone":                     {good[:12], "FORMERR"},
		"half a name":                        {good[:20], "FORMERR"},
		"half a type":                        {good[:len(good)-3], "FORMERR"},
		"a response":                         {put(2, 0x8180), "nothing"},
		"another operation":                  {put(2, 0x2900), "NOTIMP"},
		"a notification":                     {put(2, 4<<11), "NOTIMP"},
		"no question":                        {put(4, 0), "FORMERR"},
		"two questions":                      {put(4, 2), "FORMERR"},
		"an answer in a question":            {put(6, 1), "FORMERR"},
		"authority in a question":            {put(8, 1), "FORMERR"},
		"an extension that is not there":     {put(10, 1), "FORMERR"},
		"a name that points to itself":       {with(func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), "FORMERR"},
		"a label of a kind that is no more":  {with(func(b []byte) []byte { b[12] = 0x41; return b }), "FORMERR"},
		"a name that is too long":            {append(append(good[:12:12], []byte(strings.Repeat("\x01a", 128))...), 0, 0, 1, 0, 1), "FORMERR"},
		"a name that is as long as can be":   {append(append(good[:12:12], []byte(strings.Repeat("\x01a", 120)+"\x0dcluster.local")...), 0, 0, 1, 0, 1), "SERVFAIL"},
		"a label that looks like the domain": {append(good[:12:12], "\x09x\x07cluster\x05local\x00\x00\x01\x00\x01"...), "SERVFAIL"},
		"a longer name with such a label":    {append(good[:12:12], "\x03web\x09x\x07cluster\x05local\x00\x00\x01\x00\x01"...), "SERVFAIL"},
		"a label that looks like an address": {append(good[:12:12], "\x0212\x0210\x09x\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"...), "SERVFAIL"},
		"the class of old machines":          {put(len(good)-2, 3), "REFUSED"},
		"any class":                          {put(len(good)-2, 255), "REFUSED"},
		"a transfer":                         {put(len(good)-4, typeAXFR), "REFUSED"},
		"a small transfer with its state":    {with(func(b []byte) []byte { b[len(b)-3], b[9] = typeIXFR, 1; return b }), "REFUSED"},
		"a type that is none":                {put(len(good)-4, 0), "FORMERR"},
		"the extension asked for":            {put(len(good)-4, typeOPT), "FORMERR"},
		"an operation as type":               {put(len(good)-4, 250), "NOTIMP"},
		"one extension":                      {edns(1, func(*upstream.OPT) {}), "NOERROR web.default.svc.cluster.local. A 10.96.0.1"},
		"an extension with what nobody asks": {edns(1, func(o *upstream.OPT) {
			o.Option = []upstream.EDNS0{&upstream.EDNS0_COOKIE{Code: 10, Cookie: "0011223344556677"}}
		}), "NOERROR web.default.svc.cluster.local. A 10.96.0.1"},
		"two extensions":               {edns(2, func(*upstream.OPT) {}), "FORMERR"},
		"an extension of some name":    {edns(1, func(o *upstream.OPT) { o.Hdr.Name = "a." }), "FORMERR"},
		"an extension of the future":   {edns(1, func(o *upstream.OPT) { o.SetVersion(1) }), "BADVERS"},
		"something behind the message": {append(good[:len(good):len(good)], "more"...), "NOERROR web.default.svc.cluster.local. A 10.96.0.1"},
	} {
		for _, tcp := range []bool{false, true} {
			got := read(t, raw(t, s, c.packet, tcp))
			text := said(got)
			if got != nil && got.IsEdns0() != nil && got.IsEdns0().ExtendedRcode()|got.Rcode == upstream.RcodeBadVers {
				text = "BADVERS"
			}
			if text != c.want {
				t.Errorf("%s: %s, want %s", name, text, c.want)
			}
			if got != nil && (got.Id != binary.BigEndian.Uint16(c.packet) || !got.Response) {
				t.Errorf("%s: header %v", name, got.MsgHdr)
			}
		}
	}
}

func TestTheExtensionIsAnsweredInKind(t *testing.T) {
	s := cluster(t, nil)
	for _, name := range []string{"web.default.svc.cluster.local", "none.cluster.local"} {
		if got := asked(t, s, question(name, "A"), false); got.IsEdns0() != nil {
			t.Errorf("%s: extended, but the question was not", name)
		}
		for _, do := range []bool{true, false} {
			got := asked(t, s, question(name, "A").SetEdns0(4096, do), false).IsEdns0()
			if got == nil || got.Do() != do || got.UDPSize() != 1232 || got.Version() != 0 {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

func TestTheQuestionComesBackAsItWasSpelled(t *testing.T) {
	s := cluster(t, nil)
	for _, name := range []string{"wEb.DeFault.sVc.cluSTer.LocaL.", "nO.Cluster.LOCAL.", "1.0.96.10.In-Addr.ARPA."} {
		got := asked(t, s, question(name, "A"), false)
		if got.Question[0].Name != name {
			t.Errorf("%s came back as %s", name, got.Question[0].Name)
		}
	}
}

// crowd is a headless Service with many endpoints.
func crowd(t testing.TB, s *Server, n int) {
	t.Helper()
	for i := range (n + 99) / 100 {
		sl := slice4(fmt.Sprint("crowd-", i), "crowd")
		for j := i * 100; j < min(n, i*100+100); j++ {
			sl.Endpoints = append(sl.Endpoints, endpointOf(netip.AddrFrom4([4]byte{10, 244, byte(j >> 8), byte(j)}).String(), "", nil))
		}
		s.SetSlice(sl)
	}
	s.SetService(service4("crowd", "None"))
}

func TestLargeAnswersAreCutByUDPAndWholeByTCP(t *testing.T) {
	s := cluster(t, nil)
	crowd(t, s, 1000)
	const name = "crowd.default.svc.cluster.local"
	for _, c := range []struct {
		kind string
		size uint16
		tcp  bool
		want int
	}{
		{"A", 0, false, 28}, // (512-12-37)/16
		{"A", 600, false, 33},
		{"A", 100, false, 28},
		{"A", 65535, false, 73},
		{"A", 0, true, 1000},
		{"SRV", 65535, true, 0}, // two thousand do not fit in any message
	} {
		m := question(name, c.kind)
		if c.size > 0 {
			m.SetEdns0(c.size, false)
		}
		b, _ := m.Pack()
		answer := raw(t, s, b, c.tcp)
		got := read(t, answer)
		if !c.tcp && (len(answer) > max(512, int(min(c.size, maxUDP))) || len(got.Answer) != c.want || !got.Truncated) {
			t.Errorf("%+v: %d answers in %d bytes, cut: %t", c, len(got.Answer), len(answer), got.Truncated)
		}
		if c.kind == "A" && c.tcp && (len(got.Answer) != c.want || got.Truncated) {
			t.Errorf("%+v: %d answers, cut: %t", c, len(got.Answer), got.Truncated)
		}
		if c.kind == "SRV" && (!got.Truncated || len(got.Answer) < 800 || len(answer) > 65535) {
			t.Errorf("%+v: %d answers, cut: %t", c, len(got.Answer), got.Truncated)
		}
		if (got.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("%+v: extended: %v", c, got.IsEdns0())
		}
	}
}

func TestEachEndpointIsFirstAsOftenAsTheOthers(t *testing.T) {
	s := cluster(t, nil)
	first := map[string]int{}
	for range 4000 {
		first[asked(t, s, question("pets.default.svc.cluster.local", "A"), false).Answer[0].String()]++
	}
	for name, n := range first {
		if len(first) != 4 || n < 800 || n > 1200 { // five times the deviation of a thousand
			t.Errorf("%s was first %d times of 4000", name, n)
		}
	}
}

func TestTheServersOwnName(t *testing.T) {
	s := cluster(t, nil)
	udp, _, stop := serving(t, s)
	if got := said(asked(t, s, question("ns.dns.cluster.local", "A"), false)); got != "NOERROR ns.dns.cluster.local. A 127.0.0.1" {
		t.Errorf("served at %s: %s", udp, got)
	}
	stop()
	if got := said(asked(t, s, question("ns.dns.cluster.local", "A"), false)); got != "NOERROR | SOA cluster.local." {
		t.Errorf("served nowhere: %s", got)
	}
}

// TestAnyHistoryLeadsToTheSameAnswers tells a server of things in any order, taken back and told again, and compares it with one that was
// told only how things are in the end.
func TestAnyHistoryLeadsToTheSameAnswers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		tried, fresh := New(Config{ClusterPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}), New(Config{ClusterPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		services, held, there := map[string]string{}, map[string]*discovery.EndpointSlice{}, false
		for range 60 {
			name := string(rune('a' + r.IntN(3)))
			switch r.IntN(6) {
			case 0, 1:
				ip := []string{"None", "10.96.0.1", "10.96.0.2", ""}[r.IntN(4)]
				services[name] = ip
				tried.SetService(service4(name, ip))
			case 2:
				delete(services, name)
				tried.DeleteService("default", name)
			case 3, 4:
				id := "s" + string(rune('a'+r.IntN(4)))
				sl := slice4(id, name)
				for range r.IntN(3) {
					sl.Endpoints = append(sl.Endpoints, endpointOf(fmt.Sprint("10.244.0.", r.IntN(4)), []string{"", "x", "y"}[r.IntN(3)], []*bool{nil, new(true), new(false)}[r.IntN(3)]))
				}
				held[id] = sl
				tried.SetSlice(sl)
			case 5:
				id := "s" + string(rune('a'+r.IntN(4)))
				delete(held, id)
				tried.DeleteSlice("default", id)
			}
			there = r.IntN(2) == 0
			tried.SetNamespace("default", there)
		}
		for name, ip := range services {
			fresh.SetService(service4(name, ip))
		}
		for _, sl := range held {
			fresh.SetSlice(sl)
		}
		fresh.SetNamespace("default", there)
		names := []string{"default.svc.cluster.local"}
		for _, name := range []string{"a", "b", "c"} {
			for _, host := range []string{"", "x.", "y.", "10-244-0-1.", "10-244-0-2.", "_peer._tcp."} {
				names = append(names, host+name+".default.svc.cluster.local")
			}
		}
		for _, ip := range []string{"1.0.96", "2.0.96", "0.0.244", "1.0.244", "2.0.244", "3.0.244"} {
			names = append(names, ip+".10.in-addr.arpa")
		}
		for _, name := range names {
			for _, kind := range []string{"A", "SRV", "PTR"} {
				got, want := said(asked(t, tried, question(name, kind), true)), said(asked(t, fresh, question(name, kind), true))
				if got != want {
					t.Fatalf("round %d, %s %s: %s, want %s", round, name, kind, got, want)
				}
			}
		}
		for id := range held {
			tried.DeleteSlice("default", id)
		}
		for name := range services {
			tried.DeleteService("default", name)
		}
		tried.SetNamespace("default", false)
		if n := len(tried.slices) + len(tried.of) + len(tried.services) + len(tried.namespaces) + len(tried.byIP) + len(tried.alsoByIP); n != 0 {
			t.Fatalf("round %d: %d things are left of nothing", round, n)
		}
	}
}

func FuzzPacket(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local", "1.0.96.10.in-addr.arpa", "example.com", "chain.default.svc.cluster.local", "cluster.local", "."} {
		for _, kind := range []string{"A", "SRV", "PTR", "ANY", "AXFR", "HINFO"} {
			m := question(name, kind)
			b, _ := m.Pack()
			f.Add(b, false)
			b, _ = m.SetEdns0(1232, true).Pack()
			f.Add(b, true)
		}
	}
	s := cluster(f, func(c *Config) { c.Dial = nil }) // with nobody to ask
	crowd(f, s, 300)
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		b := raw(t, s, packet, tcp)
		if b == nil {
			if len(packet) >= 4 && packet[2]&0x80 == 0 {
				t.Fatal("a question was not answered")
			}
			return
		}
		got := read(t, b)
		if len(packet) < 4 || packet[2]&0x80 != 0 {
			t.Fatal("a response was answered")
		}
		if !got.Response || got.Id != binary.BigEndian.Uint16(packet) || !tcp && len(b) > maxUDP || len(got.Question) > 1 {
			t.Fatalf("answered %v in %d bytes", got, len(b))
		}
		if len(got.Question) == 1 && string(b[headerSize:headerSize+5]) != string(packet[headerSize:headerSize+5]) {
			t.Fatal("the question came back spelled otherwise")
		}
	})
}

func FuzzAnswerOfAnother(f *testing.F) {
	good, _ := hosts("", question("www.example.com", "A"))[0].Pack()
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(upstream.Msg)
		asked := question("www.example.com", "A")
		asked.Id = 0
		if len(b) > 2 {
			b[0], b[1] = 0, 0
		}
		if m.Unpack(b) != nil || !answers(m, asked) {
			return
		}
		wire, _ := pack(m)
		if wire == nil {
			return
		}
		q := new(query)
		packet, _ := asked.Pack()
		q.parse(packet)
		read(t, answer{wire, 7}.appendTo(nil, q))
		read(t, answer{wire, 7}.behind(q, [][]byte{wireName("a.b")}, 5))
	})
}
