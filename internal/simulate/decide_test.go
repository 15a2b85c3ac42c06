package simulate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func profile(t testing.TB, text string) *Profile {
	t.Helper()
	p, err := ParseProfiles([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p.For(&corev1.Pod{})
}

const exactly = `defaults: {start: {min: 2s, max: 2s}, init: {min: 1s, max: 1s}, ready: {min: 3s, max: 3s}, run: {min: 10s, max: 10s}, crash: {min: 4s, max: 4s}, stop: {min: 1s, max: 1s}`

func newPod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1", CreationTimestamp: metav1.NewTime(noon)},
		Spec: corev1.PodSpec{
			NodeName: "sim-0", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(30)),
			Containers: []corev1.Container{{Name: "main", Image: "web:1"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func onFailure(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }
func never(p *corev1.Pod)     { p.Spec.RestartPolicy = corev1.RestartPolicyNever }
func withInit(p *corev1.Pod) {
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "init"}, {Name: "beside", Image: "side", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
}
func held(p *corev1.Pod) { p.Finalizers = []string{"example.com/held"} }

// told is a pod in short, as a person would see it.
func told(s *corev1.PodStatus) string {
	var b strings.Builder
	fmt.Fprint(&b, s.Phase)
	if s.Reason != "" {
		fmt.Fprintf(&b, "(%s)", s.Reason)
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&b, " %s:", c.Name)
			switch {
			case c.State.Running != nil:
				fmt.Fprint(&b, "running")
			case c.State.Terminated != nil:
				fmt.Fprintf(&b, "%s/%d", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
			default:
				fmt.Fprint(&b, c.State.Waiting.Reason)
			}
			if c.Ready {
				fmt.Fprint(&b, "+")
			}
			if c.RestartCount > 0 {
				fmt.Fprintf(&b, "*%d", c.RestartCount)
			}
		}
	}
	for _, c := range s.Conditions {
		if c.Status == corev1.ConditionTrue && c.Type == corev1.PodReady {
			fmt.Fprint(&b, " ready")
		}
	}
	return b.String()
}

// world is one pod on a node, and the time.
type world struct {
	t       testing.TB
	pod     *corev1.Pod // nil: deleted
	now     time.Time
	profile *Profile
	away    Away
	moment  time.Time
	story   []string
	wake    time.Time
}

// settle decides and applies until nothing is to be done at this time.
func (w *world) settle() {
	w.t.Helper()
	for n := 0; w.pod != nil; n++ {
		if n > 20 {
			w.t.Fatalf("no rest at %v: %q", w.now.Sub(noon), w.story)
		}
		in := Input{Pod: w.pod.DeepCopy(), Profile: w.profile, HostIP: "192.0.2.1", Away: w.away, Moment: w.moment, Now: w.now}
		step := Decide(in)
		if step.NeedsAddress {
			in.PodIPs = []corev1.PodIP{{IP: "10.42.0.7"}}
			step = Decide(in)
		}
		w.wake = step.Wake
		if !step.Wake.IsZero() && !step.Wake.After(w.now) {
			w.t.Fatalf("at %v it is to be looked at again at %v, which is past: %q", w.now.Sub(noon), step.Wake.Sub(noon), w.story)
		}
		switch {
		case step.Delete:
			w.wake = time.Time{}
			if len(w.pod.Finalizers) > 0 {
				return // the object does not change any more
			}
			w.pod = nil
			w.note("gone")
		case step.Status == nil:
			return
		default:
			w.pod.Status, w.moment = *step.Status, w.now
			w.note(told(step.Status))
		}
	}
}

func (w *world) note(what string) {
	w.story = append(w.story, fmt.Sprintf("%v %s", w.now.Sub(noon), what))
}

// until lets time pass.
func (w *world) until(end time.Time) {
	w.t.Helper()
	w.settle()
	for w.pod != nil && !w.wake.IsZero() && !w.wake.After(end) {
		w.now = w.wake
		w.settle()
	}
	w.now = end
}

func TestPodsBehaveAsTheirProfileSays(t *testing.T) {
	for name, c := range map[string]struct {
		profile string
		pod     []func(*corev1.Pod)
		length  time.Duration
		want    []string
	}{
		"a pod starts, and is ready after a while": {
			exactly + "}", nil, time.Hour,
			[]string{"0s Pending main:ContainerCreating", "2s Running main:running", "5s Running main:running+ ready"},
		},
		"without any delay it is ready at once": {
			"defaults: {start: {}, ready: {}}", nil, time.Hour, []string{"0s Running main:running+ ready"},
		},
		"init containers run before, one after another, and sidecars beside": {
			exactly + "}",
			[]func(*corev1.Pod){withInit},
			time.Hour,
			[]string{
				"0s Pending first:PodInitializing beside:PodInitializing main:PodInitializing",
				"2s Pending first:running beside:PodInitializing main:PodInitializing",
				"3s Running first:Completed/0+ beside:running main:running",
				"6s Running first:Completed/0+ beside:running+ main:running+ ready",
			},
		},
		"a Job's pod ends": {
			exactly + "}",
			[]func(*corev1.Pod){onFailure},
			time.Hour,
			[]string{"0s Pending main:ContainerCreating", "2s Running main:running", "5s Running main:running+ ready", "12s Succeeded main:Completed/0"},
		},
		"a Job's pod that fails is not started again if that is its policy": {
			exactly + ", fail: 1}",
			[]func(*corev1.Pod){never},
			time.Hour,
			[]string{"0s Pending main:ContainerCreating", "2s Running main:running", "5s Running main:running+ ready", "12s Failed main:Error/1"},
		},
		"a pod that crashes is started at once, and then later each time": {
			exactly + ", fail: 1, ready: {min: 1m}}", nil, time.Minute,
			[]string{
				"0s Pending main:ContainerCreating", "2s Running main:running", "6s Running main:running*1", "10s Running main:CrashLoopBackOff*1",
				"20s Running main:running*2", "24s Running main:CrashLoopBackOff*2", "44s Running main:running*3", "48s Running main:CrashLoopBackOff*3",
			},
		},
		"a pod ends at its deadline": {
			exactly + "}",
			[]func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(4)) }},
			time.Hour,
			[]string{"0s Pending main:ContainerCreating", "2s Running main:running", "4s Failed(DeadlineExceeded) main:Error/143"},
		},
		"a pod that has ended stays as it is": {
			exactly + "}", []func(*corev1.Pod){func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }}, time.Hour, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := c.profile
			if strings.Count(text, "ready:") > 1 {
				text = strings.Replace(text, "ready: {min: 3s, max: 3s}, ", "", 1)
			}
			w := &world{t: t, pod: newPod(c.pod...), now: noon, profile: profile(t, text)}
			w.until(noon.Add(c.length))
			if got, want := strings.Join(w.story, "\n"), strings.Join(c.want, "\n"); got != want {
				t.Errorf("it was\n%s\nwanted\n%s", got, want)
			}
		})
	}
}

