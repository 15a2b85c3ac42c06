package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestExec(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec(waiting))
	for name, c := range map[string]struct {
		script, in, out, bad string
		code                 int32
		tty                  bool
	}{
		"it has the container's environment": {script: "echo $WORD; echo bad >&2", out: "boat\n", bad: "bad\n"},
		"it ends with a code":                {script: "exit 5", code: 5},
		"it is killed":                       {script: "kill -9 $$", code: 137},
		"it reads":                           {script: "cat; echo end", in: "in\n", out: "in\nend\n"},
		"it has a terminal":                  {script: "tty; test -t 0 && exit 4", out: "/dev/pts/0\r\n", code: 4, tty: true},
		"what it starts holds its output":    {script: "sleep 1000 & echo out", out: "out\n"},
		"it writes much":                     {script: "head -c 3000000 /dev/zero | tr '\\0' x", out: strings.Repeat("x", 3000000)},
	} {
		t.Run(name, func(t *testing.T) {
			var out, bad bytes.Buffer
			e := ExecSpec{Args: []string{"sh", "-c", c.script}, TTY: c.tty, Stdout: &out, Stderr: &bad}
			if c.in != "" {
				e.Stdin = strings.NewReader(c.in)
			}
			code, err := w.Exec(t.Context(), id, e)
			if err != nil || code != c.code || out.String() != c.out || bad.String() != c.bad {
				t.Errorf("%d, %v, out %.100q, err %q", code, err, out.String(), bad.String())
			}
		})
	}
	if _, err := w.Exec(t.Context(), id, ExecSpec{Args: []string{"/no/such"}}); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, err := w.Exec(t.Context(), id, ExecSpec{Args: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it takes too long: %v", err)
	}
	if err := w.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Exec(t.Context(), id, ExecSpec{Args: []string{"true"}}); !errors.Is(err, ErrState) {
		t.Errorf("in one that has ended: %v", err)
	}
}

// lazy is a client that begins to read late, longer after the process's end than its output is waited for.
type lazy struct {
	bytes.Buffer
	once sync.Once
}

func (l *lazy) Write(p []byte) (int, error) {
	l.once.Do(func() { time.Sleep(3 * lingering) })
	return l.Buffer.Write(p)
}

func TestExecCutsNothingForASlowReader(t *testing.T) {
	w := newWorld(t)
	id := w.run(w.spec(waiting))
	var out lazy
	const size = 90000 // more than one read takes, and little enough for the process to end at once
	if _, err := w.Exec(t.Context(), id, ExecSpec{Args: []string{"head", "-c", "90000", "/dev/zero"}, Stdout: &out}); err != nil || out.Len() != size {
		t.Errorf("%d bytes of %d, %v", out.Len(), size, err)
	}
}

// blocked is a client that does not read until it is freed.
type blocked struct {
	once          sync.Once
	reached, free chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	b.once.Do(func() { close(b.reached) })
	<-b.free
	return len(p), nil
}

func TestAClientThatDoesNotReadDelaysNoEnd(t *testing.T) {
	w := newWorld(t)
	s := w.spec("read word; yes line | head -n 1000000; exit 3")
	s.Stdin = true
	id := w.run(s)
	stuck := &blocked{reached: make(chan struct{}), free: make(chan struct{})}
	attached := make(chan error, 1)
	go func() { attached <- w.Attach(t.Context(), id, strings.NewReader("go\n"), stuck, nil, nil) }()
	<-stuck.reached
	if st := w.ended(id); st.ExitCode != 3 {
		t.Errorf("%+v", st)
	}
	if n := strings.Count(w.said(id, "stdout"), "line\n"); n != 1000000 {
		t.Errorf("%d lines in the log", n)
	}
	close(stuck.free)
	if err := <-attached; err == nil {
		t.Error("it is not told that it has missed something")
	}
}

func TestAttach(t *testing.T) {
	w := newWorld(t)
	for name, tty := range map[string]bool{"pipes": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			s := w.spec("read word; echo got $word; cat; echo end")
			s.Stdin, s.StdinOnce, s.TTY = true, true, tty
			id := w.run(s)
			in := "boat\nmore\n"
			if tty {
				in += "\x04"
			}
			var out bytes.Buffer
			if err := w.Attach(t.Context(), id, strings.NewReader(in), &out, io.Discard, nil); err != nil {
				t.Error(err)
			}
			w.ended(id)
			said := strings.ReplaceAll(w.said(id, "stdout"), "\r", "")
			if !strings.Contains(said, "got boat\n") || !strings.Contains(said, "more\n") || !strings.HasSuffix(said, "end\n") {
				t.Errorf("log %q", said)
			}
			if got := strings.ReplaceAll(out.String(), "\r", ""); !strings.Contains(got, "got boat\n") || !strings.HasSuffix(got, "end\n") {
				t.Errorf("seen %q", got)
			}
		})
	}
}
