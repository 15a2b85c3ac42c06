package events

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	writesAtOnce = 16 // so that a burst of events shares the store's commits
	tries        = 12 // of an event that the API could not be asked about
	retryFirst   = 500 * time.Millisecond
	retryMost    = 10 * time.Second
)

// Run writes what is recorded until ctx ends. What waits then is written if that needs no waiting.
func (r *Recorder) Run(ctx context.Context) error {
	w := writes{slots: make(chan struct{}, writesAtOnce), last: map[uint64]chan struct{}{}}
	for {
		select {
		case e := <-r.queue:
			if m := r.correlate.meet(e); !m.silenced {
				w.start(m.key, func() { r.handle(ctx, e, m) })
			}
		case <-ctx.Done():
			w.running.Wait()
			return r.drain(context.WithoutCancel(ctx))
		}
	}
}

// writes are under way: many at once, but those of one key one after another. Run's goroutine owns it but for mu.
type writes struct {
	slots   chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	last    map[uint64]chan struct{} // closed when the last write of the key has ended
}

// start does a write as soon as there is a slot, after the one before it of that key.
func (w *writes) start(key uint64, do func()) {
	w.slots <- struct{}{}
	done := make(chan struct{})
	w.mu.Lock()
	before := w.last[key]
	w.last[key] = done
	w.mu.Unlock()
	w.running.Go(func() {
		if before != nil {
			<-before
		}
		do()
		close(done)
		w.mu.Lock()
		if w.last[key] == done {
			delete(w.last, key)
		}
		w.mu.Unlock()
		<-w.slots
	})
}

// drain writes the last words of a process that stops, each tried once and all within a second.
func (r *Recorder) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case e := <-r.queue:
			if m := r.correlate.meet(e); !m.silenced {
				if err := r.write(ctx, e, m.again); err != nil {
					return nil // a process that stops has nobody to tell
				}
			}
		default:
			return nil
		}
	}
	return nil
}

// handle writes one event, however long the API cannot be reached.
func (r *Recorder) handle(ctx context.Context, e *corev1.Event, m meeting) {
	delay := retryFirst
	for try := 1; ; try++ {
		err := r.write(ctx, e, m.again)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case refused(err) || try == tries:
			level := slog.LevelWarn
			if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				level = slog.LevelDebug // its namespace is going, as is what it tells of
			}
			r.log.Log(ctx, level, "event not written", "object", e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "reason", e.Reason, "message", e.Message, "error", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, retryMost)
	}
}

// write creates the event or counts it up; one that has expired meanwhile is created anew, with its count.
func (r *Recorder) write(ctx context.Context, e *corev1.Event, again bool) error {
	if again {
		_, err := r.writer.Patch(ctx, e)
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := r.writer.Create(ctx, e)
	if apierrors.IsAlreadyExists(err) {
		return nil // our own: an answer was lost
	}
	return err
}

// refused reports whether the API has understood and said no, so that asking again is of no use.
func refused(err error) bool {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.ErrStatus.Code < 500 && !apierrors.IsTooManyRequests(err) && !apierrors.IsConflict(err)
}
