package probe

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// story is a container whose probes answer by the clock, and what became of it.
type story struct {
	begin time.Time

	mu    sync.Mutex
	lines []string
	watch *Watch
}

func (s *story) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%s ", time.Since(s.begin).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// answers are what a probe finds, by the time since the container's start: the first entry whose time has not come yet.
type answers []struct {
	until  time.Duration
	result Result
}

func (a answers) at(d time.Duration) Result {
	for _, e := range a {
		if d < e.until {
			return e.result
		}
	}
	return Success
}

// play watches a container for a while, and tells what happened.
func play(t *testing.T, c corev1.Container, before *Verdict, say map[string]answers, takes, lasts time.Duration, during ...func(*Watch)) string {
	t.Helper()
	s := &story{}
	synctest.Test(t, func(*testing.T) {
		s.begin = time.Now()
		began := s.begin
		if before != nil {
			began = began.Add(-time.Hour)
		}
		kindOf := map[*corev1.Probe]string{c.StartupProbe: Startup, c.LivenessProbe: Liveness, c.ReadinessProbe: Readiness}
		s.mu.Lock()
		w := Begin(Options{
			Container: &c, Began: began, Before: before,
			Run: func(p *corev1.Probe) (Result, string, error) {
				time.Sleep(takes)
				r := say[kindOf[p]].at(time.Since(s.begin))
				if r == Unknown {
					return r, "", fmt.Errorf("no runtime")
				}
				return r, "text", nil
			},
			Tell:  func(reason, message string) { s.note("%s %s", reason, message) },
			Count: func(string, Result, time.Duration) {},
			Changed: func() {
				s.mu.Lock()
				v := s.watch.Verdict()
				s.mu.Unlock()
				s.note("started=%t ready=%t failed=%s", v.Started, v.Ready, v.Failed)
			},
		})
		s.watch = w
		s.mu.Unlock()
		for _, f := range during {
			f(w)
		}
		time.Sleep(lasts)
		w.Stop()
		time.Sleep(time.Minute) // what is under way ends unheard
	})
	return strings.Join(s.lines, "\n")
}

