package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const (
	idle       = 10 * time.Second // how long a connection may be silent
	writing    = 5 * time.Second  // how long an asker may take to take an answer
	maxWaiting = 64               // questions of one connection that wait for others' answers
)

// serveTCP answers connections until the listener is closed, and returns when each has ended.
func (s *Server) serveTCP(ctx context.Context, l net.Listener, work *flights) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ne, ok := err.(interface{ Temporary() bool }); ok && ne.Temporary() && ctx.Err() == nil { // too many files: that passes
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
			return err
		}
		select {
		case s.connections <- struct{}{}:
			connections.Go(func() {
				defer func() { <-s.connections }()
				s.serveConn(ctx, conn, work)
			})
		default:
			s.metrics.closed.Add(1)
			_ = conn.Close()
		}
	}
}

// serveConn answers questions, many on their way at a time; those that wait for other servers are answered when those have spoken.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, work *flights) {
	var waiting sync.WaitGroup
	defer func() { _ = conn.Close() }()
	defer waiting.Wait()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var mu sync.Mutex // one answer is written at a time
	send := func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(writing))
		var size [2]byte
		binary.BigEndian.PutUint16(size[:], uint16(len(b)))
		parts := net.Buffers{size[:], b}
		if _, err := parts.WriteTo(conn); err != nil {
			_ = conn.Close() // what follows half an answer could not be read
		}
	}
	slots := make(chan struct{}, maxWaiting)
	later := func(*query) func([]byte) {
		slots <- struct{}{}
		waiting.Add(1)
		return func(b []byte) {
			defer waiting.Done()
			defer func() { <-slots }()
			send(b)
		}
	}
	in := bufio.NewReaderSize(conn, 1024)
	var q query
	var packet, out []byte
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idle))
		var size [2]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if cap(packet) < n {
			packet = make([]byte, n)
		}
		packet = packet[:n]
		if _, err := io.ReadFull(in, packet); err != nil {
			return
		}
		answer := s.handle(&q, packet, out, true, work, later)
		if answer == nil {
			if q.flags&flagResponse != 0 || n < 4 {
				return // whoever sends this does not speak the protocol
			}
			continue
		}
		send(answer)
		if out = answer[:0]; cap(out) > 4096 {
			out = nil // a large answer is rare: its buffer is not kept
		}
	}
}
