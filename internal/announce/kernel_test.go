package announce

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace of a test, with no way out.
type space struct{ fd int }

func newSpace(t *testing.T) space {
	t.Helper()
	made, failed := make(chan space), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			failed <- err
			return
		}
		made <- space{fd}
	}()
	select {
	case s := <-made:
		t.Cleanup(func() { _ = unix.Close(s.fd) })
		s.ip(t, "link set lo up")
		return s
	case err := <-failed:
		t.Skipf("a network namespace of its own needs root: %v", err)
		return space{}
	}
}

// do runs f within the namespace.
func (s space) do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies, and is nowhere else
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

func (s space) ip(t *testing.T, commands ...string) (out string) {
	t.Helper()
	s.do(func() {
		for _, c := range commands {
			b, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput()
			if out = string(b); err != nil {
				t.Errorf("ip %s: %v\n%s", c, err, b)
			}
		}
	})
	return out
}

// packets are the packet sockets that are open in the namespace.
func (s space) packets(t *testing.T) (n int) {
	s.do(func() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/packet", unix.Gettid()))
		if err != nil {
			t.Error(err)
		}
		n = strings.Count(string(b), "\n") - 1
	})
	return n
}

// lan is a client and two nodes on one switch.
type lan struct {
	t      *testing.T
	client space
	nodes  map[string]space
	macs   map[string]string
}

func newLAN(t *testing.T) *lan {
	l := &lan{t: t, client: newSpace(t), nodes: map[string]space{}, macs: map[string]string{}}
	l.client.ip(t, "link add lan type bridge", "link set lan up", "addr add 10.9.0.254/24 dev lan", "addr add fd09::fe/64 dev lan nodad")
	l.client.do(func() { // it gives up sooner
		for _, family := range []string{"ipv4", "ipv6"} {
			if err := os.WriteFile("/proc/sys/net/"+family+"/neigh/lan/retrans_time_ms", []byte("50"), 0); err != nil {
				t.Error(err)
			}
		}
	})
	for i, name := range []string{"n1", "n2"} {
		s := newSpace(t)
		mac := fmt.Sprintf("02:00:00:00:00:0%d", i+1)
		s.ip(t, fmt.Sprintf("link add eth0 address %s type veth peer name %s netns /proc/%d/fd/%d", mac, name, os.Getpid(), l.client.fd),
			fmt.Sprintf("addr add 10.9.0.%d/24 dev eth0", i+1), fmt.Sprintf("addr add fd09::%d/64 dev eth0 nodad", i+1), "link set eth0 up")
		l.client.ip(t, "link set "+name+" master lan up")
		l.nodes[name], l.macs[mac] = s, name
	}
	return l
}

// remembered is what the client knows of an address: the node whose card it has, or the state of its entry.
func (l *lan) remembered(addr string) string {
	fields := strings.Fields(l.client.ip(l.t, "neigh show "+addr))
	for i, f := range fields {
		if f == "lladdr" {
			if name := l.macs[fields[i+1]]; name != "" {
				return name
			}
			return fields[i+1]
		}
	}
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}

// send makes the client look for an address.
func (l *lan) send(addr string) {
	l.client.do(func() {
		c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(addr), 9).String())
		if err != nil {
			l.t.Error(err)
			return
		}
		_, _ = c.Write([]byte("x")) // fails while an earlier one was not delivered
		_ = c.Close()
	})
}