func every(seconds int32, change ...func(*corev1.Probe)) *corev1.Probe {
	p := &corev1.Probe{PeriodSeconds: seconds, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestProbesOverTime(t *testing.T) {
	const s = time.Second
	delay := func(n int32) func(*corev1.Probe) { return func(p *corev1.Probe) { p.InitialDelaySeconds = n } }
	successes := func(n int32) func(*corev1.Probe) { return func(p *corev1.Probe) { p.SuccessThreshold = n } }
	for name, c := range map[string]struct {
		c      corev1.Container
		before *Verdict
		say    map[string]answers
		takes  time.Duration
		lasts  time.Duration
		during func(*Watch)
		want   []string
	}{
		"ready at once": {
			c: corev1.Container{ReadinessProbe: every(10)}, lasts: 9 * s,
			want: []string{"0s started=true ready=true failed="},
		},
		"not before the initial delay": {
			c: corev1.Container{ReadinessProbe: every(10, delay(5))}, lasts: 9 * s,
			want: []string{"5s started=true ready=true failed="},
		},
		"ready soon after it listens, and nothing is told of the time before": {
			c: corev1.Container{ReadinessProbe: every(10)}, say: map[string]answers{Readiness: {{100 * time.Millisecond, Failure}}}, lasts: 9 * s,
			want: []string{"140ms started=true ready=true failed="},
		},
		"what does not come in the first period is told": {
			c: corev1.Container{ReadinessProbe: every(2)}, say: map[string]answers{Readiness: {{5 * s, Failure}}}, lasts: 7 * s,
			want: []string{"2s Unhealthy Readiness probe failed: text", "4s Unhealthy Readiness probe failed: text", "6s started=true ready=true failed="},
		},
		"unready after three failures in a row, ready after one success": {
			c: corev1.Container{ReadinessProbe: every(1)}, say: map[string]answers{Readiness: {{s / 2, Success}, {4 * s, Failure}}}, lasts: 5 * s,
			want: []string{
				"0s started=true ready=true failed=", "1s Unhealthy Readiness probe failed: text", "2s Unhealthy Readiness probe failed: text",
				"3s Unhealthy Readiness probe failed: text", "3s started=true ready=false failed=", "4s started=true ready=true failed=",
			},
		},
		"ready after so many successes": {
			c: corev1.Container{ReadinessProbe: every(1, successes(3))}, lasts: 5 * s,
			want: []string{"2s started=true ready=true failed="},
		},
		"a warning is a success": {
			c: corev1.Container{ReadinessProbe: every(10)}, say: map[string]answers{Readiness: {{s, Warning}}}, lasts: 9 * s,
			want: []string{"0s ProbeWarning Readiness probe warning: text", "0s started=true ready=true failed="},
		},
		"one that cannot be carried out says nothing of the container": {
			c: corev1.Container{LivenessProbe: every(1)}, say: map[string]answers{Liveness: {{3 * s, Unknown}}}, lasts: 5*s + s/2,
			want: []string{
				"0s Unhealthy Liveness probe errored and resulted in unknown state: no runtime", "1s Unhealthy Liveness probe errored and resulted in unknown state: no runtime",
				"2s Unhealthy Liveness probe errored and resulted in unknown state: no runtime",
			},
		},
		"dead after three failures, and not asked again": {
			c: corev1.Container{LivenessProbe: every(5)}, say: map[string]answers{Liveness: {{time.Hour, Failure}}}, lasts: 100 * s,
			want: []string{
				"0s Unhealthy Liveness probe failed: text", "5s Unhealthy Liveness probe failed: text", "10s Unhealthy Liveness probe failed: text",
				"10s started=true ready=true failed=liveness",
			},
		},
		"startup holds the others back": {
			c:   corev1.Container{StartupProbe: every(1), ReadinessProbe: every(10), LivenessProbe: every(10)},
			say: map[string]answers{Startup: {{s / 10, Failure}}, Readiness: {{s, Failure}}}, lasts: 3 * s,
			want: []string{"140ms started=true ready=false failed=", "1.4s started=true ready=true failed="},
		},
		"a start that does not come": {
			c:   corev1.Container{StartupProbe: every(1), ReadinessProbe: every(1)},
			say: map[string]answers{Startup: {{time.Hour, Failure}}}, lasts: 60 * s,
			want: []string{
				"1s Unhealthy Startup probe failed: text", "2s Unhealthy Startup probe failed: text", "3s Unhealthy Startup probe failed: text",
				"3s started=false ready=false failed=startup",
			},
		},
		"taken over: what was found stays until it is found again": {
			c: corev1.Container{ReadinessProbe: every(1, delay(500))}, before: &Verdict{Started: true, Ready: true},
			say: map[string]answers{Readiness: {{time.Hour, Failure}}}, lasts: 3 * s,
			want: []string{"Unhealthy", "Unhealthy", "Unhealthy", "started=true ready=false failed="},
		},
		"while it ends nothing kills it, and it stays ready while it answers": {
			c: corev1.Container{LivenessProbe: every(1), ReadinessProbe: every(1)}, say: map[string]answers{Liveness: {{time.Hour, Failure}}, Readiness: {{2 * s, Success}, {time.Hour, Failure}}},
			lasts: 4*s + s/2, during: func(w *Watch) { w.Terminating() },
			want: []string{
				"0s started=true ready=true failed=", "2s Unhealthy Readiness probe failed: text", "3s Unhealthy Readiness probe failed: text",
				"4s Unhealthy Readiness probe failed: text", "4s started=true ready=false failed=",
			},
		},
		"slow answers do not shift the period": {
			c: corev1.Container{LivenessProbe: every(2)}, say: map[string]answers{Liveness: {{time.Hour, Failure}}}, takes: s / 2, lasts: 10 * s,
			want: []string{
				"500ms Unhealthy Liveness probe failed: text", "2.5s Unhealthy Liveness probe failed: text", "4.5s Unhealthy Liveness probe failed: text",
				"4.5s started=true ready=true failed=liveness",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var during []func(*Watch)
			if c.during != nil {
				during = append(during, c.during)
			}
			got := play(t, c.c, c.before, c.say, c.takes, c.lasts, during...)
			if c.before != nil { // begun by lot: only what happens counts
				lines := strings.Split(got, "\n")
				if !slices.EqualFunc(lines, c.want, strings.Contains) {
					t.Errorf("got\n%s", got)
				}
				return
			}
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
