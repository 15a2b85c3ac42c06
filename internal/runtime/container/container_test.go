package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const waiting = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"

func TestOutputAndExitCodesAreKept(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		script, out, bad, reason string
		code                     int32
	}{
		"it ends well":           {"echo out; echo bad >&2; printf part", "out\npart", "bad\n", Completed, 0},
		"it ends with a code":    {"echo $WORD; exit 5", "boat\n", "", Failed, 5},
		"it writes a long line":  {"head -c 40000 /dev/zero | tr '\\0' x; echo", strings.Repeat("x", 40000) + "\n", "", Completed, 0},
		"it leaves a child":      {"sleep 1000 & echo out", "out\n", "", Completed, 0},
		"it may reopen its ends": {"echo out > /dev/stdout; echo bad > /proc/self/fd/2", "out\n", "bad\n", Completed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			id := w.run(w.spec(c.script))
			st := w.ended(id)
			if st.ExitCode != c.code || st.Reason != c.reason || st.Started.IsZero() || st.Finished.Before(st.Started) {
				t.Errorf("%+v", st)
			}
			if out, bad := w.said(id, "stdout"), w.said(id, "stderr"); out != c.out || bad != c.bad {
				t.Errorf("said %q, %q", out, bad)
			}
		})
	}
	s := w.spec("")
	s.Args = []string{"/no/such/program"}
	w.create(s)
	err := w.Start(t.Context(), s.ID)
	if st := w.ended(s.ID); err == nil || !strings.Contains(err.Error(), "/no/such/program") || st.Reason != StartError || st.ExitCode != 128 {
		t.Errorf("a program that is not there: %v, %+v", err, st)
	}
}

