package proxy

import (
	"errors"
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

	"sampan.dev/internal/nft"
	"sampan.dev/internal/podnet"
)

// space is a network namespace of a test.
type space struct{ fd int }

// newSpace makes one in a thread of its own, which dies.
func newSpace(t *testing.T) space {
	t.Helper()
	made := make(chan space)
	failed := make(chan error, 1)
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

func (s space) ip(t *testing.T, commands ...string) {
	t.Helper()
	s.do(func() {
		for _, c := range commands {
			cmd := exec.Command("ip", strings.Fields(c)...)
			cmd.ExtraFiles = nil
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v\n%s", c, err, out)
			}
		}
	})
}

// peer makes a pair of links between two namespaces.
func (s space) peer(t *testing.T, name string, other space, otherName string) {
	t.Helper()
	s.ip(t, fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d", name, otherName, os.Getpid(), other.fd))
	s.ip(t, "link set "+name+" up")
	other.ip(t, "link set "+otherName+" up")
}

// serve answers on a port, TCP and UDP, with its name and the address of who asks.
func (s space) serve(t *testing.T, name string, port uint16) {
	t.Helper()
	s.do(func() {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		u, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _, _ = l.Close(), u.Close() })
		answer := func(client net.Addr) string {
			return name + " " + called(netip.MustParseAddrPort(client.String()).Addr())
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(answer(c.RemoteAddr())))
				_ = c.Close()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(answer(from)), from)
			}
		}()
	})
}

// connect asks, and tells who has answered and whom it saw.
func (s space) connect(from netip.Addr, to string, proto nft.Proto, wait time.Duration) (end, as string) {
	s.do(func() {
		network, local := "tcp4", net.Addr(nil)
		if from.IsValid() {
			local = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		if proto == nft.UDP {
			network, local = "udp4", nil
			if from.IsValid() {
				local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			}
		}
		d := net.Dialer{Timeout: wait, LocalAddr: local}
		c, err := d.Dial(network, to)
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(wait))
			if proto == nft.UDP {
				_, _ = c.Write([]byte("?"))
			}
			b := make([]byte, 100)
			var n int
			if n, err = c.Read(b); err == nil {
				end, as, _ = strings.Cut(string(b[:n]), " ")
				return
			}
		}
		switch timeout := net.Error(nil); {
		case errors.Is(err, unix.ECONNREFUSED):
			end = "refused"
		case errors.As(err, &timeout) && timeout.Timeout():
			end = "dropped"
		default:
			end = err.Error()
		}
	})
	return end, as
}

// stage is the world of the scenes, of real links.
type stage struct {
	node   space
	spaces map[string]space
	conn   *nft.Conn
}

func newStage(t *testing.T) *stage {
	st := &stage{node: newSpace(t), spaces: map[string]space{}, conn: nft.New()}
	st.spaces["node"], st.spaces["localhost"] = st.node, st.node
	out := newSpace(t)
	st.spaces["outside"] = out
	st.node.peer(t, "world", out, "eth0")
	st.node.ip(t, "addr add 192.0.2.1/24 dev world", "route add 198.51.100.0/24 via 192.0.2.254", "route add 203.0.113.0/24 via 192.0.2.254")
	out.ip(t, "addr add 192.0.2.254/24 dev eth0", "addr add 198.51.100.7/32 dev lo", "route add 10.0.0.0/8 via 192.0.2.1 src 198.51.100.7", "route add 203.0.113.0/24 via 192.0.2.1 src 198.51.100.7")
	st.node.do(func() {
		if _, err := podnet.Up(t.Context(), podnet.Config{ID: "0a1b2c3d", Pods: network.Pods[0], Node: network.Node[0], Service: network.Services[0]}); err != nil {
			t.Error(err)
		}
	})
	for name, a := range map[string]netip.Addr{"podA": podA, "podB": podB, "podC": podC} {
		pod := newSpace(t)
		st.spaces[name] = pod
		st.node.peer(t, "sp"+name, pod, "eth0")
		st.node.ip(t, "link set sp"+name+" master sampan-0a1b2c3d", "link set sp"+name+" type bridge_slave hairpin on")
		pod.ip(t, fmt.Sprintf("addr add %s/32 dev eth0", a), "route add 10.244.0.1 dev eth0", "route add default via 10.244.0.1")
		pod.serve(t, name, 8080)
	}
	far := newSpace(t)
	st.spaces["podFar"] = far
	st.node.peer(t, "n2", far, "eth0")
	st.node.ip(t, "addr add 192.0.2.1/32 dev n2", "route add 10.244.1.0/24 dev n2")
	far.ip(t, "addr add 10.244.1.9/32 dev eth0", "route add 192.0.2.1 dev eth0", "route add default via 192.0.2.1")
	far.serve(t, "podFar", 8080)
	st.node.serve(t, "node", 9999)
	return st
}

func (st *stage) ask(try try, wait time.Duration) (end, as string) {
	from := netip.Addr{}
	if try.from == "outside" {
		from = outside
	}
	return st.spaces[try.from].connect(from, try.to, try.protocol(), wait)
}

// TestKernel makes the same connections as TestRules, through the kernel.
func TestKernel(t *testing.T) {
	st := newStage(t)
	if t.Failed() {
		t.FailNow()
	}
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
			st.node.do(func() {
				if err := st.conn.Replace(t.Context(), table); err != nil {
					t.Error(err)
				}
			})
			for name, try := range s.tries {
				t.Run(name, func(t *testing.T) {
					wait := 5 * time.Second
					if try.want == "dropped" {
						wait = 300 * time.Millisecond
					}
					for range 4 {
						end, as := st.ask(try, wait)
						if err := try.allows(end, as); err != nil {
							t.Error(err)
						}
					}
				})
			}
		})
	}
}
