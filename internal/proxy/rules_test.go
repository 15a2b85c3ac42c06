package proxy

import (
	"net/netip"
	"testing"

	"sampan.dev/internal/nft"
)

// TestRules asks the rules where packets go.
func TestRules(t *testing.T) {
	for name, s := range scenes() {
		t.Run(name, func(t *testing.T) {
			p, err := programFor(s.pairs)
			if err != nil {
				t.Fatal(err)
			}
			table, err := p.table()
			if err != nil {
				t.Fatal(err)
			}
			kernel := &nft.Fake{Local: []netip.Addr{nodeAddr, gateway}}
			if err := kernel.Replace(t.Context(), table); err != nil {
				t.Fatal(err)
			}
			for name, try := range s.tries {
				t.Run(name, func(t *testing.T) {
					for range 8 {
						if end, as := ask(kernel, try); end != "" {
							if err := try.allows(end, as); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
		})
	}
}

// ask sends the first packet of a connection through the rules; end is empty where other rules than these decide.
func ask(kernel *nft.Fake, t try) (end, as string) {
	to := netip.MustParseAddrPort(t.to)
	packet := nft.Packet{In: "sampan-0a1b2c3d", Out: "sampan-0a1b2c3d", From: places[t.from], To: to.Addr(), Proto: t.protocol(), Port: to.Port()}
	switch t.from {
	case "outside":
		packet.In = "eth0"
	case "node", "localhost":
		packet.In = ""
	}
	v := kernel.Trace(packet)
	if v.Fate == "accept" && v.To == to.Addr() && packet.In != "" { // not translated: it is for this node, or for nobody
		packet.Out = ""
		v = kernel.Trace(packet)
	}
	switch v.Fate {
	case "drop":
		return "dropped", ""
	case "reject":
		return "refused", ""
	}
	if v.To == to.Addr() {
		if called(v.To) == "node" {
			return "node", t.from
		}
		return "", ""
	}
	if !v.Masquerade {
		return called(v.To), t.from
	}
	if v.To == podFar {
		return called(v.To), "node"
	}
	return called(v.To), "gateway"
}
