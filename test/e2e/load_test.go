package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
)

// caller speaks HTTPS with one server, as its administrator and as any other client does.
type caller struct {
	base string
	http *http.Client
}

func (c *cluster) caller() *caller {
	c.t.Helper()
	inst, err := instance.At(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg, err := client.FromKubeconfig(inst.Kubeconfig(), "")
	if err != nil {
		c.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 2 * time.Second}}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &caller{"https://" + c.on.addr + ":6443", &http.Client{Transport: transport}}
}

// statusError is an answer that is no success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.text) }

func isCode(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == code
}

// do sends one request and reads its answer into an object, or as text into a *string.
func (c *caller) do(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	switch text, ok := into.(*string); {
	case ok:
		*text = string(data)
	case err == nil && resp.StatusCode < 300 && into != nil:
		err = json.Unmarshal(data, into)
	}
	if err == nil && resp.StatusCode >= 300 {
		err = &statusError{resp.StatusCode, string(data)}
	}
	return err
}

const loadMaps = "/api/v1/namespaces/load/configmaps"

// load is what several clients write to any of the servers, and what a watch at each of them sees of it.
type load struct {
	t       *testing.T
	servers []*caller
	writing atomic.Bool
	writers sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	acked map[string]bool
	lost  map[string]bool // whose answer never came, and which were not asked for again
	count map[string]int  // of counters: the last value that was acknowledged
	maybe map[string]int  // and one that was sent after it and not answered

	watches []*loadWatch
}

// newLoad makes the namespace and begins to watch it at each server, and to write.
func newLoad(t *testing.T, writers int, servers ...*caller) *load {
	t.Helper()
	l := &load{t: t, servers: servers, acked: map[string]bool{}, lost: map[string]bool{}, count: map[string]int{}, maybe: map[string]int{}}
	if err := servers[0].do(t.Context(), http.MethodPost, "/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "load"}}, nil); err != nil {
		t.Fatal(err)
	}
	var list corev1.ConfigMapList
	if err := servers[0].do(t.Context(), http.MethodGet, loadMaps, nil, &list); err != nil {
		t.Fatal(err)
	}
	for i := range servers {
		w := &loadWatch{l: l, at: i, version: list.ResourceVersion, added: map[string]int{}, values: map[string]int{}, last: time.Now()}
		l.watches = append(l.watches, w)
		go w.run()
	}
	l.writing.Store(true)
	for i := range writers {
		l.writers.Go(func() { l.write(i) })
	}
	t.Cleanup(func() { l.writing.Store(false); l.writers.Wait() })
	return l
}

// patienceOfWriter is for how long a writer waits for an answer before it asks another server.
const patienceOfWriter = 4 * time.Second

// write creates a ConfigMap after another, and counts one up between them, by compare-and-set. Whoever does not answer is left for the next server.
func (l *load) write(id int) {
	ctx := context.WithoutCancel(l.t.Context())
	at, counter, version := id, fmt.Sprintf("count-%d", id), ""
	send := func(method, path string, body *corev1.ConfigMap, into any) error {
		ctx, cancel := context.WithTimeout(ctx, patienceOfWriter)
		defer cancel()
		var b any
		if body != nil {
			b = body
		}
		err := l.servers[at%len(l.servers)].do(ctx, method, path, b, into)
		if err != nil && !isCode(err, http.StatusConflict) && !isCode(err, http.StatusNotFound) {
			at++
			pause()
		}
		return err
	}
	for n := 1; l.writing.Load(); n++ {
		name, asked := fmt.Sprintf("w-%d-%d", id, n), false
		for l.writing.Load() {
			err := send(http.MethodPost, loadMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": strconv.Itoa(n)}}, nil)
			if err == nil || isCode(err, http.StatusConflict) && asked {
				l.note(func() { l.acked[name] = true; delete(l.lost, name) })
				break
			}
			if isCode(err, http.StatusConflict) {
				l.t.Errorf("%s is there before it was written: %v", name, err)
				return
			}
			asked = true
			l.note(func() { l.lost[name] = true })
		}
		if n%4 == 0 && l.writing.Load() {
			version = l.countUp(send, counter, version)
		}
		time.Sleep(5 * time.Millisecond) // between two of one client's writes
	}
}

func (l *load) countUp(send func(method, path string, body *corev1.ConfigMap, into any) error, name, version string) string {
	var m corev1.ConfigMap
	var was, may int
	l.note(func() { was, may = l.count[name], l.maybe[name] })
	if version == "" {
		err := send(http.MethodGet, loadMaps+"/"+name, nil, &m)
		switch {
		case isCode(err, http.StatusNotFound):
			if was > 0 {
				l.t.Errorf("%s had %d, and is gone", name, was)
			}
			m = corev1.ConfigMap{}
		case err != nil:
			return ""
		default:
			now, _ := strconv.Atoi(m.Data["n"])
			if now != was && now != may {
				l.t.Errorf("%s has %d: %d was acknowledged last, and %d sent after it", name, now, was, may)
			}
			was, version = now, m.ResourceVersion
			l.note(func() { l.count[name], l.maybe[name] = now, now })
		}
	}
	next := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}, Data: map[string]string{"n": strconv.Itoa(was + 1)}}
	l.note(func() { l.maybe[name] = was + 1 })
	method, path := http.MethodPatch, loadMaps+"/"+name
	if version == "" {
		method, path = http.MethodPost, loadMaps
	}
	if err := send(method, path, next, &m); err != nil {
		return "" // read it again
	}
	l.note(func() { l.count[name] = was + 1 })
	return m.ResourceVersion
}

