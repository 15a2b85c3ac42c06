package usage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a node's own server, by its client's transport: what its one container has used so far.
type machine struct {
	nano, node atomic.Uint64
	asked      int
	uid        string
	start      time.Time
	broken     bool
}

func (m *machine) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.broken {
		return nil, errors.New("no route to host")
	}
	m.asked++
	now := time.Now().UTC().Format(time.RFC3339Nano)
	body := fmt.Sprintf(`{"node":{"cpu":{"time":%q,"usageCoreNanoSeconds":%d},"memory":{"workingSetBytes":4096}},"pods":[{"podRef":{"name":"p","namespace":"default","uid":%q},
		"startTime":%q,"containers":[{"name":"c","cpu":{"time":%q,"usageCoreNanoSeconds":%d},"memory":{"workingSetBytes":2048}}]}]}`, now, m.node.Load(), m.uid, m.start.UTC().Format(time.RFC3339), now, m.nano.Load())
	w := &http.Response{StatusCode: 200, Status: "200 OK", Body: http.NoBody, Header: http.Header{}}
	w.Body = io.NopCloser(strings.NewReader(body))
	return w, nil
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{uid: "1", start: time.Now().Add(-time.Hour)}
		m.nano.Store(500e9)
		m.node.Store(900e9)
		c := New(func(context.Context, string) (*url.URL, *tls.Config, error) {
			return &url.URL{Scheme: "http", Host: "node"}, nil, nil
		})
		c.nodes["n"] = &node{counts: map[string]*counts{}, client: &http.Client{Transport: m}}
		stop := make(chan struct{})
		var nano, whole atomic.Uint64 // a second
		go func() {
			for {
				select {
				case <-time.After(100 * time.Millisecond):
					m.nano.Add(nano.Load() / 10)
					m.node.Add(whole.Load() / 10)
				case <-stop:
					return
				}
			}
		}()
		defer close(stop)
		nano.Store(250e6)
		whole.Store(1500e6)
		look := func(want int64) {
			t.Helper()
			n, pods, err := c.Node(t.Context(), "n")
			if err != nil || len(pods) != 1 || len(pods[0].Containers) != 1 {
				t.Fatalf("%+v %+v %v", n, pods, err)
			}
			if got := pods[0].Containers[0].CPU; got < want*85/100 || got > want*115/100 {
				t.Errorf("the container uses %d over %v, wanted about %d", got, pods[0].Window, want)
			}
			if n.CPU < 1300e6 || n.CPU > 1700e6 || n.Memory != 4096 || pods[0].Containers[0].Memory != 2048 {
				t.Errorf("the node uses %+v", n)
			}
		}
		look(250e6) // what it used in the hour before does not count
		if m.asked != 2 {
			t.Errorf("at first it is asked %d times, wanted 2", m.asked)
		}
		look(250e6)
		if m.asked != 2 {
			t.Error("within a second it is asked again")
		}
		for range 6 {
			time.Sleep(15 * time.Second)
			look(250e6)
		}
		nano.Store(750e6)
		time.Sleep(15 * time.Second)
		look(750e6)
		time.Sleep(10 * time.Minute)
		nano.Store(100e6)
		look(100e6) // an answer of long ago says nothing
		m.nano.Store(0)
		nano.Store(400e6)
		time.Sleep(5 * time.Second)
		if n, pods, err := c.Node(t.Context(), "n"); err != nil || len(pods) != 0 || n.CPU == 0 {
			t.Errorf("a container that was restarted: %+v %v", pods, err)
		}
		time.Sleep(5 * time.Second)
		look(400e6)
		m.broken = true
		time.Sleep(2 * time.Second)
		if _, _, err := c.Node(t.Context(), "n"); err == nil {
			t.Error("a node that does not answer uses something")
		}
	})
}
