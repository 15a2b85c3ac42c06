package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// entry is one line as the runtime writes it, so many seconds after noon.
func entry(second int, stream, tag, text string) string {
	return fmt.Sprintf("%s %s %s %s\n", noon.Add(time.Duration(second)*time.Second).Format(time.RFC3339Nano), stream, tag, text)
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	five := entry(1, "stdout", "F", "one") + entry(2, "stderr", "F", "two") + entry(3, "stdout", "F", "three") + entry(4, "stdout", "F", "four") + entry(5, "stdout", "F", "five")
	parts := entry(1, "stdout", "F", "one") + entry(2, "stdout", "P", "tw") + entry(2, "stdout", "P", "o t") + entry(2, "stdout", "F", "wo") + entry(3, "stdout", "F", "three")
	for name, c := range map[string]struct {
		content string
		o       Options
		want    string
	}{
		"all":                                   {five, Options{Tail: -1}, "one\ntwo\nthree\nfour\nfive\n"},
		"the last two":                          {five, Options{Tail: 2}, "four\nfive\n"},
		"more than there are":                   {five, Options{Tail: 99}, "one\ntwo\nthree\nfour\nfive\n"},
		"none":                                  {five, Options{Tail: 0}, ""},
		"since a moment":                        {five, Options{Tail: -1, Since: noon.Add(4 * time.Second)}, "four\nfive\n"},
		"the last three since a moment":         {five, Options{Tail: 3, Since: noon.Add(4 * time.Second)}, "four\nfive\n"},
		"so many bytes":                         {five, Options{Tail: -1, Limit: 6}, "one\ntw"},
		"with times":                            {entry(1, "stdout", "F", "one"), Options{Tail: -1, Timestamps: true}, "2026-11-23T12:00:01.000000000Z one\n"},
		"a line in parts is one":                {parts, Options{Tail: -1}, "one\ntwo two\nthree\n"},
		"a line in parts has one time":          {parts, Options{Tail: 2, Timestamps: true}, "2026-11-23T12:00:02.000000000Z two two\n2026-11-23T12:00:03.000000000Z three\n"},
		"a line in parts counts once":           {parts, Options{Tail: 2}, "two two\nthree\n"},
		"an empty line":                         {entry(1, "stdout", "F", "") + entry(2, "stdout", "F", "x"), Options{Tail: 2}, "\nx\n"},
		"an empty file":                         {"", Options{Tail: 5}, ""},
		"a torn line is left out":               {"2026-11\n" + entry(1, "stdout", "F", "one") + "garbage", Options{Tail: -1}, "one\n"},
		"a line longer than any buffer":         {entry(1, "stdout", "F", strings.Repeat("x", 200_000)), Options{Tail: 1}, strings.Repeat("x", 200_000) + "\n"},
		"the last of very many":                 {strings.Repeat(entry(1, "stdout", "F", strings.Repeat("y", 100)), 5000) + entry(2, "stdout", "F", "end"), Options{Tail: 1}, "end\n"},
		"one line of two, over a block's limit": {strings.Repeat(entry(1, "stdout", "F", strings.Repeat("y", 100)), 5000), Options{Tail: 1000}, strings.Repeat(strings.Repeat("y", 100)+"\n", 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c.o.Stdout, c.o.Stderr = &out, &out
			if err := Read(t.Context(), file(t, c.content), c.o, nil, nil); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != c.want {
				t.Errorf("got %.200q, want %.200q", got, c.want)
			}
		})
	}
}

func TestStreamsApart(t *testing.T) {
	var stdout, stderr bytes.Buffer
	path := file(t, entry(1, "stdout", "F", "out")+entry(2, "stderr", "F", "err"))
	if err := Read(t.Context(), path, Options{Tail: -1, Stdout: &stdout, Stderr: &stderr}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "out\n" || stderr.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
	}
}

