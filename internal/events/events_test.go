package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// board is an API that keeps events, and fails while fail says so.
type board struct {
	mu     sync.Mutex
	events map[string]*corev1.Event
	order  []string
	calls  int
	fail   func(verb string) error
}

func (b *board) Create(_ context.Context, e *corev1.Event) (*corev1.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fail != nil {
		if err := b.fail("create"); err != nil {
			return nil, err
		}
	}
	if b.events == nil {
		b.events = map[string]*corev1.Event{}
	}
	b.events[e.Name] = e.DeepCopy()
	b.order = append(b.order, e.Name)
	return e, nil
}

func (b *board) Patch(_ context.Context, e *corev1.Event) (*corev1.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fail != nil {
		if err := b.fail("patch"); err != nil {
			return nil, err
		}
	}
	if b.events[e.Name] == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("events"), e.Name)
	}
	b.events[e.Name].Count, b.events[e.Name].Message, b.events[e.Name].LastTimestamp = e.Count, e.Message, e.LastTimestamp
	return e, nil
}

// asked is how often the API was called.
func (b *board) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

// lines is what a reader of the events would see, in the order of their creation.
func (b *board) lines() []string {
	var lines []string
	for _, name := range b.order {
		e := b.events[name]
		lines = append(lines, fmt.Sprintf("%s %s %q x%d", e.Type, e.Reason, e.Message, e.Count))
	}
	return lines
}

var web = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", ResourceVersion: "7"}}

// during runs a recorder in fake time and returns what it has written when it has stopped.
func during(t *testing.T, b *board, o Options, do func(r *Recorder)) []string {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := New(b, "kubelet", "n1", o)
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		do(r)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b.lines()
}

func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if !slices.Equal(got, lines) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(lines, "\n  "))
	}
}

func TestAnEventLooksAsKubernetesWritesIt(t *testing.T) {
	b := &board{}
	during(t, b, Options{}, func(r *Recorder) { r.Record(web, "Normal", "Started", "Started container web") })
	e := b.events[b.order[0]]
	stamp := fmt.Sprintf("%x", e.FirstTimestamp.UnixNano())
	if e.Name != "web."+stamp || e.Namespace != "shop" {
		t.Errorf("name %s/%s, want shop/web.%s", e.Namespace, e.Name, stamp)
	}
	if o := e.InvolvedObject; o.Kind != "Pod" || o.APIVersion != "v1" || o.UID != "u1" || o.ResourceVersion != "7" || o.Name != "web" || o.Namespace != "shop" {
		t.Errorf("involved object %+v", o)
	}
	if e.Source.Component != "kubelet" || e.Source.Host != "n1" || e.ReportingController != "kubelet" || e.ReportingInstance != "n1" {
		t.Errorf("source %+v %s %s", e.Source, e.ReportingController, e.ReportingInstance)
	}
}

func TestAnObjectOutsideNamespacesTellsInDefault(t *testing.T) {
	b := &board{}
	during(t, b, Options{}, func(r *Recorder) {
		r.Record(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, "Normal", "Starting", "Starting kubelet.")
	})
	if e := b.events[b.order[0]]; e.Namespace != "default" || e.InvolvedObject.Namespace != "" {
		t.Errorf("event in %q about %q", e.Namespace, e.InvolvedObject.Namespace)
	}
}

func TestARepetitionIsCounted(t *testing.T) {
	b := &board{}
	got := during(t, b, Options{}, func(r *Recorder) {
		for range 3 {
			r.Record(web, "Warning", "BackOff", "Back-off restarting")
			time.Sleep(time.Minute)
		}
		r.Record(web, "Warning", "BackOff", "Back-off pulling")
	})
	want(t, got, `Warning BackOff "Back-off restarting" x3`, `Warning BackOff "Back-off pulling" x1`)
	e := b.events[b.order[0]]
	if d := e.LastTimestamp.Sub(e.FirstTimestamp.Time); d != 2*time.Minute {
		t.Errorf("between first and last: %s", d)
	}
}

