package announce

import (
	"net/netip"
	"reflect"
	"testing"
)

var (
	mac1, mac2 = MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	none       netip.Addr
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestWhatIsSentIsHeard(t *testing.T) {
	ll, vip := ip("fe80::1"), ip("fd00::9")
	group := solicitedNode(vip)
	for _, c := range []struct {
		name   string
		v6     bool
		packet []byte
		want   Heard
	}{
		{"an ARP request", false, encodeARP(arpRequest, mac1, ip("10.0.0.1"), MAC{}, ip("10.0.0.9")), Heard{ip("10.0.0.9"), ip("10.0.0.1"), ip("10.0.0.1"), mac1}},
		{"an ARP probe claims nothing", false, encodeARP(arpRequest, mac1, ip("0.0.0.0"), MAC{}, ip("10.0.0.9")), Heard{ip("10.0.0.9"), none, ip("0.0.0.0"), mac1}},
		{"a gratuitous request asks nobody", false, encodeARP(arpRequest, mac1, ip("10.0.0.9"), MAC{}, ip("10.0.0.9")), Heard{none, ip("10.0.0.9"), ip("10.0.0.9"), mac1}},
		{"an ARP reply", false, encodeARP(arpReply, mac1, ip("10.0.0.9"), mac2, ip("10.0.0.1")), Heard{none, ip("10.0.0.9"), ip("10.0.0.9"), mac1}},
		{"a padded ARP reply", false, append(encodeARP(arpReply, mac1, ip("10.0.0.9"), mac2, ip("10.0.0.1")), make([]byte, 18)...), Heard{none, ip("10.0.0.9"), ip("10.0.0.9"), mac1}},
		{"a solicitation", true, encodeND(ndSolicit, 0, ll, group, vip, optSource, mac1), Heard{vip, none, ll, mac1}},
		{"one by who has no address yet", true, encodeND(ndSolicit, 0, ip("::"), group, vip, 0, MAC{}), Heard{vip, none, ip("::"), mac2}},
		{"an advertisement", true, encodeND(ndAdvert, flagInsist, ll, allNodes, vip, optTarget, mac1), Heard{none, vip, ll, mac1}},
		{"an advertisement that does not name the card", true, encodeND(ndAdvert, flagInsist, ll, allNodes, vip, 0, MAC{}), Heard{none, vip, ll, mac2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := decode(c.v6, c.packet)
			if !ok || !reflect.DeepEqual(got, c.want) {
				t.Errorf("heard %+v (%v), want %+v", got, ok, c.want)
			}
			for n := range len(c.packet) {
				if n >= arpLen && !c.v6 {
					break
				}
				if _, ok := decode(c.v6, c.packet[:n]); ok {
					t.Errorf("the first %d bytes are taken for all", n)
				}
			}
		})
	}
}

func decode(v6 bool, b []byte) (Heard, bool) {
	if v6 {
		return decodeND(b, mac2)
	}
	return decodeARP(b)
}

func TestWhatComesFromElsewhereIsNotHeard(t *testing.T) {
	good := encodeND(ndSolicit, 0, ip("fe80::1"), solicitedNode(ip("fd00::9")), ip("fd00::9"), optSource, mac1)
	for what, at := range map[string]int{"hop limit": 7, "protocol": 6, "checksum": 42, "code": 41, "target": 60, "option length": 65} {
		b := append([]byte(nil), good...)
		b[at] ^= 1
		if h, ok := decodeND(b, mac2); ok {
			t.Errorf("with another %s it is heard: %+v", what, h)
		}
	}
	arp := encodeARP(arpRequest, mac1, ip("10.0.0.1"), MAC{}, ip("10.0.0.9"))
	for what, at := range map[string]int{"hardware": 1, "protocol": 2, "length": 5, "operation": 6} {
		b := append([]byte(nil), arp...)
		b[at] ^= 4
		if h, ok := decodeARP(b); ok {
			t.Errorf("with another %s it is heard: %+v", what, h)
		}
	}
}

func TestSolicitedNode(t *testing.T) {
	if g := solicitedNode(ip("fd00::12:3456:789a")); g != ip("ff02::1:ff56:789a") || groupMAC(g) != (MAC{0x33, 0x33, 0xff, 0x56, 0x78, 0x9a}) {
		t.Errorf("group %s at %s", g, groupMAC(g))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(false, encodeARP(arpRequest, mac1, ip("10.0.0.1"), MAC{}, ip("10.0.0.9")))
	f.Add(true, encodeND(ndSolicit, 0, ip("fe80::1"), solicitedNode(ip("fd00::9")), ip("fd00::9"), optSource, mac1))
	f.Add(true, encodeND(ndAdvert, flagInsist, ip("fe80::1"), allNodes, ip("fd00::9"), optTarget, mac1))
	f.Fuzz(func(t *testing.T, v6 bool, b []byte) {
		h, ok := decode(v6, b)
		if !ok {
			return
		}
		if !h.Asked.IsValid() && !h.Claimed.IsValid() && !h.From.IsUnspecified() {
			t.Errorf("%x says nothing: %+v", b, h)
		}
		for _, a := range []netip.Addr{h.Asked, h.Claimed} {
			if a.IsValid() && a.Is6() != v6 {
				t.Errorf("%x is of the other family: %+v", b, h)
			}
		}
	})
}
