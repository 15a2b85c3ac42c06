package loadbalancer

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestParsePools(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		" \n, ":                              "",
		"10.0.0.7":                           "10.0.0.7",
		"10.0.0.100-10.0.0.120":              "10.0.0.100-10.0.0.120",
		"10.0.0.100 - 10.0.0.120":            "10.0.0.100-10.0.0.120",
		"10.0.0.128/25":                      "10.0.0.128-10.0.0.255",
		"fd00::/126, 10.0.0.0/31":            "fd00::-fd00::3,10.0.0.0-10.0.0.1",
		"10.0.0.1 # the printer's\n10.0.0.3": "10.0.0.1,10.0.0.3",
	} {
		p, err := ParsePools(text)
		if err != nil || p.String() != want {
			t.Errorf("%q is %q (%v), want %q", text, p, err, want)
		}
	}
	for text, want := range map[string]string{
		"printer":                     `load balancer pool "printer": not an address, a range FROM-TO or a prefix ADDRESS/BITS`,
		"10.0.0.1-":                   `load balancer pool "10.0.0.1-": not an address`,
		"10.0.0.1/33":                 `not an address, a range`,
		"10.0.0.130/25":               `write 10.0.0.128/25`,
		"10.0.0.9-10.0.0.1":           `it ends before it begins: write 10.0.0.1-10.0.0.9`,
		"10.0.0.9-fd00::1":            `different families`,
		"127.0.0.1":                   `nobody could send packets there`,
		"fe80::/64":                   `nobody could send packets there`,
		"224.0.0.0/4":                 `nobody could send packets there`,
		"fe80::1%eth0":                `write the address plainly`,
		"::ffff:10.0.0.1":             `write the address plainly`,
		"10.0.0.0/24,10.0.0.7":        `load balancer pool "10.0.0.7": it overlaps with 10.0.0.0-10.0.0.255`,
		"10.0.0.7\n10.0.0.1-10.0.1.1": `overlaps with 10.0.0.7`,
	} {
		if _, err := ParsePools(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is refused by %v, want %q", text, err, want)
		}
	}
}

func FuzzParsePools(f *testing.F) {
	f.Add("10.0.0.1-10.0.0.9, fd00::/64 # x\n10.1.0.0/16")
	f.Add("0.0.0.1-255.255.255.254")
	f.Fuzz(func(t *testing.T, text string) {
		pools, err := ParsePools(text)
		if err != nil {
			return
		}
		again, err := ParsePools(pools.String())
		if err != nil || again.String() != pools.String() {
			t.Errorf("%q is %v, which is read as %v (%v)", text, pools, again, err)
		}
		for _, r := range pools {
			if !pools.Contains(r.From) || !pools.Contains(r.To) || r.To.Less(r.From) {
				t.Errorf("%q has the range %v", text, r)
			}
		}
	})
}

func TestSettings(t *testing.T) {
	flags := Config{Pools: Pools{{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")}}, Announce: true}
	for _, c := range []struct {
		name     string
		data     map[string]string
		pools    string
		announce bool
		err      string
	}{
		{"what is not said stays", map[string]string{}, "10.0.0.1-10.0.0.9", true, ""},
		{"pools are others", map[string]string{"pools": "10.1.0.0/30\n"}, "10.1.0.0-10.1.0.3", true, ""},
		{"there are no pools", map[string]string{"pools": ""}, "", true, ""},
		{"nothing is announced", map[string]string{"announce": "none\n"}, "10.0.0.1-10.0.0.9", false, ""},
		{"a pool cannot be read", map[string]string{"pools": "x", "announce": "none"}, "", false, `key "pools": load balancer pool "x"`},
		{"nobody knows that way to announce", map[string]string{"announce": "bgp", "pools": "10.1.0.1"}, "", false, `key "announce": "bgp" is neither "arp" nor "none"`},
		{"a key is misspelt", map[string]string{"pool": "10.1.0.1"}, "", false, `key "pool": there are only "pools" and "announce"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := flags.WithMap(&corev1.ConfigMap{Data: c.data})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if err == nil && (got.Pools.String() != c.pools || got.Announce != c.announce) {
				t.Errorf("got %v, want %s %v", got, c.pools, c.announce)
			}
		})
	}
}
