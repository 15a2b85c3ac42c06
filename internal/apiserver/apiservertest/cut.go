package apiservertest

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Cut is a way to a server that can be broken: it passes bytes on until then.
type Cut struct {
	URL string

	mu     sync.Mutex // guards the fields below
	conns  []net.Conn
	closed bool
}

// NewCut listens on loopback and passes on to the server at to.
func NewCut(t testing.TB, to string) *Cut {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cut{URL: "https://" + l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", u.Host)
			if err != nil {
				front.Close()
				continue
			}
			c.mu.Lock()
			closed := c.closed
			if !closed {
				c.conns = append(c.conns, front, back)
			}
			c.mu.Unlock()
			if closed {
				front.Close()
				back.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{front, back}, {back, front}} {
				running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					front.Close()
					back.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.Break()
		running.Wait()
	})
	return c
}

// Break ends all connections there are; new ones work.
func (c *Cut) Break() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// Close ends all connections there are, and lets no new ones through until Open.
func (c *Cut) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.Break()
}

// Open lets connections through again.
func (c *Cut) Open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = false
}
