package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test program be the copier that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("COPY"); dir != "" {
		c, err := Open(dir, filepath.Join(dir, "log"), nil, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err == nil {
			err = c.Run(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// end opens a FIFO as a container has it.
func end(t *testing.T, dir, name string) *os.File {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// blocked is a client that does not read.
type blocked struct {
	once    sync.Once
	reached chan struct{}
	free    chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	b.once.Do(func() { close(b.reached) })
	<-b.free
	return len(p), nil
}

func TestAClientThatDoesNotReadIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	if err := Make(dir); err != nil {
		t.Fatal(err)
	}
	out, bad := end(t, dir, "stdout"), end(t, dir, "stderr")
	c, err := Open(dir, filepath.Join(dir, "log"), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- c.Run(t.Context()) }()
	stuck := &blocked{reached: make(chan struct{}), free: make(chan struct{})}
	var read bytes.Buffer
	slow, good := make(chan error, 1), make(chan error, 1)
	go func() { slow <- c.Attach(t.Context(), stuck, nil) }()
	go func() { good <- c.Attach(t.Context(), &read, nil) }()
	for attached := 0; attached < 2; {
		c.mu.Lock()
		attached = len(c.attached)
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	text := strings.Repeat(strings.Repeat("x", 999)+"\n", 4<<10) // much more than is queued
	if _, err := out.WriteString(text); err != nil {
		t.Fatal(err)
	}
	_, _ = bad, out.Close()
	c.Finish() // though stderr has a writer
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := <-good; err != nil || read.String() != text {
		t.Errorf("who reads got %d bytes of %d, %v", read.Len(), len(text), err)
	}
	<-stuck.reached
	close(stuck.free)
	if err := <-slow; !errors.Is(err, ErrSlow) {
		t.Errorf("who does not read: %v", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "log"))
	if n := bytes.Count(data, []byte(" stdout F x")); err != nil || n != 4<<10 {
		t.Errorf("%d lines in the log, %v", n, err)
	}
	_ = bad.Close()
}

func TestRotatedLogGoesOnInANewFile(t *testing.T) {
	dir := t.TempDir()
	if err := Make(dir); err != nil {
		t.Fatal(err)
	}
	out, bad := end(t, dir, "stdout"), end(t, dir, "stderr")
	path := filepath.Join(dir, "log")
	c, err := Open(dir, path, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- c.Run(t.Context()) }()
	_, _ = out.WriteString("one\n")
	for data := []byte(nil); !bytes.Contains(data, []byte("one")); data, _ = os.ReadFile(path) {
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(os.Rename(path, path+".1"), c.Reopen()); err != nil {
		t.Fatal(err)
	}
	_, _ = out.WriteString("two\nthr")
	_, _ = out.Close(), bad.Close()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	first, _ := os.ReadFile(path + ".1")
	second, _ := os.ReadFile(path)
	if !bytes.HasSuffix(first, []byte(" stdout F one\n")) || bytes.Count(first, []byte("\n")) != 1 {
		t.Errorf("before: %q", first)
	}
	if !bytes.Contains(second, []byte(" stdout F two\n")) || !bytes.HasSuffix(second, []byte(" stdout P thr\n")) {
		t.Errorf("after: %q", second)
	}
}

// Both streams are written as fast as can be; the copier is killed at random moments.
func TestKillsLoseAndDoubleNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Make(dir); err != nil {
		t.Fatal(err)
	}
	out, bad := end(t, dir, "stdout"), end(t, dir, "stderr")
	const last = 600000
	w := exec.Command("sh", "-c", fmt.Sprintf("seq 1 %d & seq 1 %d >&2 & wait; printf unfinished", last, last))
	w.Stdout, w.Stderr = out, bad
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	copier := func() *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), "COPY="+dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	kills := 0
	ended := make(chan error, 1)
	go func() { ended <- w.Wait() }()
	for running := true; running; {
		c := copier()
		select {
		case <-ended:
			running = false
		case <-time.After(time.Duration(5+rand.IntN(25)) * time.Millisecond):
			kills++
		}
		_ = c.Process.Signal(syscall.SIGKILL)
		_ = c.Wait()
	}
	// The writer has gone; our own ends keep what is in the FIFOs until a copier takes what is left.
	c := exec.Command("/proc/self/exe")
	c.Env, c.Stderr = append(os.Environ(), "COPY="+dir), os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // until it has them open
	_, _ = out.Close(), bad.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	next := map[string]int{"stdout": 1, "stderr": 1}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			t.Fatalf("broken line %q", line)
		}
		if f[2] == "P" && f[3] == "unfinished" {
			continue
		}
		if want := fmt.Sprint(next[f[1]]); f[3] != want || f[2] != "F" {
			t.Fatalf("%s: got %q, want %s", f[1], line, want)
		}
		next[f[1]]++
	}
	if next["stdout"] != last+1 || next["stderr"] != last+1 || !bytes.HasSuffix(data, []byte(" stdout P unfinished\n")) {
		t.Errorf("ended at %v", next)
	}
	t.Logf("%d kills", kills)
}
