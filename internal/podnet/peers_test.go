package podnet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func prefixes(text string) (all []netip.Prefix) {
	for p := range strings.FieldsSeq(text) {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func addrs(text string) (all []netip.Addr) {
	for a := range strings.FieldsSeq(text) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestThePathToAnotherNode(t *testing.T) {
	direct := func(a netip.Addr) int { // 192.0.2.0/24 and fd01::/64 are on link 7
		for _, p := range prefixes("192.0.2.0/24 fd01::/64") {
			if p.Contains(a) {
				return 7
			}
		}
		return 0
	}
	for name, c := range map[string]struct {
		peers []Peer
		want  string
	}{
		"nobody else":              {nil, ""},
		"a node on the same link":  {[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.244.1.0/24")}}, "10.244.1.0/24 via 192.0.2.2 on 7"},
		"a node behind a router":   {[]Peer{{"b", addrs("198.51.100.2"), prefixes("10.244.1.0/24")}}, "10.244.1.0/24 via 10.244.1.0 within 198.51.100.2 to 0a:59:0a:f4:01:00"},
		"a node without a range":   {[]Peer{{"b", addrs("192.0.2.2"), nil}}, ""},
		"a node without addresses": {[]Peer{{"b", nil, prefixes("10.244.1.0/24")}}, ""},
		"a node of both families": {
			[]Peer{{"b", addrs("192.0.2.2 fd01::2"), prefixes("10.244.1.0/24 fd00:10:244:1::/64")}},
			"10.244.1.0/24 via 192.0.2.2 on 7, fd00:10:244:1::/64 via fd01::2 on 7",
		},
		"IPv6 pods of a node without an IPv6 address go within IPv4": {
			[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.244.1.0/24 fd00:10:244:1::/64")}},
			"10.244.1.0/24 via 192.0.2.2 on 7, fd00:10:244:1::/64 via fd00:10:244:1:: within 192.0.2.2 to 0a:59:0a:f4:01:00",
		},
		"of two nodes that claim one range the first has it": {
			[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.244.1.0/24")}, {"c", addrs("192.0.2.3"), prefixes("10.244.1.0/24")}}, "10.244.1.0/24 via 192.0.2.2 on 7",
		},
		"a node that claims this one's range":         {[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.244.0.0/24")}}, ""},
		"a node that claims some of this one's range": {[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.244.0.64/26")}}, ""},
		"a node that claims a range that is no pods'": {[]Peer{{"b", addrs("192.0.2.2"), prefixes("8.8.8.0/24 10.96.0.0/16")}}, ""},
		"a node that claims more than there is":       {[]Peer{{"b", addrs("192.0.2.2"), prefixes("10.0.0.0/8 0.0.0.0/0")}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range dual().plan(c.peers, direct) {
				s := fmt.Sprintf("%s via %s", p.Range, p.Via)
				if p.Tunnel.IsValid() {
					s += fmt.Sprintf(" within %s to %s", p.Tunnel, p.MAC)
				} else {
					s += fmt.Sprintf(" on %d", p.Link)
				}
				got = append(got, s)
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

func TestPeersComeAndGo(t *testing.T) {
	ownNetwork(t)
	ctx := context.Background()
	n, err := Up(ctx, config())
	if err != nil {
		t.Fatal(err)
	}
	before, links := ip(t, "route show"), linkNames(t)
	near := Peer{"near", addrs("192.0.2.2"), prefixes("10.244.1.0/24")}
	far := Peer{"far", addrs("198.51.100.2"), prefixes("10.244.2.0/24")}
	set := func(peers ...Peer) {
		t.Helper()
		for range 2 { // repeating changes nothing
			if err := n.SetPeers(ctx, peers); err != nil {
				t.Fatal(err)
			}
		}
	}
	has := func(command, want string) {
		t.Helper()
		if out := ip(t, command); !strings.Contains(out, want) {
			t.Errorf("`ip %s` has no %q:\n%s", command, want, out)
		}
	}
	set(near, far)
	has("route get 10.244.1.9", "via 192.0.2.2 dev world src 192.0.2.1")
	has("route get 10.244.2.9", "via 10.244.2.0 dev spvx-0a1b2c3d src 10.244.0.1")
	has("neigh show dev spvx-0a1b2c3d", "10.244.2.0 lladdr 0a:59:0a:f4:02:00 PERMANENT")
	has("-d link show spvx-0a1b2c3d", "mtu 1450")
	has("addr show dev spvx-0a1b2c3d", "inet 10.244.0.1/32") // what is masqueraded there leaves with it
	if out, err := exec.Command("bridge", "fdb", "show", "dev", "spvx-0a1b2c3d").CombinedOutput(); err != nil || !strings.Contains(string(out), "0a:59:0a:f4:02:00 dst 198.51.100.2 self permanent") {
		t.Errorf("the tunnel's table: %s %v", out, err)
	}
	if out, err := exec.Command("ip", "route", "get", "10.244.3.9").CombinedOutput(); err == nil {
		t.Errorf("an address of no node has a route: %s", out)
	}
	// An agent that starts again finds its own routes, and takes them for nobody else's.
	if n, err = Up(ctx, config()); err != nil {
		t.Fatal(err)
	}
	far.Addresses = addrs("198.51.100.7")
	set(near, far)
	if out, err := exec.Command("bridge", "fdb", "show", "dev", "spvx-0a1b2c3d").CombinedOutput(); err != nil || !strings.Contains(string(out), "dst 198.51.100.7") || strings.Contains(string(out), "198.51.100.2") {
		t.Errorf("a node's new address: %s %v", out, err)
	}
	near.Ranges = prefixes("10.244.5.0/24")
	set(near)
	has("route get 10.244.5.9", "via 192.0.2.2")
	if out := ip(t, "route show"); strings.Contains(out, "10.244.1.0") || strings.Contains(out, "10.244.2.0") {
		t.Errorf("routes of before:\n%s", out)
	}
	localnet := func(want string) {
		t.Helper()
		if v, err := os.ReadFile("/proc/sys/net/ipv4/conf/world/route_localnet"); err != nil || strings.TrimSpace(string(v)) != want {
			t.Errorf("route_localnet of the link is %s (%v), want %s", v, err, want)
		}
	}
	localnet("1")
	set()
	localnet("0")
	if out := ip(t, "route show"); out != before {
		t.Errorf("routes before:\n%s\nand after:\n%s", before, out)
	}
	if out := linkNames(t); out != links {
		t.Errorf("links before:\n%s\nand after:\n%s", links, out)
	}
	set(near, far)
	if err := Down(ctx, config()); err != nil {
		t.Fatal(err)
	}
	localnet("0")
	if out := ip(t, "route show") + ip(t, "link show"); strings.Contains(out, "10.244.") || strings.Contains(out, "spvx") {
		t.Errorf("left behind:\n%s", out)
	}
}

// A machine that moves to another link has its new address at once, and its way out only later.
func TestANewWayOutIsToldOf(t *testing.T) {
	ownNetwork(t)
	n, err := Up(context.Background(), config())
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mover sync.WaitGroup
	mover.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread dies in its namespace
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		for i := 0; ctx.Err() == nil; i++ { // until the other side has begun to listen
			if out, err := exec.Command("ip", "route", "replace", "default", "via", fmt.Sprintf("192.0.2.%d", 250+i%2)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
		}
	})
	told := false
	err = n.OnLinks(ctx, func() {
		told = true
		cancel()
	})
	mover.Wait()
	if err != nil || !told {
		t.Errorf("nobody was told: %v", err)
	}
}
