package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sampan.dev/internal/store"
)

// writer counts one key up, as a controller would: by compare-and-set, reading again when it does not know.
type writer struct {
	key         string
	acked       store.Record    // the last write that was acknowledged
	possible    map[string]bool // values whose answer was lost
	n, unknowns int
}

func (w *writer) run(ctx context.Context, s *Store, acks *atomic.Int64, done *atomic.Bool) error {
	w.possible = map[string]bool{}
	for !done.Load() {
		w.n++
		value := fmt.Appendf(nil, "%s %d", w.key, w.n)
		r, err := s.Apply(ctx, store.Write{Key: w.key, Value: value, Expect: w.acked.Revision})
		var conflict *store.ConflictError
		switch {
		case err == nil:
			if r.Revision <= w.acked.Revision {
				return fmt.Errorf("%s got revision %d after %d", w.key, r.Revision, w.acked.Revision)
			}
			w.acked = r
			acks.Add(1)
		case errors.Is(err, ErrUnknown):
			w.unknowns++
			w.possible[string(value)] = true
		case errors.Is(err, ErrUnanswered):
		case errors.As(err, &conflict): // only by a write of our own whose answer was lost
			if !w.possible[string(conflict.Current.Value)] {
				return fmt.Errorf("%s: %w, and there is %q, which was not lost", w.key, err, conflict.Current.Value)
			}
			w.acked = conflict.Current
		default:
			return fmt.Errorf("%s: %w", w.key, err)
		}
	}
	return nil
}

// leader returns which process leads.
func leader(t *testing.T, s *Store, all []*process) *process {
	t.Helper()
	for {
		for _, m := range s.Members(t.Context()) {
			if m.Err == nil && m.ID == m.Leads {
				for _, p := range all {
					if p.Client == m.Endpoint {
						return p
					}
				}
			}
		}
	}
}