func (l *load) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// goesOn waits until more has been acknowledged, and every watch has seen something that was written since.
func (l *load) goesOn(after string) {
	l.t.Helper()
	began := time.Now()
	l.mu.Lock()
	before := len(l.acked)
	l.mu.Unlock()
	l.until(after+": writes are acknowledged", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) >= before+50 })
	wrote := time.Since(began)
	var from []int64
	for _, w := range l.watches {
		w.mu.Lock()
		from = append(from, w.events)
		w.mu.Unlock()
	}
	for i, w := range l.watches {
		l.until(fmt.Sprintf("%s: the watch that began at %s goes on", after, l.servers[i].base), func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.events >= from[i]+10
		})
	}
	l.t.Logf("%s: 50 more writes after %v, and all watches see more after %v", after, wrote.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// until waits for what must come; the bound is for what hangs.
func (l *load) until(what string, holds func() bool) { eventually(l.t, what, holds) }

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !holds(); pause() {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// end stops the writers, and holds what they were told against what each server has and each watch has seen.
func (l *load) end() {
	l.t.Helper()
	l.writing.Store(false)
	l.writers.Wait()
	for i, s := range l.servers {
		var list corev1.ConfigMapList
		l.until("a list at "+s.base, func() bool { return s.do(l.t.Context(), http.MethodGet, loadMaps, nil, &list) == nil })
		there := map[string]string{}
		for _, m := range list.Items {
			there[m.Name] = m.Data["n"]
		}
		for name := range l.acked {
			if _, ok := there[name]; !ok {
				l.t.Errorf("%s: %s was acknowledged and is not there", s.base, name)
			}
		}
		for name, n := range there {
			if strings.HasPrefix(name, "w-") && !l.acked[name] && !l.lost[name] {
				l.t.Errorf("%s: %s is there and was not written", s.base, name)
			}
			if last, counter := l.count[name]; counter && n != strconv.Itoa(last) && n != strconv.Itoa(l.maybe[name]) {
				l.t.Errorf("%s: %s has %s: %d was acknowledged last, and %d sent after it", s.base, name, n, last, l.maybe[name])
			}
		}
		w := l.watches[i]
		end, _ := strconv.ParseInt(list.ResourceVersion, 10, 64)
		last := int64(0)
		for _, m := range list.Items {
			v, _ := strconv.ParseInt(m.ResourceVersion, 10, 64)
			last = max(last, min(v, end))
		}
		l.until("the watch that began at "+s.base+" sees the end", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.at64() >= last })
		w.mu.Lock()
		for name := range there {
			if name != "kube-root-ca.crt" && w.added[name] != 1 {
				l.t.Errorf("the watch that began at %s has seen %s %d times", s.base, name, w.added[name])
			}
		}
		l.t.Logf("the watch that began at %s: %d events, taken up again %d times, its longest silence %v", s.base, w.events, w.again, w.silence.Round(10*time.Millisecond))
		w.mu.Unlock()
	}
	l.t.Logf("%d objects acknowledged, %d whose answer was lost to the end", len(l.acked), len(l.lost))
}

// loadWatch is an ordinary client's watch: when it ends it is taken up again after the last resourceVersion, at the next server.
type loadWatch struct {
	l  *load
	at int

	mu      sync.Mutex // guards the fields below
	version string
	events  int64
	again   int
	added   map[string]int
	values  map[string]int
	last    time.Time
	silence time.Duration
}

func (w *loadWatch) at64() int64 { n, _ := strconv.ParseInt(w.version, 10, 64); return n }

func (w *loadWatch) run() {
	for ctx := w.l.t.Context(); ctx.Err() == nil; pause() {
		w.follow(ctx)
		w.at++
		w.mu.Lock()
		w.again++
		w.mu.Unlock()
	}
}

func (w *loadWatch) follow(ctx context.Context) {
	c := w.l.servers[w.at%len(w.l.servers)]
	w.mu.Lock()
	from := w.version
	w.mu.Unlock()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+loadMaps+"?watch=true&resourceVersion="+from, nil)
	if err != nil {
		return
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusGone {
		w.l.t.Errorf("%s does not know what comes after revision %s", c.base, from)
	}
	if resp.StatusCode != http.StatusOK {
		return
	}
	for in := json.NewDecoder(resp.Body); ; {
		var e struct {
			Type   string
			Object corev1.ConfigMap
		}
		if in.Decode(&e) != nil || !w.take(c, e.Type, &e.Object) {
			return
		}
	}
}

func (w *loadWatch) take(c *caller, kind string, m *corev1.ConfigMap) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	version, _ := strconv.ParseInt(m.ResourceVersion, 10, 64)
	switch kind {
	case "ADDED":
		w.added[m.Name]++
	case "MODIFIED":
		n, _ := strconv.Atoi(m.Data["n"])
		if was := w.values[m.Name]; n != was+1 && m.Name != "kube-root-ca.crt" {
			w.l.t.Errorf("a watch at %s: %s goes from %d to %d", c.base, m.Name, was, n)
		}
	case "ERROR":
		if strings.Contains(m.Name, "Expired") {
			w.l.t.Errorf("a watch at %s has lost events", c.base)
		}
		return false
	default:
		w.l.t.Errorf("a watch at %s: %s of %s", c.base, kind, m.Name)
	}
	if version <= w.at64() {
		w.l.t.Errorf("a watch at %s: revision %d comes after %s", c.base, version, w.version)
	}
	w.values[m.Name], _ = strconv.Atoi(m.Data["n"])
	w.version = m.ResourceVersion
	w.events++
	if w.l.writing.Load() {
		w.silence = max(w.silence, time.Since(w.last))
	}
	w.last = time.Now()
	return true
}