func TestDeletedPodsEndWithinTheirGrace(t *testing.T) {
	for name, c := range map[string]struct {
		pod   []func(*corev1.Pod)
		grace int64
		after time.Duration // of the start
		want  []string
	}{
		"one that runs takes its time":                           {nil, 30, time.Minute, []string{"1m1s gone"}},
		"one that runs and has no grace goes at once":            {nil, 0, time.Minute, []string{"1m0s gone"}},
		"one that does not run yet goes at once":                 {nil, 30, time.Second, []string{"1s gone"}},
		"who holds it is told how it ended, and then it may go":  {[]func(*corev1.Pod){held}, 30, time.Minute, []string{"1m1s Failed main:Error/143"}},
		"one that has ended goes at once":                        {[]func(*corev1.Pod){never}, 30, time.Minute, []string{"1m0s gone"}},
		"one that has ended and is held has nothing more to say": {[]func(*corev1.Pod){never, held}, 30, time.Minute, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, pod: newPod(c.pod...), now: noon, profile: profile(t, exactly+"}")}
			w.until(noon.Add(c.after))
			w.story = nil
			w.pod.DeletionTimestamp, w.pod.DeletionGracePeriodSeconds = new(metav1.NewTime(w.now.Add(time.Duration(c.grace)*time.Second))), &c.grace
			w.until(noon.Add(time.Hour))
			if got, want := strings.Join(w.story, "\n"), strings.Join(c.want, "\n"); got != want {
				t.Errorf("it was\n%s\nwanted\n%s", got, want)
			}
		})
	}
}