func TestAContainerIsConfined(t *testing.T) {
	w := newWorld(t)
	s := w.spec("id -u; id -g; id -G; echo x > /x || echo read-only; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /proc | grep -c '^[0-9]'; mount -t tmpfs x /tmp 2>/dev/null || echo no mount")
	s.UID, s.GID, s.Groups, s.NoNewPrivileges, s.Capabilities = 1000, 2000, []uint32{3000}, true, nil
	s.Resources.MemoryLimitInBytes, s.Resources.CpuShares = 64<<20, 512
	id := w.run(s)
	w.ended(id)
	got := w.said(id, "stdout")
	for _, want := range []string{"1000\n2000\n2000 3000\nread-only\n", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "no mount"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	s = w.spec(waiting)
	s.Resources.MemoryLimitInBytes = 64 << 20
	id = w.run(s)
	stats, err := w.Stats(id)
	if err != nil || stats.MemoryStats.Usage.Limit != 64<<20 {
		t.Errorf("limit: %+v, %v", stats, err)
	}
	s.Resources.MemoryLimitInBytes = 96 << 20
	if err := w.Update(t.Context(), id, s.Resources); err != nil {
		t.Fatal(err)
	}
	if stats, err = w.Stats(id); err != nil || stats.MemoryStats.Usage.Limit != 96<<20 {
		t.Errorf("limit after a change: %+v, %v", stats, err)
	}
}

func TestOutOfMemoryIsTheReasonOnlyOfTheOneKilled(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		script, reason string
		code           int32
	}{
		"the container's own process":  {"exec tail /dev/zero", OOMKilled, 137},
		"a child, which is survived":   {"tail /dev/zero; exit 0", Completed, 0},
		"a child, which is complained": {"tail /dev/zero; exit 3", Failed, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.spec(c.script)
			s.Resources.MemoryLimitInBytes = 16 << 20
			if st := w.ended(w.run(s)); st.Reason != c.reason || st.ExitCode != c.code {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec(waiting))
	w.await(id, "up")
	if err := w.Stop(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	if st, _ := w.State(id); st.ExitCode != 7 {
		t.Errorf("it was asked: %+v", st)
	}
	deaf := "trap '' TERM; echo up; while :; do sleep 0.02; done"
	id = w.run(w.spec(deaf))
	w.await(id, "up")
	if err := w.Stop(t.Context(), id, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if st, _ := w.State(id); st.ExitCode != 137 || st.Reason != Failed {
		t.Errorf("it did not listen: %+v", st)
	}
	s := w.spec("echo up; while :; do sleep 0.02; done")
	s.StopSignal = "SIGUSR1"
	s.PIDNS = "host" // where a first process has no special standing
	id = w.run(s)
	w.await(id, "up")
	if err := w.Stop(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	if st, _ := w.State(id); st.ExitCode != 128+int32(unix.SIGUSR1) {
		t.Errorf("its own signal: %+v", st)
	}
}

func TestAProcessThatDoesNotListenYetIsAskedWhenItDoes(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec("echo up; sleep 0.3; trap 'exit 9' TERM; while :; do sleep 0.02; done"))
	w.await(id, "up")
	if err := w.Stop(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	if st, _ := w.State(id); st.ExitCode != 9 {
		t.Errorf("%+v", st)
	}
}

func TestAStopMayBeShortened(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec("trap '' TERM; echo up; while :; do sleep 0.02; done"))
	w.await(id, "up")
	first := make(chan error, 1)
	go func() { first <- w.Stop(t.Context(), id, time.Hour) }()
	c, err := w.get(id)
	if err != nil {
		t.Fatal(err)
	}
	for under := false; !under; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		under = c.stop != nil
		c.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Stop(ctx, id, 2*time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("a longer one: %v", err)
	}
	if err := w.Stop(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestAllProcessesEndWithTheFirst(t *testing.T) {
	w := newWorld(t)
	s := w.spec("for i in 1 2 3 4 5; do (trap '' TERM; while :; do sleep 0.02; done) & done; echo up; exit 0")
	s.PIDNS = "host"
	id := w.run(s)
	w.ended(id)
	found, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range found {
		data, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		// Whoever inherited a dead one may take its time to reap it.
		if st, err := readStat(pid); err == nil && st.state != 'Z' && strings.Contains(string(data), id) {
			t.Errorf("left behind: %s", path)
		}
	}
}

func TestAKilledManagerLosesNoLine(t *testing.T) {
	w := newWorld(t)
	const last = 400000
	id := w.create(w.spec(fmt.Sprintf("seq 1 %d & seq 1 %d >&2 & wait; echo done; %s", last, last, waiting)))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		cmd := w.child()
		time.Sleep(20 * time.Millisecond) // some of its work
		kill(cmd)
	}
	w.open()
	w.await(id, "done")
	if err := w.Stop(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		n := 0
		for line := range strings.Lines(w.said(id, stream)) {
			if n++; line != strconv.Itoa(n)+"\n" && n <= last {
				t.Fatalf("%s: line %d is %q", stream, n, line)
			}
		}
		if n < last {
			t.Errorf("%s: %d lines", stream, n)
		}
	}
	if st, _ := w.State(id); st.ExitCode != 7 || st.Reason != Failed {
		t.Errorf("after adoption: %+v", st)
	}
}

func TestATerminalAndAnInputThatEndsOutliveTheManager(t *testing.T) {
	for name, tty := range map[string]bool{"terminal": true, "input": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.spec("echo up; while read word; do echo got $word; done; echo end; exit 5")
			s.Stdin, s.StdinOnce, s.TTY = true, true, tty
			id := w.create(s)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for range 3 { // killed again and again
				kill(w.child())
			}
			w.open()
			if st, _ := w.State(id); st.Status != Running {
				t.Fatalf("%+v", st)
			}
			in := "boat\nship\n"
			if tty {
				in += "\x04"
			}
			if err := w.Attach(t.Context(), id, strings.NewReader(in), io.Discard, io.Discard, nil); err != nil {
				t.Error(err)
			}
			if st := w.ended(id); st.ExitCode != 5 {
				t.Errorf("%+v", st)
			}
			said := strings.ReplaceAll(w.said(id, "stdout"), "\r", "")
			for _, want := range []string{"up\n", "got boat\n", "got ship\n", "end\n"} {
				if strings.Count(said, want) != 1 {
					t.Errorf("log %q lacks %q, or has it twice", said, want)
				}
			}
		})
	}
}

func TestNothingOfAnEarlierBootIsTakenForARunningContainer(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec(waiting))
	idle := w.create(w.spec("echo late"))
	w.await(id, "up")
	st, _ := w.State(id)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "run/boot"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if st, _ := w.State(id); st.Status != Exited || st.Reason != Unknown || st.ExitCode != 255 {
		t.Errorf("%+v", st)
	}
	if err := unix.Kill(st.PID, 0); err != nil {
		t.Errorf("a process of that number was harmed: %v", err)
	}
	if err := w.Start(t.Context(), idle); err != nil {
		t.Error(err)
	} else if w.ended(idle); w.said(idle, "stdout") != "late\n" {
		t.Error("it said nothing")
	}
	var status unix.WaitStatus
	if err := unix.Kill(st.PID, unix.SIGKILL); err == nil {
		_, _ = unix.Wait4(st.PID, &status, 0, nil)
	}
	groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", w.group, id))
	for _, group := range groups { // a restart empties these
		_ = os.Remove(group)
	}
}
