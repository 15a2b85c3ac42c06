package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopping is a stop under way: when it comes to SIGKILL.
type stopping struct {
	kill  *time.Timer
	until time.Time
}

// Pauses between looks whether a process listens by now.
const (
	firstPause = 5 * time.Millisecond
	mostPause  = time.Second
)

// Stop asks a container to end with its stop signal, and kills it after the timeout. A second call may shorten the time. It returns when the container has
// ended; one that does not run is no error.
func (m *Manager) Stop(ctx context.Context, id string, timeout time.Duration) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	c.op.Lock() // not while it is being started
	state := c.now()
	c.op.Unlock()
	if state.Status == Created {
		return nil
	}
	if state.Status == Running {
		signal := unix.SIGTERM
		if spec, ok := m.Spec(id); ok {
			signal = signalNamed(spec.StopSignal)
		}
		m.askToStop(c, signal, timeout)
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", id, ctx.Err())
	}
}

func (m *Manager) askToStop(c *container, signal unix.Signal, timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Status != Running || c.process == nil {
		return
	}
	until := time.Now().Add(timeout)
	kill := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.process != nil {
			c.process.signal(unix.SIGKILL) // what else is in its group is killed when it has ended
		}
	}
	switch {
	case c.stop == nil:
		c.stop = &stopping{time.AfterFunc(max(timeout, 0), kill), until}
		if timeout > 0 {
			c.ask(signal, firstPause)
		}
	case until.Before(c.stop.until):
		c.stop.kill.Stop()
		c.stop = &stopping{time.AfterFunc(max(timeout, 0), kill), until}
	}
}

// ask sends the signal as soon as the process hears it: the first process of a PID namespace does not before it has a handler
// (pid_namespaces(7)), so that one which has just been started would miss it and use up all its time. The caller holds c.mu.
func (c *container) ask(signal unix.Signal, pause time.Duration) {
	if c.process == nil || !time.Now().Before(c.stop.until) {
		return
	}
	if !deaf(c.process.pid, signal) {
		c.process.signal(signal)
		return
	}
	time.AfterFunc(pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stop != nil {
			c.ask(signal, min(2*pause, mostPause))
		}
	})
}

// deaf says that a process is the first of its PID namespace, and neither handles nor blocks the signal (proc_pid_status(5)).
func deaf(pid int, signal unix.Signal) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	first, hears := false, false
	for line := range strings.Lines(string(data)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "NSpid":
			ids := strings.Fields(value)
			first = len(ids) > 1 && ids[len(ids)-1] == "1"
		case "SigBlk", "SigCgt":
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			hears = hears || err != nil || mask&(1<<(signal-1)) != 0
		}
	}
	return first && !hears
}

// signalNamed knows SIGTERM, TERM and 15; what it does not know is SIGTERM.
func signalNamed(name string) unix.Signal {
	name = strings.ToUpper(strings.TrimSpace(name))
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 {
		return unix.Signal(n)
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		if _, err := fmt.Sscanf(rest, "%d", &n); err == nil && n >= 0 && n < 31 {
			return unix.Signal(34 + n)
		}
	}
	if s := unix.SignalNum(name); s != 0 {
		return s
	}
	return unix.SIGTERM
}

// Remove ends a container if it runs, and removes every trace of it but its log. One that is not there is no error.
func (m *Manager) Remove(ctx context.Context, id string) error {
	c, err := m.get(id)
	if err != nil {
		return nil //nolint:nilerr // that is what is wanted
	}
	if err := m.Stop(ctx, id, 0); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	c.op.Lock()
	defer c.op.Unlock()
	m.forget(id)
	return nil
}
