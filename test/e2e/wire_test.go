package e2e

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is a link between a machine and a switch that this process carries, frame by frame: late, and not every one.
type wire struct {
	delay atomic.Int64 // of each frame, in nanoseconds
	loss  atomic.Int64 // of a thousand frames, each way
	// cut loses all frames of one way: 1 those to the machine, 2 those from it, 3 both.
	cut atomic.Int32
}

const (
	toMachine   = 1
	fromMachine = 2
)

// rewire puts a wire in the place of a machine's link. The machine keeps its address.
func rewire(t testing.TB, m *machine, bridge string) *wire {
	t.Helper()
	run(t, "ip", "link", "del", "to-"+m.name)
	w := &wire{}
	near := tap(t, os.Getpid(), "to-"+m.name)
	far := tap(t, m.pid, "eth0")
	run(t, "ip", "link", "set", "to-"+m.name, "master", bridge, "up")
	m.run("ip", "addr", "add", m.addr+"/24", "dev", "eth0")
	m.run("ip", "link", "set", "eth0", "up")
	var carriers sync.WaitGroup
	carriers.Go(func() { w.carry(near, far, toMachine) })
	carriers.Go(func() { w.carry(far, near, fromMachine) })
	t.Cleanup(func() { // the links go with their files
		_ = near.Close()
		_ = far.Close()
		carriers.Wait()
	})
	return w
}

// tap makes a link whose frames come out of a file, in the network namespace of a process.
func tap(t testing.TB, pid int, name string) *os.File {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file, err := openTap(pid, name)
	if err != nil {
		t.Fatalf("make link %s: %v", name, err)
	}
	return file
}

// openTap takes this thread into the namespace and back. It must not end there: what it has started would be killed with it (PR_SET_PDEATHSIG).
func openTap(pid int, name string) (file *os.File, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)) }()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// carry takes frames from one end to the other until an end is closed. They stay in their order.
func (w *wire) carry(from, to *os.File, way int32) {
	type frame struct {
		data []byte
		at   time.Time
	}
	const most = 4096 // frames under way: more are lost, as on any link
	under := make(chan frame, most)
	var sender sync.WaitGroup
	sender.Go(func() {
		for f := range under {
			time.Sleep(time.Until(f.at))
			_, _ = to.Write(f.data) // a link that is down takes none
		}
	})
	defer sender.Wait()
	defer close(under)
	buffer := make([]byte, 65536)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, unix.EIO) { // the link is down for now
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return
		}
		if w.cut.Load()&way != 0 || rand.Int64N(1000) < w.loss.Load() {
			continue
		}
		select {
		case under <- frame{append([]byte(nil), buffer[:n]...), time.Now().Add(time.Duration(w.delay.Load()))}:
		default:
		}
	}
}

// router joins two switches: what is on one reaches the other through it, and by no shorter way.
func router(t testing.TB, a, b string, atA, atB string) *machine {
	t.Helper()
	r := newMachine(t, "router", a, atA)
	switchOf(t, b)
	run(t, "ip", "link", "add", "to-router-2", "type", "veth", "peer", "name", "eth1", "netns", strconv.Itoa(r.pid))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "to-router-2").Run() })
	run(t, "ip", "link", "set", "to-router-2", "master", b, "up")
	r.run("ip", "addr", "add", atB+"/24", "dev", "eth1")
	r.run("ip", "link", "set", "eth1", "up")
	r.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	return r
}
