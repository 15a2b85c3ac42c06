package leader

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

// shelf keeps one Lease for all, as an API does.
type shelf struct {
	mu      sync.Mutex
	lease   *coordination.Lease
	version int
	marks   map[*seat]func()
}

// seat is one server's way to the shelf, which may be cut or slow.
type seat struct {
	*shelf
	cut  bool
	slow time.Duration
	old  *coordination.Lease // what it sees while it is cut
}

func (s *seat) Lease(string) *coordination.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return s.old
	}
	return s.lease
}

func (s *seat) Put(ctx context.Context, l *coordination.Lease) (*coordination.Lease, error) {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.ResourceVersion == "" && s.lease != nil:
		return nil, apierrors.NewAlreadyExists(leases, l.Name)
	case l.ResourceVersion != "" && s.lease == nil:
		return nil, apierrors.NewNotFound(leases, l.Name)
	case s.lease != nil && l.ResourceVersion != s.lease.ResourceVersion:
		return nil, apierrors.NewConflict(leases, l.Name, errors.New("changed"))
	}
	s.version++
	s.lease = l.DeepCopy()
	s.lease.ResourceVersion = strconv.Itoa(s.version)
	for _, mark := range s.marks {
		mark()
	}
	return s.lease, nil
}

func (s *seat) OnChange(_ string, mark func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks[s] = mark
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.marks, s)
	}
}

func (s *seat) setCut(cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut, s.old = cut, s.lease
}

// office is the thing that only one may do at a time, with a diary.
type office struct {
	t       *testing.T
	mu      sync.Mutex
	holder  string
	begun   time.Time
	history []string
	slow    time.Duration // that leading takes to end
}

func (o *office) lead(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		o.mu.Lock()
		if o.holder != "" {
			o.t.Errorf("after %v %s leads while %s does", time.Since(o.begun), name, o.holder)
		}
		o.holder = name
		o.history = append(o.history, fmt.Sprintf("%v %s", time.Since(o.begun).Truncate(time.Second), name))
		o.mu.Unlock()
		<-ctx.Done()
		time.Sleep(o.slow)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.holder == name {
			o.holder = ""
		}
		return nil
	}
}

func (o *office) now() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.holder
}

func (o *office) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.history)
}

// elect runs servers a, b and c, and what a test does with them.
func elect(t *testing.T, do func(o *office, seats map[string]*seat, stop map[string]func())) {
	synctest.Test(t, func(t *testing.T) {
		sh := &shelf{marks: map[*seat]func(){}}
		o := &office{t: t, begun: time.Now(), slow: time.Second}
		seats, stop := map[string]*seat{}, map[string]func(){}
		var all sync.WaitGroup
		for i, name := range []string{"a", "b", "c"} {
			s := &seat{shelf: sh, slow: time.Duration(i+1) * time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			all.Go(func() {
				defer close(ended)
				if err := New(Config{Name: "control", Me: name, Leases: s}).Run(ctx, o.lead(name)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			seats[name], stop[name] = s, func() { cancel(); <-ended }
		}
		time.Sleep(time.Second)
		do(o, seats, stop)
		for _, s := range stop {
			s()
		}
		all.Wait()
	})
}

func TestOneLeadsAndKeepsTo(t *testing.T) {
	elect(t, func(o *office, seats map[string]*seat, _ map[string]func()) {
		time.Sleep(time.Hour)
		if now, count := o.now(), o.count(); count != 1 || now != "a" {
			t.Errorf("%q leads, the %d. of all", now, count)
		}
		if l := seats["a"].Lease("control"); *l.Spec.LeaseTransitions != 0 || *l.Spec.LeaseDurationSeconds != 15 || time.Since(l.Spec.RenewTime.Time) > 3*time.Second {
			t.Errorf("the lease is %+v", l.Spec)
		}
	})
}

func TestALeaderThatGoesIsFollowedAtOnce(t *testing.T) {
	elect(t, func(o *office, _ map[string]*seat, stop map[string]func()) {
		stop["a"]()
		time.Sleep(time.Second)
		if now := o.now(); now != "b" && now != "c" {
			t.Errorf("%q leads a second later", now)
		}
	})
}

func TestALeaderThatIsCutOffStopsBeforeAnotherBegins(t *testing.T) {
	elect(t, func(o *office, seats map[string]*seat, _ map[string]func()) {
		seats["a"].setCut(true)
		time.Sleep(12 * time.Second) // its deadline, and what it takes to end
		if o.now() != "" {
			t.Errorf("%s leads without its lease", o.now())
		}
		time.Sleep(6 * time.Second)
		next := o.now()
		if next != "b" && next != "c" {
			t.Errorf("%q leads", next)
		}
		seats["a"].setCut(false)
		time.Sleep(time.Minute)
		if o.now() != next {
			t.Errorf("%q leads instead of %q when the first is back", o.now(), next)
		}
	})
}

func TestASlowStoreChangesNoLeader(t *testing.T) {
	elect(t, func(o *office, seats map[string]*seat, _ map[string]func()) {
		for _, s := range seats {
			s.mu.Lock()
			s.slow = 4 * time.Second
			s.mu.Unlock()
		}
		time.Sleep(10 * time.Minute)
		if count := o.count(); count != 1 {
			t.Errorf("%d have led", count)
		}
	})
}

func TestADeletedLeaseIsMadeAgain(t *testing.T) {
	elect(t, func(o *office, seats map[string]*seat, _ map[string]func()) {
		s := seats["a"]
		s.mu.Lock()
		s.lease = nil
		s.mu.Unlock()
		time.Sleep(time.Minute)
		if o.now() == "" || s.Lease("control") == nil {
			t.Errorf("%q leads, by %v", o.now(), s.Lease("control"))
		}
	})
}

func TestAnErrorOfWhatIsLedEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &seat{shelf: &shelf{marks: map[*seat]func(){}}}
		failed := errors.New("broken")
		err := New(Config{Name: "control", Me: "a", Leases: s}).Run(t.Context(), func(context.Context) error { return failed })
		if !errors.Is(err, failed) {
			t.Errorf("it ends with %v", err)
		}
		if h := holderOf(s.Lease("control")); h != "a" {
			t.Errorf("%s has the lease", h)
		}
	})
}