func TestMissingFile(t *testing.T) {
	if err := Read(t.Context(), filepath.Join(t.TempDir(), "none"), Options{}, nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// listener gathers what a follower writes, and says when a text has come.
type listener struct {
	mu   sync.Mutex
	text bytes.Buffer
	came chan struct{}
}

func (l *listener) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.came <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

func (l *listener) waitFor(t *testing.T, want string) {
	t.Helper()
	for {
		l.mu.Lock()
		got := l.text.String()
		l.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-l.came:
		case <-t.Context().Done():
			t.Fatalf("got %q, want %q", got, want)
		case <-time.After(20 * time.Second):
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func add(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	path := file(t, entry(1, "stdout", "F", "one"))
	w := NewWatcher()
	defer w.Close()
	var runs atomic.Bool
	runs.Store(true)
	l := &listener{came: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Follow: true, Tail: -1, Stdout: l}, w, runs.Load)
	}()
	l.waitFor(t, "one\n")
	line := entry(2, "stdout", "F", "two")
	add(t, path, line[:20]) // half a line is not told yet
	add(t, path, line[20:])
	l.waitFor(t, "one\ntwo\n")
	rotated, err := Rotate(path, 1, 5, noon, func() error {
		add(t, path+"."+noon.Format("20060102-150405.000000"), entry(3, "stdout", "F", "three")) // the runtime still has the old file
		add(t, path, "")
		return nil
	})
	if err != nil || !rotated {
		t.Fatal(rotated, err)
	}
	add(t, path, entry(4, "stdout", "F", "four"))
	l.waitFor(t, "one\ntwo\nthree\nfour\n")
	add(t, path, entry(5, "stdout", "F", "five")) // the last line, and the end right after it
	runs.Store(false)
	w.Wake(filepath.Dir(path))
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.waitFor(t, "one\ntwo\nthree\nfour\nfive\n")
	if w.file != nil || len(w.paths) != 0 {
		t.Error("the watcher holds an inotify instance though nobody follows")
	}
}

// TestNoLineIsLostAfterTheFirstFlush writes in the very moment in which a listener learns that it follows.
func TestNoLineIsLostAfterTheFirstFlush(t *testing.T) {
	path := file(t, entry(1, "stdout", "F", "one"))
	w := NewWatcher()
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{came: make(chan struct{}, 1)}
	var once sync.Once
	o := Options{Follow: true, Tail: 0, Stdout: l, Flush: func() {
		once.Do(func() { add(t, path, entry(2, "stdout", "F", "two")) })
	}}
	done := make(chan error, 1)
	go func() { done <- Read(ctx, path, o, w, func() bool { return true }) }()
	l.waitFor(t, "two\n")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollowersShareOneInstance(t *testing.T) {
	w := NewWatcher()
	defer w.Close()
	dir := t.TempDir()
	var all []*Watch
	for range 20 {
		h, err := w.Watch(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	if len(w.paths) != 1 {
		t.Errorf("%d watches of one directory", len(w.paths))
	}
	add(t, filepath.Join(dir, "x"), "y")
	for _, h := range all {
		<-h.C
	}
	for _, h := range all {
		h.Close()
	}
	if _, err := w.Watch(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there can be watched")
	}
	if w.file != nil {
		t.Error("the instance stays open")
	}
}

func TestFollowEndsWithItsListener(t *testing.T) {
	path := file(t, "")
	w := NewWatcher()
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Read(ctx, path, Options{Follow: true, Tail: -1}, w, func() bool { return true }) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRotate(t *testing.T) {
	path := file(t, "")
	reopen := func() error { return os.WriteFile(path, nil, 0o640) }
	for i := range 8 {
		if rotated, err := Rotate(path, 10, 5, noon.Add(time.Duration(i)*time.Minute), reopen); err != nil || rotated {
			t.Fatalf("rotated though it is small: %v, %v", rotated, err)
		}
		add(t, path, strings.Repeat("x", 20))
		if rotated, err := Rotate(path, 10, 5, noon.Add(time.Duration(i)*time.Minute), reopen); err != nil || !rotated {
			t.Fatalf("not rotated though it is big: %v, %v", rotated, err)
		}
	}
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range names {
		got = append(got, filepath.Base(n))
	}
	want := "0.log 0.log.20261123-120400.000000.gz 0.log.20261123-120500.000000.gz 0.log.20261123-120600.000000.gz 0.log.20261123-120700.000000"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("files %s\nwant  %s", s, want)
	}
}

func TestRotateThatFailsLeavesTheLog(t *testing.T) {
	path := file(t, "0123456789")
	rotated, err := Rotate(path, 1, 5, noon, func() error { return errors.New("no") })
	if rotated || err == nil {
		t.Errorf("rotated %v, %v", rotated, err)
	}
	if b, _ := os.ReadFile(path); string(b) != "0123456789" {
		t.Errorf("the log is %q", b)
	}
}

func TestLast(t *testing.T) {
	var all strings.Builder
	for i := range 100 {
		all.WriteString(entry(i, "stderr", "F", fmt.Sprint("line ", i)))
	}
	if got := Last(file(t, all.String()), 3, 1000); got != "line 97\nline 98\nline 99\n" {
		t.Errorf("%q", got)
	}
	if got := Last(file(t, all.String()), 80, 10); got != "8\nline 99\n" {
		t.Errorf("%q", got)
	}
	if got := Last("/none", 3, 10); got != "" {
		t.Errorf("%q", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(entry(1, "stdout", "F", "one")+entry(2, "stderr", "P", "x")), int64(1))
	f.Fuzz(func(t *testing.T, b []byte, tail int64) {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: tail % 1000, Stdout: &out, Stderr: &out}, nil, nil); err != nil {
			t.Error(err)
		}
	})
}
