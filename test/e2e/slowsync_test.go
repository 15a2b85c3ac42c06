package e2e

import (
	"errors"
	"net/http"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slowDisk makes the syncs of programs take longer, for as long as it is told to: the kernel asks this process before each fsync and fdatasync of theirs
// (seccomp's user notification), and this process takes its time.
type slowDisk struct {
	t     testing.TB
	delay atomic.Int64 // nanoseconds
	syncs atomic.Int64
}

// notification is the kernel's struct seccomp_notif, and answer its struct seccomp_notif_resp.
type notification struct {
	ID         uint64
	PID, Flags uint32
	Number     int32
	Arch       uint32
	At         uint64
	Args       [6]uint64
}

type answer struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

// start runs a command whose syncs, and those of whatever it starts, are on this disk. It returns when the command has.
func (d *slowDisk) start(cmd *exec.Cmd) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for ever: the filter is of this thread
		listener, err := filterSyncs()
		if err != nil {
			done <- result{nil, err}
			return
		}
		go d.serve(listener)
		out, err := cmd.CombinedOutput() // which forks from this thread
		done <- result{out, err}
		select {} // the thread may not end: it may have started what holds a machine, which would end with it
	}()
	r := <-done
	return r.out, r.err
}

func filterSyncs() (listener int, err error) {
	const load, equal, leave = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 0}, // the system call's number
		{Code: equal, K: unix.SYS_FSYNC, Jt: 2},
		{Code: equal, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: leave, K: unix.SECCOMP_RET_ALLOW},
		{Code: leave, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// serve lets each sync go on after the delay, until no program with the filter is left.
func (d *slowDisk) serve(listener int) {
	defer unix.Close(listener)
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			if ready[0].Revents&unix.POLLHUP != 0 {
				return
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // it was interrupted, or has been killed meanwhile
		}
		d.syncs.Add(1)
		time.AfterFunc(time.Duration(d.delay.Load()), func() {
			a := answer{ID: n.ID, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
		})
	}
}

// A disk whose syncs take two seconds makes writes slow, and nothing else: readyz says why, and no node is lost.
func TestASlowDiskMakesWritesSlow(t *testing.T) {
	t.Parallel()
	one, two := newMachine(t, "slow1", "swslow", "192.168.92.10"), newMachine(t, "slow2", "swslow", "192.168.92.11")
	reachable(t, "swslow", "192.168.92.1")
	disk := &slowDisk{t: t}
	c := one.node(t)
	c.args = []string{"--merge-kubeconfig=false", "--log-level=info", "--node-name=slow1", "--no-agent"}
	if out, err := disk.start(c.command(t.Context(), append([]string{"server", "--detach"}, c.args...)...)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	agent := two.join(t, c)
	c.apply(idle)
	c.kubectl("rollout", "status", "deployment/idle", "--timeout=60s")
	f := &fleet{t: t, servers: []*cluster{c}, agent: agent}
	f.ready("slow2")
	before, processes := f.runs("idle")
	pid, api := c.server(), c.caller()
	if disk.syncs.Load() == 0 {
		t.Fatal("no sync has been seen: this test would try nothing")
	}

	disk.delay.Store(int64(2 * time.Second))
	l := newLoad(t, 2, api)
	var told string
	for range 2 {
		eventually(t, "readyz says that the disk is slow, and for how long writes wait", func() bool {
			return isCode(api.do(t.Context(), http.MethodGet, "/readyz?verbose", nil, &told), http.StatusInternalServerError) && slowPlainly.MatchString(told)
		})
		var alive string
		if err := api.do(t.Context(), http.MethodGet, "/livez", nil, &alive); err != nil || alive != "ok" {
			t.Errorf("livez: %q %v", alive, err)
		}
		seen := disk.syncs.Load()
		eventually(t, "it goes on writing", func() bool { return disk.syncs.Load() >= seen+3 })
	}
	t.Logf("readyz with slow syncs:\n%s", told)
	if n := len(l.acked); n == 0 {
		t.Error("nothing was written")
	}
	f.wellAllAlong("while the disk was slow")

	disk.delay.Store(0)
	l.goesOn("the disk is quick again")
	l.end()
	eventually(t, "readyz is well again", func() bool { return api.do(t.Context(), http.MethodGet, "/readyz", nil, nil) == nil })
	f.wellAllAlong("at the end")
	f.same(before, processes, "at the end")
	if now := c.server(); now != pid {
		t.Errorf("the server is process %d, it was %d", now, pid)
	}
}
