package runtimeproc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test program stand in for the runtime.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		os.Exit(m.Run())
	case "serve":
		os.Remove(os.Args[1]) // a killed one's stale socket, as the real runtime does
		l, err := net.Listen("unix", os.Args[1])
		if err != nil {
			panic(err)
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() { <-stop; l.Close() }()
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	case "refuse":
		os.Stderr.WriteString("the moon is in the wrong phase\n")
		os.Exit(3)
	}
}

func process(t *testing.T, play string) *Process {
	t.Setenv("PLAY", play)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	return &Process{Program: self, Args: []string{socket}, Socket: socket, Log: filepath.Join(dir, "log"), Logger: slog.New(slog.DiscardHandler)}
}

func TestStartTakesUpWhatRuns(t *testing.T) {
	p := process(t, "serve")
	pid, err := p.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Stop(context.Background(), pid); err != nil {
			t.Error(err)
		}
	}()
	if again, err := p.Start(t.Context()); err != nil || again != pid {
		t.Errorf("a second Start gave pid %d, %v; want the same %d", again, err, pid)
	}
}

func TestRunStartsItAgainAfterAKill(t *testing.T) {
	p := process(t, "serve")
	pid, err := p.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, pid) }()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next := pid
	for next == pid || next == 0 {
		time.Sleep(time.Millisecond)
		next, _ = PeerPID(p.Socket)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Stop(context.Background(), next); err != nil {
		t.Error(err)
	}
}

func TestStartSaysWhatTheRuntimeSaid(t *testing.T) {
	_, err := process(t, "refuse").Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "wrong phase") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error is %v", err)
	}
}

func TestWaitEndsWithItsContextAndWithTheProcess(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wait(ctx, cmd.Process.Pid); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := Wait(t.Context(), cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := Wait(t.Context(), cmd.Process.Pid); err != nil {
		t.Errorf("a process that has gone: %v", err)
	}
}
