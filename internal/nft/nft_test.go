package nft

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	pods    = netip.MustParsePrefix("10.244.0.0/16")
	pod     = netip.MustParseAddr("10.244.0.5")
	world   = netip.MustParseAddr("192.0.2.7")
	other   = netip.MustParseAddr("10.244.1.6")
	service = netip.MustParseAddr("10.96.0.10")
)

// everything uses every match and every action there is.
func everything() Table {
	key := []Match{Family{}, Load{Destination4, 4}, Load{Protocol, 5}, Load{DestinationPort, 6}}
	key = key[:len(key):len(key)]
	return Table{
		Name: "sampan-test",
		Sets: []Set{
			{Name: "own", Key: Type{Addr4}, Elements: []Element{{Key: Concat(pod)}}},
			{Name: "services", Key: Type{Addr4, L4, Port16}, Elements: []Element{{Key: Concat(service, TCP, uint16(80))}, {Key: Concat(service, UDP, uint16(53))}}},
			{Name: "two", Key: Type{Addr4, L4, Port16}, Elements: []Element{{Key: Concat(service, TCP, uint16(90))}}},
			{Name: "sticky", Key: Type{Addr4, L4, Port16}, Elements: []Element{{Key: Concat(service, TCP, uint16(92))}}},
			{Name: "ways", Key: Type{Addr4}, Data: Type{ChainName}, Elements: []Element{{Key: Concat(other), Jump: "target"}}},
			{Name: "ends", Key: Type{Addr4, L4, Port16, Num32}, Data: Type{Addr4, Port16}, Elements: []Element{
				{Key: Concat(service, TCP, uint16(90), uint32(0)), Data: Concat(pod, uint16(8090))},
				{Key: Concat(service, TCP, uint16(90), uint32(1)), Data: Concat(other, uint16(8091))},
				{Key: Concat(service, TCP, uint16(92), uint32(0)), Data: Concat(pod, uint16(8090))},
				{Key: Concat(service, TCP, uint16(92), uint32(1)), Data: Concat(other, uint16(8091))},
			}},
			{Name: "friends", Key: Type{Addr4, Addr4, L4, Port16}, Ages: time.Hour},
			{Name: "allowed", Key: Type{L4, Addr4}, Ranges: true, Elements: []Element{{Key: Concat(UDP, pods.Addr()), End: Concat(UDP, netip.MustParseAddr("10.244.255.255"))}}},
		},
		Chains: []Chain{
			{Name: "target", Rules: []Rule{{Do: DNAT{To: pod, Port: 8080}}}},
			{Name: "in", Base: &Base{Kind: NAT, Hook: Prerouting, Priority: PriorityDstNAT}, Rules: []Rule{
				{If: append(key, InSet{Set: "services", Key: 4}), Do: Jump{"target"}, Comment: "a service"},
				{If: append(key, InSet{Set: "two", Key: 4}, Random{Below: 2, Into: 7}, Lookup{Map: "ends", Key: 4, Into: 8}), Do: DNATWords{Addr: 8}},
				{If: append(key, InSet{Set: "sticky", Key: 4}, Load{Source4, 3}, InSet{Set: "friends", Key: 3}, Number{1, 7}, Lookup{"ends", 4, 8}, Remember{"friends", 3, 60}), Do: DNATWords{Addr: 8}},
				{If: append(key, InSet{Set: "sticky", Key: 4}, Load{Source4, 3}, InSet{Set: "friends", Key: 3, Not: true}, Remember{"friends", 3, 60})},
				{If: append(key, InSet{Set: "services", Key: 4}, Load{Source4, 3}, Forget{"friends", 3})},
				{If: []Match{Family{}, Load{Source4, 4}}, Do: JumpOf{"ways", 4}},
				{If: []Match{ToLocal{}, Port{TCP, 8000}}, Do: DNAT{To: pod}},
				{If: []Match{Family{}, Load{Source4, 4}, InSet{Set: "own", Key: 4}}, Do: Return{}},
			}},
			{Name: "raw", Base: &Base{Hook: Prerouting, Priority: PriorityRaw}, Rules: []Rule{
				{If: []Match{In{Link: "wg0"}, Family{}, Load{Protocol, 4}, Load{Source4, 5}, InSet{Set: "allowed", Key: 4, Not: true}}, Do: Drop{}},
				{If: []Match{ToICMP{Type: 5}, FromLocal{Not: true}}, Do: Drop{}},
			}},
			{Name: "forward", Base: &Base{Hook: Forward}, Rules: []Rule{
				{If: []Match{State{In: Invalid}}, Do: Drop{}},
				{If: []Match{Translated{}}, Do: Accept{}},
				{If: []Match{In{Link: "eth*"}, Family{}, Load{Destination4, 4}, InSet{Set: "own", Key: 4}}, Do: Accept{}},
				{If: []Match{From{Prefix: pods}, Out{Link: "eth0", Not: true}}, Do: Reject{}},
			}},
			{Name: "out", Base: &Base{Kind: NAT, Hook: Postrouting, Priority: PrioritySrcNAT}, Rules: []Rule{
				{If: []Match{From{Prefix: pods}, To{Prefix: pods, Not: true}}, Do: Masquerade{}},
			}},
		},
	}
}

