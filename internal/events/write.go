package events

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	tries      = 12 // of an event that the API could not be asked about
	retryFirst = 500 * time.Millisecond
	retryMost  = 10 * time.Second
)

// Run writes what is recorded until ctx ends. What waits then is written if that needs no waiting.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case e := <-r.queue:
			r.handle(ctx, e)
		case <-ctx.Done():
			return r.drain(context.WithoutCancel(ctx))
		}
	}
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

func (r *Recorder) handle(ctx context.Context, e *corev1.Event) {
	m := r.correlate.meet(e)
	if m.silenced {
		return
	}
	delay := retryFirst
	for try := 1; ; try++ {
		err := r.write(ctx, e, m.again)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case refused(err) || try == tries:
			r.correlate.said.remove(m.key)
			r.log.Warn("event not written", "object", e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, "reason", e.Reason, "message", e.Message, "error", err)
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
