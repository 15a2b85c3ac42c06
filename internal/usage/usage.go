// Package usage asks nodes what they and the containers of their pods use.
//
// It asks a node's own server (/stats/summary) when somebody wants to know, and keeps the last two answers of each container, since a rate needs two. It writes
// nothing, and does nothing while nobody asks. Always: a rate is of a window of some seconds at the least, and of one container's life: never across its restart.
package usage

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Dial finds the way to a node's own server: its address, and the configuration under which it knows this server.
type Dial func(ctx context.Context, node string) (*url.URL, *tls.Config, error)

// Container is what one uses: thousand-millionths of a processor, and bytes that it could not do without.
type Container struct {
	Name   string
	CPU    int64
	Memory int64
}

// Pod is what the containers of one use. Window is what the rates are of, until At.
type Pod struct {
	Namespace, Name string
	At              time.Time
	Window          time.Duration
	Containers      []Container
}

// Node is what a machine uses.
type Node struct {
	Name        string
	At          time.Time
	Window      time.Duration
	CPU, Memory int64
}

// Bounds of a window: a node's answer of the last second is told again; a rate is taken over ten seconds at the least once there is an answer that old; one
// that is older than a minute says nothing any more, and the node is asked twice.
const (
	fresh   = time.Second
	window  = 10 * time.Second
	stale   = time.Minute
	askWait = 5 * time.Second
)

// Collector asks nodes. It may be used from many goroutines.
type Collector struct {
	dial Dial

	mu    sync.Mutex // guards nodes
	nodes map[string]*node
}

// node is what is known of one.
type node struct {
	mu     sync.Mutex // held while it is asked: others want the same answer
	asked  time.Time
	self   Node
	pods   []Pod
	counts map[string]*counts // by pod's uid and container; "" is the node's own
	config *tls.Config
	client *http.Client
}

// counts is the processor time that something had used at two moments.
type counts struct {
	before, last count
	start        time.Time // of the pod, for the first answer
	seen         time.Time
}

type count struct {
	at   time.Time
	nano uint64
}

// New makes a collector, which asks nobody yet.
func New(dial Dial) *Collector {
	return &Collector{dial: dial, nodes: map[string]*node{}}
}

// Forget drops what is known of all nodes but these.
func (c *Collector) Forget(but map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.nodes {
		if !but[name] {
			delete(c.nodes, name)
			n.mu.Lock()
			if n.client != nil {
				n.client.CloseIdleConnections()
			}
			n.mu.Unlock()
		}
	}
}

// Node says what a node and its pods use.
func (c *Collector) Node(ctx context.Context, name string) (Node, []Pod, error) {
	c.mu.Lock()
	n := c.nodes[name]
	if n == nil {
		n = &node{counts: map[string]*counts{}}
		c.nodes[name] = n
	}
	c.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if !n.asked.IsZero() && now.Sub(n.asked) < fresh {
		return n.self, n.pods, nil
	}
	if n.asked.IsZero() || now.Sub(n.asked) > stale { // what it used before is not what it uses: that shows after a moment
		clear(n.counts)
		if err := c.look(ctx, name, n); err != nil {
			return Node{}, nil, err
		}
		select {
		case <-time.After(fresh):
		case <-ctx.Done():
			return Node{}, nil, fmt.Errorf("ask node %s what it uses: %w", name, ctx.Err())
		}
	}
	if err := c.look(ctx, name, n); err != nil {
		return Node{}, nil, err
	}
	return n.self, n.pods, nil
}

func (c *Collector) look(ctx context.Context, name string, n *node) error {
	s, err := c.ask(ctx, name, n)
	if err != nil {
		return fmt.Errorf("ask node %s what it uses: %w", name, err)
	}
	n.asked = time.Now()
	n.take(name, s, n.asked)
	return nil
}

// summary is the part of a node's answer that is read.
type summary struct {
	Node struct {
		CPU    *cpu    `json:"cpu"`
		Memory *memory `json:"memory"`
	} `json:"node"`
	Pods []struct {
		PodRef struct {
			Name, Namespace, UID string
		} `json:"podRef"`
		StartTime  time.Time `json:"startTime"`
		Containers []struct {
			Name   string `json:"name"`
			CPU    cpu    `json:"cpu"`
			Memory memory `json:"memory"`
		} `json:"containers"`
	} `json:"pods"`
}

type cpu struct {
	Time time.Time `json:"time"`
	Nano uint64    `json:"usageCoreNanoSeconds"`
}

type memory struct {
	WorkingSet uint64 `json:"workingSetBytes"`
}

func (c *Collector) ask(ctx context.Context, name string, n *node) (*summary, error) {
	base, config, err := c.dial(ctx, name)
	if err != nil {
		return nil, err
	}
	if n.client == nil || n.config != config {
		n.config, n.client = config, &http.Client{Transport: &http.Transport{TLSClientConfig: config, IdleConnTimeout: time.Minute}}
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	at := *base
	at.Path = strings.TrimSuffix(at.Path, "/") + "/stats/summary"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := n.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	var s summary
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	return &s, nil
}

// take makes rates of an answer.
func (n *node) take(name string, s *summary, now time.Time) {
	n.self, n.pods = Node{Name: name, At: now}, nil
	if c := s.Node.CPU; c != nil {
		rate, over, _ := n.rate("", count{c.Time, c.Nano}, time.Time{}, now)
		n.self.CPU, n.self.Window, n.self.At = rate, over, c.Time
	}
	if m := s.Node.Memory; m != nil {
		n.self.Memory = int64(m.WorkingSet)
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		pod := Pod{Namespace: p.PodRef.Namespace, Name: p.PodRef.Name}
		for _, c := range p.Containers {
			rate, over, known := n.rate(p.PodRef.UID+"/"+c.Name, count{c.CPU.Time, c.CPU.Nano}, p.StartTime, now)
			if !known {
				continue // it has only just begun
			}
			if pod.Window == 0 || over < pod.Window {
				pod.Window = over
			}
			pod.At = c.CPU.Time
			pod.Containers = append(pod.Containers, Container{Name: c.Name, CPU: rate, Memory: int64(c.Memory.WorkingSet)})
		}
		if len(pod.Containers) > 0 {
			n.pods = append(n.pods, pod)
		}
	}
	for key, c := range n.counts {
		if c.seen != now {
			delete(n.counts, key)
		}
	}
}

// rate is how much of a processor something has used since an earlier answer or, before there is one, since its pod began.
func (n *node) rate(key string, is count, start, now time.Time) (nano int64, over time.Duration, known bool) {
	c := n.counts[key]
	if c == nil || is.nano < c.last.nano || is.at.Before(c.last.at) { // new, or begun anew
		c = &counts{start: start}
		if n.counts[key] != nil {
			c.start = time.Time{} // the pod's beginning is not that of a container that was restarted
		}
		n.counts[key] = c
	}
	c.seen = now
	if c.last.at.IsZero() || is.at.Sub(c.last.at) >= window {
		c.before, c.last = c.last, is
	}
	since := c.before
	switch {
	case !since.at.IsZero():
	case is.at.Sub(c.last.at) >= fresh:
		since = c.last
	case !c.start.IsZero() && is.at.Sub(c.start) >= fresh:
		since = count{at: c.start}
	default:
		return 0, 0, false
	}
	over = is.at.Sub(since.at)
	return int64(float64(is.nano-since.nano) / over.Seconds()), over, true
}