func TestTrace(t *testing.T) {
	fake := &Fake{Local: []netip.Addr{world}, Rand: func(below uint32) uint32 { return below - 1 }}
	if err := fake.Set(t.Context(), everything()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		packet Packet
		want   Verdict
	}{
		"a service's address and port lead to the pod":  {Packet{In: "eth0", Out: "br", From: world, To: service, Proto: TCP, Port: 80}, Verdict{Fate: "accept", By: "forward", To: pod, Port: 8080}},
		"another port of the service leads nowhere":     {Packet{In: "br", Out: "br", From: pod, To: service, Proto: TCP, Port: 81}, Verdict{Fate: "reject", By: "forward"}},
		"a port of the machine keeps its number":        {Packet{In: "eth0", Out: "br", From: world, To: world, Proto: TCP, Port: 8000}, Verdict{Fate: "accept", By: "forward", To: pod, Port: 8000}},
		"a pod that goes out is masqueraded":            {Packet{In: "br", Out: "eth0", From: pod, To: world, Proto: TCP, Port: 443}, Verdict{Fate: "accept", By: "out", Masquerade: true, To: world, Port: 443}},
		"an invalid packet is dropped":                  {Packet{In: "eth0", Out: "br", From: world, To: pod, State: Invalid}, Verdict{Fate: "drop", By: "forward"}},
		"a source outside of the ranges is dropped":     {Packet{In: "wg0", Out: "br", From: world, To: pod, Proto: UDP, Port: 9}, Verdict{Fate: "drop", By: "raw"}},
		"a source within a range is not":                {Packet{In: "wg0", Out: "eth0", From: pod, To: pod, Proto: UDP, Port: 9}, Verdict{Fate: "accept", To: pod, Port: 9}},
		"a group of two leads to one of them":           {Packet{In: "eth0", Out: "br", From: world, To: service, Proto: TCP, Port: 90}, Verdict{Fate: "accept", By: "forward", To: other, Port: 8091}},
		"a chain that a map names is jumped to":         {Packet{In: "eth0", Out: "br", From: other, To: pod, Proto: TCP, Port: 91}, Verdict{Fate: "accept", By: "forward", To: pod, Port: 8080}},
		"a redirect of the world's is dropped":          {Packet{In: "eth0", Out: "br", From: service, To: pod, Proto: ICMP, Port: 5}, Verdict{Fate: "drop", By: "raw"}},
		"what no rule speaks of is accepted":            {Packet{In: "br", Out: "br", From: world, To: other, Port: 9}, Verdict{Fate: "accept", To: other, Port: 9}},
		"a packet of this machine sees no forward rule": {Packet{Out: "br", From: pod, To: pod, Port: 9}, Verdict{Fate: "accept", To: pod, Port: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fake.Trace(c.packet); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Table)
		want   Diff
	}{
		"nothing":                          {func(*Table) {}, Diff{}},
		"elements in another order":        {func(x *Table) { e := x.Sets[1].Elements; e[0], e[1] = e[1], e[0] }, Diff{}},
		"an element more":                  {func(x *Table) { x.Sets[0].Elements = append(x.Sets[0].Elements, Element{Key: Concat(world)}) }, Diff{ChangeSets: []string{"own"}}},
		"a set less":                       {func(x *Table) { x.Sets = append(x.Sets[:1:1], x.Sets[2:]...) }, Diff{RemoveSets: []string{"services"}}},
		"a chain more":                     {func(x *Table) { x.Chains = append(x.Chains, Chain{Name: "new"}) }, Diff{AddChains: []string{"new"}}},
		"a rule changes":                   {func(x *Table) { x.Chains[0].Rules[0].Do = Drop{} }, Diff{ChangeChains: []string{"target"}}},
		"rules in another order":           {func(x *Table) { r := x.Chains[3].Rules; r[0], r[1] = r[1], r[0] }, Diff{ChangeChains: []string{"forward"}}},
		"a hook changes: all is made anew": {func(x *Table) { x.Chains[1].Base.Hook = Output }, Diff{Whole: true}},
	} {
		t.Run(name, func(t *testing.T) {
			wanted := everything().clone()
			c.change(&wanted)
			if got := Compare(everything(), wanted); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// ownNetwork moves the test into a network namespace of its own, which ends with the test.
func ownNetwork(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread dies with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace of its own needs root: %v", err)
	}
}

func TestKernel(t *testing.T) {
	ownNetwork(t)
	conn := New()
	ctx := context.Background()
	table := everything()
	for range 2 { // the second replaces nothing
		if err := conn.Set(ctx, table); err != nil {
			t.Fatal(err)
		}
	}
	before := generation(t)
	if err := conn.Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	if after := generation(t); after != before {
		t.Errorf("setting the same twice changed the kernel's rules: generation %s, then %s", before, after)
	}
	table = table.clone()
	table.Sets[1].Elements = append(table.Sets[1].Elements[:1:1], Element{Key: Concat(service, TCP, uint16(443))})
	table.Chains[0].Rules[0].Do = DNAT{To: pod, Port: 9090}
	table.Chains = append(table.Chains, Chain{Name: "more", Rules: []Rule{{Do: Drop{}}}})
	if err := conn.Set(ctx, table); err != nil {
		t.Fatal(err)
	}
	listed := list(t)
	for _, want := range []string{
		"10.96.0.10 . tcp . 443", "dnat ip to 10.244.0.5:9090", "masquerade", "fib daddr type local", `iifname "eth*"`, "reject",
		"ct status dnat", "ct state invalid", "numgen random mod 2", "update @friends", "delete @friends", "ip saddr vmap @ways", `comment "a service"`, "chain more",
	} {
		if !strings.Contains(listed, want) {
			t.Errorf("the kernel does not list %q in\n%s", want, listed)
		}
	}
	if strings.Contains(listed, "udp . 53") {
		t.Errorf("an element that was taken out is there:\n%s", listed)
	}
	table.Chains[0], table.Chains[1] = Chain{Name: "target"}, Chain{Name: "in", Base: &Base{Hook: Input}} // another kind of chain
	table.Chains = table.Chains[:2]
	if err := conn.Set(ctx, table); err != nil {
		t.Fatal(err)
	}
	if listed := list(t); strings.Contains(listed, "masquerade") || !strings.Contains(listed, "hook input") {
		t.Errorf("the table was not made anew:\n%s", listed)
	}
	if err := New().Set(ctx, everything()); err != nil { // as after a restart: nothing is known of what is there
		t.Fatal(err)
	}
	for range 2 {
		if err := conn.Remove(ctx, table.Name); err != nil {
			t.Fatal(err)
		}
	}
	if listed := list(t); strings.TrimSpace(listed) != "" {
		t.Errorf("left after Remove:\n%s", listed)
	}
}

func list(t *testing.T) string { return run(t, "nft", "list", "ruleset") }

// generation lists the rules with their handles: whatever is set anew gets another one.
func generation(t *testing.T) string { return run(t, "nft", "-a", "list", "ruleset") }

func run(t *testing.T, name string, args ...string) string {
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
