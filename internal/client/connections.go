package client

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// connections are those that are open, so that they can be left before the kernel finds out that nothing comes by them any more.
type connections struct {
	dialer func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex // guards open
	open map[*connection]struct{}
}

// connection forgets itself when it ends.
type connection struct {
	net.Conn
	of *connections
}

func (cs *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := cs.dialer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &connection{conn, cs}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open[c] = struct{}{}
	return c, nil
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Leave closes the connections whose own address, on this side, is gone: what is under way on them fails at once, and watches are taken up again by new ones. It returns how many there
// were.
func (c *Client) Leave(gone func(netip.Addr) bool) int {
	var left []*connection
	c.connections.mu.Lock()
	for conn := range c.connections.open {
		if a, ok := conn.LocalAddr().(*net.TCPAddr); ok && gone(a.AddrPort().Addr().Unmap()) {
			left = append(left, conn)
		}
	}
	c.connections.mu.Unlock()
	for _, conn := range left {
		_ = conn.Close() // whoever reads or writes gets the error
	}
	return len(left)
}
