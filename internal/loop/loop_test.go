package loop

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// during runs a loop in fake time while do acts.
func during(t *testing.T, reconcile func(context.Context, Key) error, o Options, do func(l *Loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l := New("test", reconcile, o)
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		do(l)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// diary notes when which key was reconciled.
type diary struct {
	mu    sync.Mutex
	start time.Time
	lines []string
}

func (d *diary) note(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.start.IsZero() {
		d.start = time.Now()
	}
	d.lines = append(d.lines, key.String()+" at "+time.Since(d.start).String())
}

func (d *diary) expect(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, lines) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(d.lines, "\n  "), strings.Join(lines, "\n  "))
	}
}

var a, b = Key{"ns", "a"}, Key{Name: "b"}

func TestMarksOfAWaitingKeyAreOne(t *testing.T) {
	var d diary
	work := func(_ context.Context, key Key) error { d.note(key); time.Sleep(time.Second); return nil }
	during(t, work, Options{}, func(l *Loop) {
		l.Mark(a)
		synctest.Wait() // a is in work
		for range 5 {
			l.Mark(b)
		}
		time.Sleep(time.Minute)
	})
	d.expect(t, "ns/a at 0s", "b at 1s")
}

func TestAMarkDuringTheWorkMakesTheKeyComeBack(t *testing.T) {
	var d diary
	work := func(_ context.Context, key Key) error { d.note(key); time.Sleep(time.Second); return nil }
	during(t, work, Options{Workers: 4}, func(l *Loop) {
		l.Mark(a)
		time.Sleep(time.Second / 2)
		l.Mark(a) // must not begin beside the first
		l.Mark(a)
		time.Sleep(time.Minute)
	})
	d.expect(t, "ns/a at 0s", "ns/a at 1s")
}

func TestDifferentKeysAreWorkedOnAtOnceUpToTheNumberOfWorkers(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	work := func(context.Context, Key) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Second)
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	}
	during(t, work, Options{Workers: 3}, func(l *Loop) {
		for _, name := range strings.Split("abcdefgh", "") {
			l.Mark(Key{Name: name})
		}
		time.Sleep(time.Minute)
	})
	if most != 3 {
		t.Errorf("%d at once, want 3", most)
	}
}

func TestAFailingKeyComesBackLaterEachTimeAndIsLoggedOnceEachTime(t *testing.T) {
	var d diary
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	fails := 5
	work := func(_ context.Context, key Key) error {
		d.note(key)
		if fails > 0 {
			fails--
			return errors.New("disk full")
		}
		return nil
	}
	during(t, work, Options{BackoffFirst: time.Second, BackoffMost: 5 * time.Second, Log: log}, func(l *Loop) {
		l.Mark(a)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(l.keys) != 0 {
			t.Errorf("%d keys remembered after success", len(l.keys))
		}
		fails = 1
		l.Mark(a) // a success forgets the failures before it
		time.Sleep(time.Hour)
	})
	d.expect(t, "ns/a at 0s", "ns/a at 1s", "ns/a at 3s", "ns/a at 7s", "ns/a at 12s", "ns/a at 17s", "ns/a at 1h0m0s", "ns/a at 1h0m1s")
	if n := strings.Count(out.String(), "\n"); n != 6 {
		t.Errorf("%d lines logged for 6 failures:\n%s", n, out.String())
	}
	for _, word := range []string{"loop=test", "key=ns/a", "attempt=2", "delay=2s", `error="disk full"`} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("the log lacks %s:\n%s", word, out.String())
		}
	}
}

func TestMarkAfterFiresOnceAtTheEarliestTime(t *testing.T) {
	var d diary
	work := func(_ context.Context, key Key) error { d.note(key); return nil }
	during(t, work, Options{}, func(l *Loop) {
		l.Mark(Key{Name: "now"})
		l.MarkAfter(a, time.Hour)
		l.MarkAfter(b, 30*time.Minute)
		l.MarkAfter(a, time.Minute)
		l.MarkAfter(a, 2*time.Hour)
		time.Sleep(3 * time.Hour)
	})
	d.expect(t, "now at 0s", "ns/a at 1m0s", "b at 30m0s")
}

func TestMarksBeforeRunAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		l := New("test", func(_ context.Context, key Key) error { d.note(key); return nil }, Options{})
		l.Mark(a)
		l.MarkAfter(b, time.Minute)
		time.Sleep(time.Hour)
		d.expect(t)
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
		d.expect(t, "ns/a at 0s", "b at 0s")
	})
}

func TestRunReturnsAfterItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finished := false
		l := New("test", func(context.Context, Key) error { time.Sleep(time.Minute); finished = true; return nil }, Options{})
		l.Mark(a)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := l.Run(ctx); err != nil || !finished {
			t.Errorf("Run returned %v, the worker had finished: %t", err, finished)
		}
	})
}

func TestResyncMarksEverything(t *testing.T) {
	var d diary
	all := func() iter.Seq[Key] { return slices.Values([]Key{a, b}) }
	work := func(_ context.Context, key Key) error { d.note(key); return nil }
	during(t, work, Options{Resync: time.Hour, All: all}, func(*Loop) { time.Sleep(2*time.Hour + time.Minute) })
	d.expect(t, "ns/a at 0s", "b at 0s", "ns/a at 1h0m0s", "b at 1h0m0s")
}

func TestAnIdleLoopHasNoWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l := New("test", func(context.Context, Key) error { return nil }, Options{Workers: 8})
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 1000 {
			l.Mark(Key{Name: string(rune(i))})
			l.MarkAfter(Key{Name: "later" + string(rune(i))}, time.Hour)
		}
		synctest.Wait()
		if now := runtime.NumGoroutine(); now > before {
			t.Errorf("%d goroutines, before the work %d", now, before)
		}
		stop()
		<-done
	})
}

func TestMetricsCarryKubernetesNames(t *testing.T) {
	m := NewMetrics()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m)
	fail := true
	work := func(context.Context, Key) error {
		if fail {
			fail = false
			return errors.New("once")
		}
		return nil
	}
	during(t, work, Options{Metrics: m}, func(l *Loop) { l.Mark(a); time.Sleep(time.Minute) })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, v := range f.Metric {
			values[f.GetName()] = v.GetCounter().GetValue() + v.GetGauge().GetValue() + float64(v.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"workqueue_adds_total": 2, "workqueue_retries_total": 1, "workqueue_depth": 0,
		"workqueue_work_duration_seconds": 2, "workqueue_queue_duration_seconds": 2,
		"workqueue_unfinished_work_seconds": 0, "workqueue_longest_running_processor_seconds": 0,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v (there: %t)", name, got, want, ok)
		}
	}
}

func TestTheQueueGivesItsMemoryBack(t *testing.T) {
	var f fifo
	for i := range 5000 {
		f.push(Key{Name: string(rune(i))})
	}
	for i := range 5000 {
		if key, ok := f.pop(); !ok || key.Name != string(rune(i)) {
			t.Fatalf("key %d is %v", i, key)
		}
	}
	if _, ok := f.pop(); ok || cap(f.keys) > 1024 {
		t.Errorf("an empty queue keeps room for %d keys", cap(f.keys))
	}
}

func BenchmarkMarkAndReconcile(bench *testing.B) {
	ctx, stop := context.WithCancel(context.Background())
	l := New("bench", func(context.Context, Key) error { return nil }, Options{Workers: 4})
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	for i := range bench.N {
		l.Mark(Key{Namespace: "ns", Name: string(rune(i % 1000))})
	}
	stop()
	<-done
}