// Members are killed, stopped and brought back while many write: what was acknowledged is there, and a watch sees all of it, each event once.
func TestMembersGoUnderLoad(t *testing.T) {
	t.Parallel()
	all := processes(t, 3)
	var urls []string
	for _, p := range all {
		urls = append(urls, p.Client)
	}
	s := open(t, Config{Endpoints: urls})
	batches, reason, err := s.Watch(t.Context(), "/", store.First)
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64 // the revision the watch is at
	state := map[string]store.Record{}
	watched := make(chan error, 1)
	go func() {
		for batch := range batches {
			for _, e := range batch {
				was := state[e.Key]
				if e.Revision <= seen.Load() || !bytes.Equal(e.Previous, was.Value) {
					watched <- fmt.Errorf("after revision %d the watch has %s at %d over %q, it was %q", seen.Load(), e.Key, e.Revision, e.Previous, was.Value)
					return
				}
				state[e.Key] = e.Record
				seen.Store(e.Revision)
			}
		}
		watched <- reason()
	}()

	var acks atomic.Int64
	var done atomic.Bool
	defer done.Store(true)
	var group sync.WaitGroup
	writers := make([]*writer, 12)
	for i := range writers {
		writers[i] = &writer{key: fmt.Sprintf("/key/%d", i)}
		group.Go(func() {
			if err := writers[i].run(t.Context(), s, &acks, &done); err != nil {
				t.Error(err)
			}
		})
	}
	// goesOn waits for more writes to be acknowledged and for the watch to have seen them.
	goesOn := func(after string) {
		t.Helper()
		started, from := time.Now(), acks.Load()
		for acks.Load() < from+200 && !t.Failed() {
			time.Sleep(5 * time.Millisecond)
		}
		wrote := time.Since(started)
		for to := s.Revision(); seen.Load() < to && !t.Failed(); {
			select {
			case err := <-watched:
				t.Fatalf("%s: the watch ended: %v", after, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
		t.Logf("%s: 200 writes after %v, seen by the watch after %v", after, wrote.Round(time.Millisecond), time.Since(started).Round(time.Millisecond))
	}
	goesOn("at first")
	p := leader(t, s, all)
	p.signal(t, syscall.SIGKILL)
	goesOn("the leader was killed")
	p.start(t)
	goesOn("it came back")
	i := slices.Index(all, leader(t, s, all))
	for range 2 { // the watch is with one of these two, or with the next
		i = (i + 1) % 3
		all[i].signal(t, syscall.SIGKILL)
		goesOn("a follower was killed")
		all[i].start(t)
		for anyFails(t.Context(), s) {
			time.Sleep(20 * time.Millisecond)
		}
	}
	p = leader(t, s, all)
	p.signal(t, syscall.SIGSTOP)
	goesOn("the leader stands still, its connections open")
	p.signal(t, syscall.SIGCONT)
	goesOn("it runs again")
	done.Store(true)
	group.Wait()

	records, _, err := s.List(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]store.Record{}
	for _, r := range records {
		there[r.Key] = r
	}
	unknowns, late := 0, map[string]bool{} // values that may still come after the list
	for _, w := range writers {
		maps.Copy(late, w.possible)
		r := there[w.key]
		if r.Revision < w.acked.Revision || r.Revision == w.acked.Revision && !bytes.Equal(r.Value, w.acked.Value) || r.Revision > w.acked.Revision && !w.possible[string(r.Value)] {
			t.Errorf("%q at %d was acknowledged, but %q at %d is there", w.acked.Value, w.acked.Revision, r.Value, r.Revision)
		}
		unknowns += w.unknowns
	}
	t.Logf("%d writes acknowledged, of %d it was not known", acks.Load(), unknowns)
	last := int64(0)
	for _, r := range records {
		last = max(last, r.Revision)
	}
	for seen.Load() < last {
		time.Sleep(time.Millisecond)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-watched; !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if !maps.EqualFunc(state, there, func(a, b store.Record) bool {
		return a.Revision == b.Revision && bytes.Equal(a.Value, b.Value) || a.Revision > b.Revision && late[string(a.Value)]
	}) {
		t.Errorf("the watch leaves %v, the list has %v", state, there)
	}
}

func anyFails(ctx context.Context, s *Store) bool {
	for _, m := range s.Members(ctx) {
		if m.Err != nil {
			return true
		}
	}
	return false
}

// Without a majority nothing is answered, and each call says which endpoints are at fault.
func TestNoMajority(t *testing.T) {
	t.Parallel()
	all := processes(t, 3)
	var urls []string
	for _, p := range all {
		urls = append(urls, p.Client)
	}
	s := open(t, Config{Endpoints: urls})
	put(t, s, "/a", "1", 0)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	all[0].signal(t, syscall.SIGKILL)
	all[1].signal(t, syscall.SIGKILL)
	err := s.Ready(t.Context())
	if !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), urls[0]+": ") || !strings.Contains(err.Error(), urls[2]+": ") {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = s.Apply(ctx, store.Write{Key: "/a", Value: []byte("2"), Expect: store.Any})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	all[0].start(t)
	for s.Ready(t.Context()) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	put(t, s, "/b", "1", 0)
}

// Whoever passes on what etcd sends is told when nothing comes any more, and when it comes again; not when one member of three stands still.
func TestSilence(t *testing.T) {
	t.Parallel()
	all := processes(t, 3)
	var urls []string
	for _, p := range all {
		urls = append(urls, p.Client)
	}
	s := open(t, Config{Endpoints: urls})
	batches, _, err := s.Watch(t.Context(), "/", store.First)
	if err != nil {
		t.Fatal(err)
	}
	silence := s.Silence()
	stopped := leader(t, s, all)
	stopped.signal(t, syscall.SIGSTOP)
	for { // until there is another leader it may not be known whether it was made
		_, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte("1"), Expect: store.Any})
		if err == nil {
			break
		}
		if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnanswered) {
			t.Fatal(err)
		}
	}
	<-batches
	select {
	case <-silence:
		t.Fatal("two members of three are heard")
	default:
	}
	if s.Standstill() != 0 {
		t.Error("etcd stands still with two members of three")
	}
	before := s.Stalled() // the write that waited for another leader, for the most part
	for _, p := range all {
		p.signal(t, syscall.SIGSTOP)
	}
	<-silence
	still := s.Standstill()
	if still <= silentAfter || s.Stalled()-before < still {
		t.Errorf("etcd is silent, and stands still for %v; counted are %v", still, s.Stalled()-before)
	}
	for _, p := range all {
		p.signal(t, syscall.SIGCONT)
	}
	for heard := false; !heard; time.Sleep(10 * time.Millisecond) {
		select {
		case <-s.Silence():
		default:
			heard = true
		}
	}
	if still := s.Standstill(); still != 0 {
		t.Errorf("etcd is heard, and stands still for %v", still)
	}
	put(t, s, "/b", "1", 0)
	for batch := range batches {
		if batch[0].Key == "/b" {
			return
		}
	}
	t.Error("the watch has ended")
}
