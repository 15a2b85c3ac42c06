package etcd

import (
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sampan.dev/internal/store"
)

// wire stands between a client and a member, and can be made to swallow what goes one way.
type wire struct {
	listener      net.Listener
	to            string
	noAsk, noTell atomic.Bool // swallow what the client sends, or what the member answers
	swallowed     chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: strings.TrimPrefix(to, "http://"), swallowed: make(chan struct{}, 1), conns: map[net.Conn]bool{}}
	go w.serve()
	t.Cleanup(func() {
		l.Close()
		w.cut()
	})
	return w
}

func (w *wire) serve() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		w.conns[near], w.conns[far] = true, true
		w.mu.Unlock()
		go w.pass(far, near, &w.noAsk)
		go w.pass(near, far, &w.noTell)
	}
}

func (w *wire) pass(to, from net.Conn, swallow *atomic.Bool) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if swallow.Load() && n > 0 {
			select {
			case w.swallowed <- struct{}{}:
			default:
			}
		} else if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut ends all connections; new ones pass everything.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
	clear(w.conns)
	w.noAsk.Store(false)
	w.noTell.Store(false)
}

// A connection breaks when a write is under way. If it was made it is answered as that, with its own revision, where that can be known; it is never said to
// have been made when it was not.
func TestLostAnswers(t *testing.T) {
	members := plan(t, t.TempDir(), 1)
	t.Cleanup(startAll(t, members))
	direct := open(t, Config{Endpoints: endpoints(members)})
	w := newWire(t, members[0].Client)
	s := open(t, Config{Endpoints: []string{"http://" + w.listener.Addr().String()}})

	was := func(key string) int64 {
		if strings.HasPrefix(key, "/new") {
			return 0
		}
		return put(t, direct, key, "before", store.Any).Revision
	}
	for _, c := range []struct {
		name   string
		made   bool // the answer is lost, not the request
		writes func(at func(key string) int64) []store.Write
		then   func(t *testing.T, made int64) // what others do before the client is back
		want   error
	}{
		{name: "an update was made", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/a", Value: []byte("1"), Expect: at("/a")}}
		}},
		{name: "a create was made", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/new1", Value: []byte("1")}}
		}},
		{name: "an update was made, and another over it", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/b", Value: []byte("1"), Expect: at("/b")}}
		}, then: func(t *testing.T, made int64) { put(t, direct, "/b", "other", made) }},
		{name: "a create was made, and many updates over it", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/new2", Value: []byte("1")}}
		}, then: func(t *testing.T, made int64) {
			for range 20 {
				put(t, direct, "/new2", "other", store.Any)
			}
		}},
		{name: "two creates and a delete were made together", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/new3", Value: []byte("1")}, {Key: "/new4", Value: []byte("2")}, {Key: "/c", Expect: at("/c")}}
		}},
		{name: "a delete was made: who did it is not known", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/d", Expect: at("/d")}}
		}, want: ErrUnknown},
		{name: "a write over anything was made: who did it is not known", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/e", Value: []byte("1"), Expect: store.Any}}
		}, want: ErrUnknown},
		{name: "a create was made, then deleted", made: true, writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/new5", Value: []byte("1")}}
		}, then: func(t *testing.T, made int64) {
			if _, err := direct.Apply(t.Context(), store.Write{Key: "/new5", Expect: made}); err != nil {
				t.Fatal(err)
			}
		}, want: ErrUnknown},
		{name: "an update did not arrive: it is sent again", writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/f", Value: []byte("1"), Expect: at("/f")}}
		}},
		{name: "a delete did not arrive: it is sent again", writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/g", Expect: at("/g")}}
		}},
		{name: "a create did not arrive, and might still", writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/new6", Value: []byte("1")}}
		}, want: ErrUnknown},
		{name: "an update did not arrive, and another was made instead", writes: func(at func(string) int64) []store.Write {
			return []store.Write{{Key: "/h", Value: []byte("1"), Expect: at("/h")}}
		}, then: func(t *testing.T, made int64) { put(t, direct, "/h", "other", store.Any) }, want: store.ErrConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			writes := c.writes(was)
			if err := s.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			start, err := direct.Current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.noAsk.Store(!c.made)
			w.noTell.Store(c.made)
			select { // of something earlier
			case <-w.swallowed:
			default:
			}
			type answer struct {
				records []store.Record
				err     error
			}
			got := make(chan answer, 1)
			go func() {
				records, err := s.ApplyAll(t.Context(), writes)
				got <- answer{records, err}
			}()
			<-w.swallowed
			made := start
			for c.made && made == start {
				if made, err = direct.Current(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if c.then != nil {
				c.then(t, made)
			}
			w.cut()
			a := <-got
			if c.want != nil {
				if !errors.Is(a.err, c.want) {
					t.Fatalf("got %v, %v, want %v", a.records, a.err, c.want)
				}
				return
			}
			if a.err != nil {
				t.Fatal(a.err)
			}
			if !c.made {
				made = start + 1
			}
			for i, r := range a.records {
				if r.Key != writes[i].Key || string(r.Value) != string(writes[i].Value) || r.Revision != made || r.Created > made || r.Created == made != (writes[i].Expect == 0) {
					t.Errorf("got %+v, want what was written at %d", r, made)
				}
			}
		})
	}
}

// Members fall silent with their connections open, as when a machine freezes: a watch that was with one of them goes on with another.
func TestWatchLeavesSilentMembers(t *testing.T) {
	t.Parallel()
	members := plan(t, t.TempDir(), 3)
	t.Cleanup(startAll(t, members))
	direct := open(t, Config{Endpoints: endpoints(members)})
	var wires []*wire
	var urls []string
	for _, m := range members {
		w := newWire(t, m.Client)
		wires, urls = append(wires, w), append(urls, "http://"+w.listener.Addr().String())
	}
	s := open(t, Config{Endpoints: urls})
	batches, reason, err := s.Watch(t.Context(), "/", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	for _, talks := range []int{2, 0} { // after the first round it is with 2, so that the second makes it leave for certain
		for i, w := range wires {
			w.noAsk.Store(i != talks)
			w.noTell.Store(i != talks)
		}
		began := time.Now()
		want := put(t, direct, "/a", members[talks].Name, store.Any)
		batch, ok := <-batches
		if !ok || batch[0].Revision != want.Revision || string(batch[0].Value) != members[talks].Name {
			t.Fatalf("got %v (%v), want %+v", batch, reason(), want)
		}
		t.Logf("the watch went on after %v", time.Since(began).Round(time.Millisecond))
		if r, err := s.Get(t.Context(), "/a"); err != nil || r.Revision != want.Revision {
			t.Errorf("read %+v, %v", r, err)
		}
		t.Logf("a read was answered after %v", time.Since(began).Round(time.Millisecond))
		for i, w := range wires {
			if i != talks {
				w.cut()
			}
		}
	}
}
