package container

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopping is a stop under way: when it comes to SIGKILL.
type stopping struct {
	kill  *time.Timer
	until time.Time
}

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
		if timeout > 0 {
			c.process.signal(signal)
		}
		c.stop = &stopping{time.AfterFunc(max(timeout, 0), kill), until}
	case until.Before(c.stop.until):
		c.stop.kill.Stop()
		c.stop = &stopping{time.AfterFunc(max(timeout, 0), kill), until}
	}
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
