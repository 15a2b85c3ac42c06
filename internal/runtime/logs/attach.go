package logs

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// A client that does not read delays the container by patience at most, and only once mostQueued bytes wait for it; then it is left behind.
const (
	patience   = time.Second
	mostQueued = 1 << 20
)

// ErrSlow tells a client that it has not read what was written, and will miss the rest.
var ErrSlow = errors.New("attached client does not read")

// attachment is a client, with what it has still to be told.
type attachment struct {
	out  [streams]io.Writer
	some chan struct{} // holds one when there is something new to see below
	room chan struct{} // holds one when a piece has been taken

	mu     sync.Mutex // guards the fields below
	pieces []piece
	queued int  // bytes
	slow   bool // it is left behind
}

type piece struct {
	stream int
	data   []byte
}

// Attach writes what the container writes from now on to stdout and stderr, either of which may be nil. It returns when the output
// ends, when ctx does, or when a writer fails.
func (c *Copier) Attach(ctx context.Context, stdout, stderr io.Writer) error {
	a := &attachment{out: [streams]io.Writer{stdout, stderr}, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	c.mu.Lock()
	c.attached[a] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.attached, a)
		c.mu.Unlock()
		a.leave() // nobody waits for it any more
	}()
	for {
		ended := false
		select {
		case <-a.some:
		case <-c.attaching:
			ended = true
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			p, ok, err := a.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if _, err := a.out[p.stream].Write(p.data); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if ended {
			return nil
		}
	}
}

func (a *attachment) next() (p piece, ok bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.slow {
		return piece{}, false, ErrSlow
	}
	if len(a.pieces) == 0 {
		a.pieces = nil
		return piece{}, false, nil
	}
	p = a.pieces[0]
	a.pieces = a.pieces[1:]
	a.queued -= len(p.data)
	signal(a.room)
	return p, true, nil
}

// put queues a piece unless too much waits already.
func (a *attachment) put(p piece, always bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.slow {
		return true
	}
	if !always && a.queued > mostQueued {
		return false
	}
	a.pieces = append(a.pieces, p)
	a.queued += len(p.data)
	signal(a.some)
	return true
}

// leave has a client miss the rest, which it is told once its writer comes back.
func (a *attachment) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slow, a.pieces, a.queued = true, nil, 0
	signal(a.some)
	signal(a.room)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// tell gives output to all that are attached.
func (c *Copier) tell(stream int, data []byte) {
	c.mu.Lock()
	var all []*attachment
	for a := range c.attached {
		if a.out[stream] != nil {
			all = append(all, a)
		}
	}
	c.mu.Unlock()
	if len(all) == 0 {
		return
	}
	p := piece{stream, slices.Clone(data)}
	for _, a := range all {
		if a.put(p, false) {
			continue
		}
		late := time.NewTimer(patience)
		for waiting := true; waiting; {
			select {
			case <-a.room:
				waiting = !a.put(p, false)
			case <-c.finishing: // what comes now is little
				a.put(p, true)
				waiting = false
			case <-late.C:
				a.leave()
				waiting = false
			}
		}
		late.Stop()
	}
}
