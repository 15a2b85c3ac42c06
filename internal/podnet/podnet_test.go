package podnet

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"sampan.dev/internal/nft"
)

func config() Config {
	return Config{
		ID: "0a1b2c3d", Pods: netip.MustParsePrefix("10.244.0.0/16"), Node: netip.MustParsePrefix("10.244.0.0/24"),
		Service: netip.MustParsePrefix("10.96.0.0/16"),
	}
}

// dual is config with IPv6.
func dual() Config {
	c := config()
	c.IPv6 = Ranges{Pods: netip.MustParsePrefix("fd00:10:244::/56"), Node: netip.MustParsePrefix("fd00:10:244::/64"), Service: netip.MustParsePrefix("fd00:10:96::/112")}
	return c
}

func TestWhereIPv6PacketsGo(t *testing.T) {
	const bridge = "sampan-0a1b2c3d"
	addr := netip.MustParseAddr
	fake := &nft.Fake{Local: []netip.Addr{addr("2001:db8::1"), addr("fd00:10:244::1")}}
	cfg := dual()
	cfg.Kernel = fake
	n := &Network{cfg: cfg, ports: map[string][]HostPort{}}
	if err := fake.Set(t.Context(), n.table()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		packet nft.Packet
		want   nft.Verdict
	}{
		"from a pod to the world it is masqueraded": {nft.Packet{In: bridge, Out: "eth0", From: addr("fd00:10:244::5"), To: addr("2001:db8:1::1")}, nft.Verdict{Fate: "accept", By: "masquerade", Masquerade: true}},
		"from a pod to a pod here it is not":        {nft.Packet{In: bridge, Out: bridge, From: addr("fd00:10:244::5"), To: addr("fd00:10:244::6")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to another node's it is not":    {nft.Packet{In: bridge, Out: "eth0", From: addr("fd00:10:244::5"), To: addr("fd00:10:244:7::6")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to multicast it is not":         {nft.Packet{In: bridge, Out: "eth0", From: addr("fd00:10:244::5"), To: addr("ff05::1")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to no Service it is refused":    {nft.Packet{In: bridge, Out: bridge, From: addr("fd00:10:244::5"), To: addr("fd00:10:96::5")}, nft.Verdict{Fate: "reject", By: "forward"}},
		"from the node to no Service it is refused": {nft.Packet{Out: bridge, From: addr("2001:db8::1"), To: addr("fd00:10:96::5")}, nft.Verdict{Fate: "reject", By: "output"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want.Fate == "accept" {
				c.want.To = c.packet.To // it stays what it was
			}
			if got := fake.Trace(c.packet); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestWherePacketsGo(t *testing.T) {
	const bridge = "sampan-0a1b2c3d"
	addr := netip.MustParseAddr
	node := addr("192.0.2.1")
	fake := &nft.Fake{Local: []netip.Addr{node, addr("10.244.0.1")}}
	cfg := config()
	cfg.Kernel, cfg.DNS = fake, addr("10.96.0.10")
	n := &Network{cfg: cfg, ports: map[string][]HostPort{}}
	if err := fake.Set(t.Context(), n.table()); err != nil {
		t.Fatal(err)
	}
	if err := n.SetHostPorts(t.Context(), "uid", []HostPort{
		{Proto: nft.TCP, HostPort: 8080, Pod: addr("10.244.0.5"), PodPort: 80},
		{Proto: nft.TCP, HostIP: node, HostPort: 8081, Pod: addr("10.244.0.5"), PodPort: 81},
	}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		packet nft.Packet
		want   nft.Verdict
	}{
		"from a pod to the world it is masqueraded":    {nft.Packet{In: bridge, Out: "eth0", From: addr("10.244.0.5"), To: addr("198.51.100.1")}, nft.Verdict{Fate: "accept", By: "masquerade", Masquerade: true}},
		"from a pod to a pod here it is not":           {nft.Packet{In: bridge, Out: bridge, From: addr("10.244.0.5"), To: addr("10.244.0.6")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to a pod of another node it isn't": {nft.Packet{In: bridge, Out: "eth0", From: addr("10.244.0.5"), To: addr("10.244.7.6")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to multicast it is not":            {nft.Packet{In: bridge, Out: "eth0", From: addr("10.244.0.5"), To: addr("239.0.0.1")}, nft.Verdict{Fate: "accept", By: "forward"}},
		"from a pod to the node it stays as it is":     {nft.Packet{In: bridge, From: addr("10.244.0.5"), To: node}, nft.Verdict{Fate: "accept"}},
		"from a pod to no Service it is refused":       {nft.Packet{In: bridge, Out: bridge, From: addr("10.244.0.5"), To: addr("10.96.3.4")}, nft.Verdict{Fate: "reject", By: "forward"}},
		"from the node to no Service it is refused":    {nft.Packet{Out: bridge, From: node, To: addr("10.96.3.4")}, nft.Verdict{Fate: "reject", By: "output"}},
		"from the node to its DNS server it goes":      {nft.Packet{Out: "lo", From: cfg.DNS, To: cfg.DNS, Proto: nft.UDP, Port: 53}, nft.Verdict{Fate: "accept"}},
		"from the node to a pod it goes":               {nft.Packet{Out: bridge, From: addr("10.244.0.1"), To: addr("10.244.0.5")}, nft.Verdict{Fate: "accept"}},
		"from the world to a host port it reaches the pod": {
			nft.Packet{In: "eth0", Out: bridge, From: addr("198.51.100.1"), To: node, Proto: nft.TCP, Port: 8080},
			nft.Verdict{Fate: "accept", By: "forward", To: addr("10.244.0.5"), Port: 80},
		},
		"a host port of one address is not on another": {
			nft.Packet{In: "eth0", From: addr("198.51.100.1"), To: addr("10.244.0.1"), Proto: nft.TCP, Port: 8081},
			nft.Verdict{Fate: "accept"},
		},
		"a pod that reaches itself by a host port is masqueraded": {
			nft.Packet{In: bridge, Out: bridge, From: addr("10.244.0.5"), To: node, Proto: nft.TCP, Port: 8080},
			nft.Verdict{Fate: "accept", By: "masquerade", Masquerade: true, To: addr("10.244.0.5"), Port: 80},
		},
		"from the node to its loopback it reaches the pod, with another address": {
			nft.Packet{Out: bridge, From: addr("127.0.0.1"), To: addr("127.0.0.1"), Proto: nft.TCP, Port: 8080},
			nft.Verdict{Fate: "accept", By: "masquerade", Masquerade: true, To: addr("10.244.0.5"), Port: 80},
		},
		"from a pod to the node's loopback it is dropped": {nft.Packet{In: bridge, From: addr("10.244.0.5"), To: addr("127.0.0.1"), Proto: nft.TCP, Port: 80}, nft.Verdict{Fate: "drop", By: "loopback"}},
		"from the node no pod hears of a shorter way":     {nft.Packet{Out: bridge, From: addr("10.244.0.1"), To: addr("10.244.0.5"), Proto: nft.ICMP, Port: redirect}, nft.Verdict{Fate: "drop", By: "output"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := fake.Trace(c.packet)
			if !c.want.To.IsValid() {
				got.To, got.Port = netip.Addr{}, 0
			}
			if got.By == "masquerade" && !c.want.Masquerade {
				got.By = c.want.By // a return at the chain's head
			}
			if c.want.By != "" && got.By == "" || got.Fate != c.want.Fate || got.Masquerade != c.want.Masquerade || got.To != c.want.To || got.Port != c.want.Port {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	if err := n.SetHostPorts(t.Context(), "uid", nil); err != nil {
		t.Fatal(err)
	}
	if got := fake.Trace(nft.Packet{In: "eth0", From: addr("198.51.100.1"), To: node, Proto: nft.TCP, Port: 8080}); got.To != node {
		t.Errorf("a host port whose pod is gone leads to %v", got.To)
	}
}

// ownNetwork moves the test into a network namespace of its own, with one link to a world that is not there.
func ownNetwork(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread dies with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace of its own needs root: %v", err)
	}
	ip(t, "link set lo up")
	ip(t, "link add world type veth peer name far")
	ip(t, "addr add 192.0.2.1/24 dev world")
	ip(t, "link set world up")
	ip(t, "link set far up")
	ip(t, "route add default via 192.0.2.254")
}

func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestUpAndDown(t *testing.T) {
	ownNetwork(t)
	ctx := context.Background()
	links, routes := linkNames(t), ip(t, "-4 route show table all")
	for range 3 { // repeating changes nothing and fails nothing
		if _, err := Up(ctx, config()); err != nil {
			t.Fatal(err)
		}
	}
	got := ip(t, "route show")
	for _, want := range []string{
		"unreachable 10.244.0.0/16", "10.96.0.0/16 dev sampan-0a1b2c3d", "10.244.0.0/24 dev sampan-0a1b2c3d", "src 10.244.0.1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no route %q in\n%s", want, got)
		}
	}
	// The bridge has no ports. All the same nothing for either range leaves by the default route.
	if out, err := exec.Command("ip", "route", "get", "10.244.9.9").CombinedOutput(); err == nil {
		t.Errorf("an address of the pod range that is not here has a route: %s", out)
	}
	if out := ip(t, "route get 10.96.0.1"); !strings.Contains(out, "dev sampan-0a1b2c3d") {
		t.Errorf("the service range is not routed to the bridge: %s", out)
	}
	if out := ip(t, "route get 10.244.0.9"); !strings.Contains(out, "dev sampan-0a1b2c3d") {
		t.Errorf("the node's own pods are not routed to the bridge: %s", out)
	}
	if v, _ := os.ReadFile("/proc/thread-self/net/route"); len(v) == 0 {
		t.Error("no routes seen by this thread: the test is not where it should be")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 96, 0, 1}}); err != unix.ECONNREFUSED {
		t.Errorf("connecting to an address that no Service owns: %v, want connection refused", err)
	}
	n, err := Up(ctx, config())
	if err != nil {
		t.Fatal(err)
	}
	more := []netip.Prefix{netip.MustParsePrefix("10.97.0.0/24"), netip.MustParsePrefix("10.96.7.0/24"), netip.MustParsePrefix("fd00::/112")}
	if err := n.SetServices(ctx, more); err != nil {
		t.Fatal(err)
	}
	if out := ip(t, "route get 10.97.0.9"); !strings.Contains(out, "dev sampan-0a1b2c3d") {
		t.Errorf("another service range is not routed to the bridge: %s", out)
	}
	other, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if err := unix.Connect(other, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{10, 97, 0, 9}}); err != unix.ECONNREFUSED {
		t.Errorf("connecting to an address of another range that no Service owns: %v, want connection refused", err)
	}
	if err := n.SetServices(ctx, []netip.Prefix{netip.MustParsePrefix("10.244.8.0/24")}); err == nil || !strings.Contains(err.Error(), "overlaps the pod range") {
		t.Errorf("a service range within the pods': %v", err)
	}
	if err := n.SetServices(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if now := ip(t, "route show"); now != got {
		t.Errorf("routes before another service range:\n%s\nafter it:\n%s", got, now)
	}
	for range 2 {
		if err := Down(ctx, config()); err != nil {
			t.Fatal(err)
		}
	}
	if now := linkNames(t); now != links {
		t.Errorf("links before:\n%s\nafter Down:\n%s", links, now)
	}
	if now := ip(t, "-4 route show table all"); now != routes {
		t.Errorf("routes before:\n%s\nafter Down:\n%s", routes, now)
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err == nil && strings.TrimSpace(string(out)) != "" {
		t.Errorf("rules after Down:\n%s", out)
	}
}

func TestUpAndDownWithIPv6(t *testing.T) {
	ownNetwork(t)
	ctx := context.Background()
	ip(t, "addr add 2001:db8::1/64 dev world nodad")
	ip(t, "-6 route add default via 2001:db8::2")
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/world/accept_ra", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	routes := ip(t, "-6 route show table main")
	if _, err := Up(ctx, config()); err != nil { // it may have run without before
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Up(ctx, dual()); err != nil {
			t.Fatal(err)
		}
	}
	if v, _ := os.ReadFile("/proc/sys/net/ipv6/conf/world/accept_ra"); string(v) != "2\n" {
		t.Errorf("accept_ra of a link that heeded routers is %q", v)
	}
	for to, want := range map[string]string{"fd00:10:96::5": "dev sampan-0a1b2c3d", "fd00:10:244::9": "dev sampan-0a1b2c3d", "2001:db8:7::1": "dev world"} {
		if out := ip(t, "-6 route get "+to); !strings.Contains(out, want) {
			t.Errorf("the way to %s is %s, wanted %s", to, out, want)
		}
	}
	if out, err := exec.Command("ip", "-6", "route", "get", "fd00:10:244:9::9").CombinedOutput(); err == nil && !strings.Contains(string(out), "unreachable") {
		t.Errorf("an address of the pod range that is not here has a route: %s", out)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: 80, Addr: netip.MustParseAddr("fd00:10:96::5").As16()}); err != unix.ECONNREFUSED {
		t.Errorf("connecting to an address that no Service owns: %v, want connection refused", err)
	}
	if err := Down(ctx, dual()); err != nil {
		t.Fatal(err)
	}
	if now := ip(t, "-6 route show table main"); now != routes {
		t.Errorf("routes before:\n%s\nafter Down:\n%s", routes, now)
	}
}

func TestDownTakesPodsLinksAlong(t *testing.T) {
	ownNetwork(t)
	if _, err := Up(context.Background(), config()); err != nil {
		t.Fatal(err)
	}
	ip(t, "link add sp12345678 type veth peer name inpod")
	ip(t, "link set sp12345678 master sampan-0a1b2c3d up")
	if err := Down(context.Background(), config()); err != nil {
		t.Fatal(err)
	}
	if out := ip(t, "-br link"); strings.Contains(out, "sp12345678") || strings.Contains(out, "inpod") {
		t.Errorf("left after Down:\n%s", out)
	}
}

func TestRangesInUseAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		before []string
		other  *Config
		want   string
	}{
		"by a link":                       {[]string{"addr add 10.244.3.1/24 dev world"}, nil, "the pod range 10.244.0.0/16 is already used on this machine by link world (route to 10.244.3.0/24): choose another with --pod-range"},
		"by a link, the service range":    {[]string{"addr add 10.96.0.1/16 dev world"}, nil, "the service range 10.96.0.0/16 is already used on this machine by link world (route to 10.96.0.0/16): choose another with --service-range"},
		"by another cluster":              {nil, &Config{ID: "ffffffff"}, "is already used on this machine by another sampan"},
		"not by a wider route":            {[]string{"route add 10.0.0.0/8 dev world"}, nil, ""},
		"not by another range":            {[]string{"addr add 10.245.0.1/16 dev world"}, nil, ""},
		"not by this cluster from before": {nil, &Config{ID: "0a1b2c3d"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t)
			for _, args := range c.before {
				ip(t, args)
			}
			if c.other != nil {
				other := config()
				other.ID = c.other.ID
				if _, err := Up(context.Background(), other); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Up(context.Background(), config())
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if out := ip(t, "-br link"); strings.Contains(out, "sampan-0a1b2c3d") {
				t.Errorf("refused, but left a link:\n%s", out)
			}
		})
	}
}

func TestConfigsThatCannotWork(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no id":                         func(c *Config) { c.ID = "" },
		"a node outside the pod range":  func(c *Config) { c.Node = netip.MustParsePrefix("10.1.0.0/24") },
		"ranges that overlap":           func(c *Config) { c.Service = netip.MustParsePrefix("10.244.128.0/20") },
		"IPv6":                          func(c *Config) { c.Pods = netip.MustParsePrefix("fd00::/64") },
		"a node's range without a room": func(c *Config) { c.Node = netip.MustParsePrefix("10.244.0.0/31") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			change(&cfg)
			if _, err := Up(t.Context(), cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// linkNames lists the links without their state, which the kernel settles by itself a while after a veth comes up.
func linkNames(t *testing.T) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(ip(t, "-br link")) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return strings.Join(names, " ")
}