func TestPodsOfANodeThatWasAway(t *testing.T) {
	tolerates := func(seconds *int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
		}
	}
	for name, c := range map[string]struct {
		pod    []func(*corev1.Pod)
		length time.Duration
		crash  bool
		want   string
		last   string // how the container ended before
	}{
		"after a crash what ran is started again":                         {nil, time.Second, true, "Running main:running*1", "ContainerStatusUnknown/137"},
		"after a crash a pod that is not restarted has failed":            {[]func(*corev1.Pod){never}, time.Second, true, "Failed main:ContainerStatusUnknown/137", ""},
		"a short partition changes nothing":                               {[]func(*corev1.Pod){tolerates(new(int64(30)))}, 37 * time.Second, false, "Running main:running+ ready", ""},
		"in a long one the pod was stopped":                               {[]func(*corev1.Pod){tolerates(new(int64(30)))}, 38 * time.Second, false, "Running main:running*1", "Error/143"},
		"one that tolerates everything ran on":                            {[]func(*corev1.Pod){tolerates(nil)}, time.Hour, false, "Running main:running+ ready", ""},
		"one that tolerates nothing was stopped as soon as that was seen": {nil, 8 * time.Second, false, "Running main:running*1", "Error/143"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, pod: newPod(c.pod...), now: noon, profile: profile(t, exactly+"}")}
			w.until(noon.Add(6 * time.Second))
			from := w.now
			w.now = from.Add(c.length)
			w.away = Away{From: from, Until: w.now, Crash: c.crash, Grace: 8 * time.Second}
			w.settle()
			if got := told(&w.pod.Status); got != c.want {
				t.Errorf("it is %q, wanted %q", got, c.want)
			}
			last := ""
			if e := w.pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; e != nil {
				last = fmt.Sprintf("%s/%d", e.Reason, e.ExitCode)
			}
			if last != c.last {
				t.Errorf("it ended before by %q, wanted %q", last, c.last)
			}
		})
	}
}

// From any state, and whenever it is looked at, a pod comes to rest: it runs, has ended or is gone, or waits for a time that comes.
func TestEveryPodComesToRest(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		changes := []func(*corev1.Pod){}
		for _, c := range []func(*corev1.Pod){onFailure, never, withInit, held} {
			if r.IntN(3) == 0 {
				changes = append(changes, c)
			}
		}
		pod := newPod(changes...)
		pod.Name, pod.UID = fmt.Sprintf("p%d", seed), types.UID(fmt.Sprint(seed))
		w := &world{t: t, pod: pod, now: noon.Add(time.Duration(r.IntN(1e9))), profile: profile(t, "defaults: {fail: 0.5, crash: {min: 0s, max: 25m}}")}
		for range r.IntN(8) {
			w.until(w.now.Add(time.Duration(r.Int64N(int64(3 * time.Minute)))))
			if r.IntN(4) == 0 {
				from := w.now
				w.now = w.now.Add(time.Duration(r.Int64N(int64(time.Minute))))
				w.away = Away{From: from, Until: w.now, Crash: r.IntN(2) == 0, Grace: 8 * time.Second}
			}
		}
		w.settle()
		for i, c := range pod.Status.ContainerStatuses {
			if c.State.Running == nil && c.State.Terminated == nil && c.State.Waiting == nil {
				t.Fatalf("container %d has no state: %q", i, w.story)
			}
		}
		if w.pod.Status.Phase == corev1.PodPending && w.wake.IsZero() {
			t.Fatalf("seed %d: it is pending, and waits for nothing: %q", seed, w.story)
		}
		// Deleted, it goes, or says how it ended to whoever holds it.
		w.pod.DeletionTimestamp, w.pod.DeletionGracePeriodSeconds = new(metav1.NewTime(w.now.Add(30*time.Second)).Rfc3339Copy()), new(int64(30))
		w.until(w.now.Add(31 * time.Second))
		if len(pod.Finalizers) == 0 && w.pod != nil {
			t.Fatalf("seed %d: it is deleted, and there: %q", seed, w.story)
		}
		if w.pod != nil && w.pod.Status.Phase != corev1.PodSucceeded && w.pod.Status.Phase != corev1.PodFailed {
			t.Fatalf("seed %d: it is deleted, and has not ended: %q", seed, w.story)
		}
	}
}
