package network

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

func open(t *testing.T, dir, cidr string) *ipam {
	t.Helper()
	p, err := openIPAM(leasePath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if cidr != "" {
		if err := p.setCIDR(netip.MustParsePrefix(cidr), netip.Prefix{}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func take(t *testing.T, p *ipam, owner, want string) {
	t.Helper()
	got, err := p.take(owner)
	if err != nil || got.String() != want {
		t.Fatalf("take for %s: got %v, %v; want %s", owner, got, err, want)
	}
}

func TestAddressesAreGivenOutLeastRecentlyUsedFirst(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, "10.1.0.0/29") // .0 network, .1 gateway, .2 to .6 for pods, .7 broadcast
	take(t, p, "a", "10.1.0.2/29")
	take(t, p, "a", "10.1.0.2/29") // the one it has
	take(t, p, "b", "10.1.0.3/29")
	take(t, p, "c", "10.1.0.4/29")
	for _, owner := range []string{"b", "a"} {
		if err := p.release(owner); err != nil {
			t.Fatal(err)
		}
	}
	take(t, p, "d", "10.1.0.5/29") // never used goes first
	p = open(t, dir, "")           // as after a restart
	take(t, p, "e", "10.1.0.6/29")
	take(t, p, "f", "10.1.0.3/29") // released first
	take(t, p, "g", "10.1.0.2/29")
	if got, err := p.take("h"); err == nil {
		t.Fatalf("more than five pods in a /29: %v", got)
	}
	if err := p.keep([]string{"a", "c", "d", "e", "g"}); err != nil {
		t.Fatal(err)
	}
	take(t, p, "h", "10.1.0.3/29") // f is no more
}

func TestNoAddressBeforeThereIsARange(t *testing.T) {
	if _, err := open(t, t.TempDir(), "").take("a"); !errors.Is(err, ErrNoRange) {
		t.Fatalf("got %v", err)
	}
}

func TestATornFileIsAnEmptyOne(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(leasePath(dir), []byte(`{"cidr":"10.1.0.0/2`), 0o600); err != nil {
		t.Fatal(err)
	}
	take(t, open(t, dir, "10.2.0.0/24"), "a", "10.2.0.2/24")
}

func TestPodsKeepAddressesOfAnEarlierRange(t *testing.T) {
	p := open(t, t.TempDir(), "10.1.0.0/24")
	take(t, p, "a", "10.1.0.2/24")
	if err := p.setCIDR(netip.MustParsePrefix("10.2.0.0/24"), netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	take(t, p, "b", "10.2.0.2/24")
	if err := p.release("a"); err != nil {
		t.Fatal(err)
	}
	if len(p.state.Used) != 1 {
		t.Fatalf("an address of the earlier range is still known: %v", p.state.Used)
	}
}

func TestParseCIDR(t *testing.T) {
	for text, want := range map[string]string{
		"10.244.3.0/24": "10.244.3.0/24", "10.244.3.7/24": "10.244.3.0/24", "fd00::/64,10.1.0.0/16": "10.1.0.0/16 fd00::/64", "10.1.0.0/16, fd00::7/64": "10.1.0.0/16 fd00::/64",
		"10.1.0.0/24,fd00::/120": "10.1.0.0/24 fd00::/120", "10.1.0.0/24,fd00::/121": "", "10.1.0.0/24,10.2.0.0/24": "", "10.1.0.0/24,fd00::/64,fd01::/64": "",
		"fd00::/64": "", "10.0.0.0/31": "", "nonsense": "", "": "", "10.1.0.0/24,": "",
	} {
		r, err := ParseCIDR(text)
		got := ""
		if r.IPv4.IsValid() {
			got = r.IPv4.String()
		}
		if r.IPv6.IsValid() {
			got += " " + r.IPv6.String()
		}
		if (err == nil) != (want != "") || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestTheAddressBeside(t *testing.T) {
	p := open(t, t.TempDir(), "")
	for cidr6, cases := range map[string]map[string]string{
		"fd00:1::/64":         {"10.1.0.2": "fd00:1::2", "10.1.1.7": "fd00:1::107", "10.2.0.2": ""},
		"fd00::1:0:0:0/120":   {"10.1.0.2": "fd00:0:0:0:1::2"},
		"fd00::ffff:ff00/120": {"10.1.0.9": "fd00::ffff:ff09"},
	} {
		if err := p.setCIDR(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix(cidr6)); err != nil {
			t.Fatal(err)
		}
		for a, want := range cases {
			got, has := p.beside(netip.MustParseAddr(a))
			if has != (want != "") || has && got != netip.MustParseAddr(want) {
				t.Errorf("beside %s in %s: %v, %v; want %s", a, cidr6, got, has, want)
			}
		}
	}
	if err := p.setCIDR(netip.MustParsePrefix("10.1.0.0/16"), netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	if got, has := p.beside(netip.MustParseAddr("10.1.0.2")); has {
		t.Errorf("without a range: %v", got)
	}
}