// until waits for what the kernel tells nobody of.
func (l *lan) until(what string, holds func() bool) {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func other(node string) string { return map[string]string{"n1": "n2", "n2": "n1"}[node] }

func TestTheNetworkLearnsWhoTakesAnAddress(t *testing.T) {
	for _, c := range []struct{ family, vip, not, network string }{
		{"IPv4", "10.9.0.50", "10.9.0.51", "10.9.0.0/24"},
		{"IPv6", "fd09::50", "fd09::51", "fd09::/64"},
	} {
		t.Run(c.family, func(t *testing.T) {
			l, cl := newLAN(t), newCluster()
			for i, name := range []string{"n1", "n2"} {
				cl.setNode(name, Node{Serves: true, Addresses: []netip.Addr{ip(fmt.Sprintf("10.9.0.%d", i+1)), ip(fmt.Sprintf("fd09::%d", i+1))}})
				defer cl.start(t, name, Kernel{In: l.nodes[name].do})()
			}
			sockets := func() (n int) { return l.nodes["n1"].packets(t) + l.nodes["n2"].packets(t) }
			if n := sockets(); n != 0 {
				t.Errorf("%d sockets are open for nothing", n)
			}
			first := Elect(ip(c.vip), netip.MustParsePrefix(c.network), map[string][]netip.Addr{"n1": cl.nodes["n1"].Addresses, "n2": cl.nodes["n2"].Addresses})
			second := other(first)

			cl.set("web", []string{c.vip})
			l.until("the client has found the elected node", func() bool { l.send(c.vip); return l.remembered(c.vip) == first })
			if n := l.nodes[first].packets(t); n != 1 {
				t.Errorf("the elected node has %d sockets open", n)
			}
			if n := l.nodes[second].packets(t); n != 0 {
				t.Errorf("the other node has %d sockets open", n)
			}
			for range 5 { // more often than the address is told of unasked
				l.client.ip(t, "neigh flush dev lan")
				l.send(c.vip)
				l.until("the client has asked, and was answered", func() bool { return l.remembered(c.vip) == first })
			}
			l.send(c.not)
			l.until("the client has given up to look for another address", func() bool { return l.remembered(c.not) == "FAILED" })

			n := cl.nodes[first]
			cl.setNode(first, Node{Addresses: n.Addresses})
			l.until("the client has been told, without asking, of the node that took over", func() bool { return l.remembered(c.vip) == second })
			cl.setNode(first, n)
			l.until("and that it is back", func() bool { return l.remembered(c.vip) == first })
			cl.set("web", []string{c.vip}, second)
			l.until("the only node that has pods takes it", func() bool { return l.remembered(c.vip) == second })

			cl.set("web", nil)
			l.until("nothing is listened to any more", func() bool { return sockets() == 0 })
			l.client.ip(t, "neigh flush dev lan")
			l.send(c.vip)
			l.until("nobody answers any more", func() bool { return l.remembered(c.vip) == "FAILED" })
		})
	}
}

func TestAnAddressThatAnotherMachineHasIsLeftToIt(t *testing.T) {
	for _, vip := range []string{"10.9.0.60", "fd09::60"} {
		l, cl := newLAN(t), newCluster()
		cl.setNode("n1", Node{Serves: true})
		defer cl.start(t, "n1", Kernel{In: l.nodes["n1"].do})()
		bits, nodad := "/24", ""
		if strings.Contains(vip, ":") {
			bits, nodad = "/64", " nodad"
		}
		l.client.ip(t, "addr add "+vip+bits+" dev lan"+nodad)
		cl.set("web", []string{vip})
		told := func() []string { cl.mu.Lock(); defer cl.mu.Unlock(); return cl.told }
		l.until("it is told", func() bool { return len(told()) > 0 })
		if want := "web Warning AddressConflict: Address " + vip + " is in use by another machine, "; !strings.HasPrefix(told()[0], want) {
			t.Errorf("told %q, want %q...", told()[0], want)
		}
		l.client.ip(t, "addr del "+vip+bits+" dev lan")
		l.until("it is free, and announced", func() bool { l.send(vip); return l.remembered(vip) == "n1" })
	}
}

func TestLinksComeAndGo(t *testing.T) {
	l, cl := newLAN(t), newCluster()
	n1 := l.nodes["n1"]
	cl.setNode("n1", Node{Serves: true})
	defer cl.start(t, "n1", Kernel{In: n1.do})()
	cl.set("web", []string{"10.9.0.70", "192.0.2.70"})
	l.until("it is announced", func() bool { l.send("10.9.0.70"); return l.remembered("10.9.0.70") == "n1" })

	// Another card, and back: the client is told each time.
	l.macs["02:00:00:00:00:99"] = "new card"
	n1.ip(t, "link set eth0 down", "link set eth0 address 02:00:00:00:00:99", "link set eth0 up")
	l.until("the new card is told of", func() bool { return l.remembered("10.9.0.70") == "new card" })
	n1.ip(t, "addr flush dev eth0")
	l.until("no network of the node has the address", func() bool { return n1.packets(t) == 0 })
	n1.ip(t, "addr add 10.9.0.1/24 dev eth0")
	l.until("one has again", func() bool { return n1.packets(t) == 1 })
	n1.ip(t, "addr add 10.9.0.70/32 dev lo")
	l.until("the kernel has it itself", func() bool { return n1.packets(t) == 0 })
	n1.ip(t, "addr del 10.9.0.70/32 dev lo", "link set eth0 down")
	n1.ip(t, "link set eth0 up")
	l.until("the link is back", func() bool { return n1.packets(t) == 1 })
	n1.ip(t, "link del eth0")
	l.until("the link is gone", func() bool { return n1.packets(t) == 0 })
}