func TestAnotherContainerOfThePodIsNoRepetition(t *testing.T) {
	pod := web.DeepCopy()
	pod.Spec.InitContainers = []corev1.Container{{Name: "init"}}
	b := &board{}
	got := during(t, b, Options{}, func(r *Recorder) {
		r.Record(Container(pod, "init"), "Normal", "Pulled", "here")
		synctest.Wait()
		r.Record(Container(pod, "web"), "Normal", "Pulled", "here")
	})
	want(t, got, `Normal Pulled "here" x1`, `Normal Pulled "here" x1`)
	if p := b.events[b.order[0]].InvolvedObject.FieldPath; p != "spec.initContainers{init}" {
		t.Error(p)
	}
	if p := b.events[b.order[1]].InvolvedObject.FieldPath; p != "spec.containers{web}" {
		t.Error(p)
	}
}

func TestTooManyDifferentMessagesBecomeOne(t *testing.T) {
	b := &board{}
	got := during(t, b, Options{}, func(r *Recorder) {
		for i := range 12 {
			r.Recordf(web, "Warning", "Failed", "try %d", i)
			synctest.Wait() // different events may be written in any order
		}
		time.Sleep(similarWithin + time.Second) // and a new group begins
		r.Record(web, "Warning", "Failed", "try 12")
	})
	if len(got) != 11 {
		t.Fatalf("%d events: %q", len(got), got)
	}
	want(t, got[9:], `Warning Failed "(combined from similar events): try 11" x3`, `Warning Failed "try 12" x1`)
}

func TestAnObjectTalkedAboutTooOftenIsSilenced(t *testing.T) {
	b := &board{}
	got := during(t, b, Options{}, func(r *Recorder) {
		for range 40 {
			r.Record(web, "Warning", "BackOff", "again")
		}
		synctest.Wait()
		if n := b.asked(); n != spamBurst {
			t.Errorf("%d writes, want %d", n, spamBurst)
		}
		time.Sleep(spamRefill)
		r.Record(web, "Warning", "BackOff", "again")
	})
	want(t, got, `Warning BackOff "again" x41`)
	if b.calls != spamBurst+1 {
		t.Errorf("%d writes, want one more", b.calls)
	}
}

func TestAFullQueueDropsAndNeverBlocks(t *testing.T) {
	r := New(&board{}, "kubelet", "n1", Options{Queue: 2})
	for i := range 5 {
		r.Recordf(web, "Normal", "Pulled", "%d", i) // nobody reads the queue
	}
	if r.Dropped() != 3 {
		t.Errorf("%d dropped, want 3", r.Dropped())
	}
}

func TestAnExpiredEventIsMadeAnew(t *testing.T) {
	b := &board{}
	got := during(t, b, Options{}, func(r *Recorder) {
		r.Record(web, "Normal", "Pulled", "here")
		synctest.Wait()
		clear(b.events)
		b.order = nil
		r.Record(web, "Normal", "Pulled", "here")
	})
	want(t, got, `Normal Pulled "here" x2`)
}

func TestAnUnreachableAPIIsAskedAgainAndARefusalIsNot(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	b := &board{fail: func(string) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	}}
	got := during(t, b, Options{}, func(r *Recorder) {
		r.Record(web, "Normal", "Pulled", "here")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if b.asked() < 2 {
			t.Errorf("asked %d times", b.asked())
		}
		down.Store(false)
		time.Sleep(10 * time.Second)
	})
	want(t, got, `Normal Pulled "here" x1`)

	b = &board{fail: func(string) error { return apierrors.NewForbidden(corev1.Resource("events"), "", nil) }}
	during(t, b, Options{}, func(r *Recorder) {
		r.Record(web, "Normal", "Pulled", "here")
		time.Sleep(time.Minute)
		synctest.Wait()
	})
	if b.calls != 1 {
		t.Errorf("a refused event was tried %d times", b.calls)
	}
}

func TestWhatIsQueuedWhenTheProcessStopsIsWritten(t *testing.T) {
	b := &board{}
	r := New(b, "kubelet", "n1", Options{})
	r.Record(web, "Normal", "Killing", "Stopping container web")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want(t, b.lines(), `Normal Killing "Stopping container web" x1`)
}

func TestNoTwoEventsShareAName(t *testing.T) {
	b := &board{}
	during(t, b, Options{Now: func() time.Time { return time.Unix(1, 0) }}, func(r *Recorder) {
		r.Record(web, "Normal", "Pulled", "a")
		r.As("scheduler", "").Record(web, "Normal", "Pulled", "b")
	})
	if len(b.events) != 2 {
		t.Errorf("%d events", len(b.events))
	}
}
