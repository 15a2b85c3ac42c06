package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/resource"
)

const (
	maxFrame   = 16 << 20 // bytes of one event; a server's objects are much smaller
	firstDelay = 200 * time.Millisecond
	lastDelay  = 15 * time.Second
)

// Event is one change. Synced comes without an object: from then on, the events so far make up all that there is.
type Event[T resource.Object] struct {
	Type   watch.EventType // Added, Modified, Deleted, or Synced
	Object T
}

// Synced is the type of the event that says that all there is has been told.
const Synced watch.EventType = "SYNCED"

// Watch tells what there is and then what changes, to handle, in order, until ctx ends (it returns nil then) or handle returns an error
// (which it returns). Whatever breaks off is taken up again: nothing is missed, nothing is told twice, and what went while nobody was
// watching is told as Deleted, in its last state known. Errors on the way go to report, which may be nil.
func Watch[T resource.Object](ctx context.Context, c *Client, s Selection, handle func(Event[T]) error, report func(error)) error {
	w := &watcher[T]{c: c, kind: kindOf[T](c), s: s, handle: handle, known: map[types.NamespacedName]T{}}
	delay := firstDelay
	for {
		err := w.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if failed := (*handlerError)(nil); errors.As(err, &failed) {
			return failed.error
		}
		if w.alive {
			delay = firstDelay
		}
		w.alive = false
		if err != nil {
			if report != nil {
				report(fmt.Errorf("watch %s: %w", w.kind.Plural, err))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(delay + rand.N(delay/2)):
			}
			delay = min(2*delay, lastDelay)
		}
	}
}

// handlerError is an error of the one who handles events, not of the connection.
type handlerError struct{ error }

// watcher is one Watch. It keeps what it has told, to find out what went while it was not connected.
type watcher[T resource.Object] struct {
	c      *Client
	kind   *resource.Kind
	s      Selection
	handle func(Event[T]) error

	known   map[types.NamespacedName]T
	version string // that the next watch begins after; empty: list first
	synced  bool
	alive   bool // the connection has been of use
}

// run lists if need be, and watches until the connection ends. A nil error means that it ended in the ordinary way.
func (w *watcher[T]) run(ctx context.Context) error {
	if w.version == "" {
		if err := w.list(ctx); err != nil {
			return err
		}
	}
	q := w.s.query()
	q.Set("watch", "true")
	q.Set("allowWatchBookmarks", "true")
	q.Set("resourceVersion", w.version)
	q.Set("timeoutSeconds", "1800")
	err := w.stream(ctx, q)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		w.version = "" // too old: list again, at once
		return nil
	}
	return err
}

func (w *watcher[T]) list(ctx context.Context) error {
	objects, version, err := List[T](ctx, w.c, w.s)
	if err != nil {
		return err
	}
	there := make(map[types.NamespacedName]bool, len(objects))
	for _, obj := range objects {
		there[keyOf(obj)] = true
		if err := w.tell(obj); err != nil {
			return err
		}
	}
	for key, obj := range w.known {
		if !there[key] {
			if err := w.forget(obj); err != nil {
				return err
			}
		}
	}
	w.version, w.alive = version, true
	if !w.synced {
		w.synced = true
		return wrapHandler(w.handle(Event[T]{Type: Synced}))
	}
	return nil
}

func keyOf(obj resource.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func wrapHandler(err error) error {
	if err != nil {
		return &handlerError{err}
	}
	return nil
}

// tell passes on an object's state if it is news. An object that was replaced by another of its name is told as deleted first.
func (w *watcher[T]) tell(obj T) error {
	old, known := w.known[keyOf(obj)]
	kind := watch.Added
	if known {
		if old.GetResourceVersion() == obj.GetResourceVersion() {
			return nil
		}
		kind = watch.Modified
		if old.GetUID() != obj.GetUID() {
			if err := w.forget(old); err != nil {
				return err
			}
			kind = watch.Added
		}
	}
	w.known[keyOf(obj)] = obj
	return wrapHandler(w.handle(Event[T]{kind, obj}))
}

func (w *watcher[T]) forget(last T) error {
	if _, known := w.known[keyOf(last)]; !known {
		return nil
	}
	delete(w.known, keyOf(last))
	return wrapHandler(w.handle(Event[T]{watch.Deleted, last}))
}

func (w *watcher[T]) stream(ctx context.Context, q url.Values) error {
	r, err := w.c.request(ctx, http.MethodGet, path(w.kind, w.s.Namespace, "", ""), q, nil, "")
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	response, err := w.c.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		data, err := io.ReadAll(io.LimitReader(response.Body, maxFrame))
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		return failure(r, response.StatusCode, data)
	}
	in := bufio.NewReaderSize(response.Body, 16<<10)
	for {
		e, err := readFrame(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.take(e); err != nil {
			return err
		}
		w.alive = true
	}
}

// readFrame reads one event: four bytes of length, and a WatchEvent.
func readFrame(in io.Reader) (*metav1.WatchEvent, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		return nil, fmt.Errorf("%w: an event of %d bytes", errFormat, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, err
	}
	var e metav1.WatchEvent
	if err := e.Unmarshal(data); err != nil {
		return nil, fmt.Errorf("%w: %w", errFormat, err)
	}
	return &e, nil
}

func (w *watcher[T]) take(e *metav1.WatchEvent) error {
	if watch.EventType(e.Type) == watch.Error {
		var status metav1.Status
		if err := decode(e.Object.Raw, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &status); err != nil {
			return err
		}
		return &apierrors.StatusError{ErrStatus: status}
	}
	obj := w.kind.New()
	if err := decode(e.Object.Raw, w.kind.GroupVersionKind, obj); err != nil {
		return err
	}
	var err error
	switch watch.EventType(e.Type) {
	case watch.Added, watch.Modified:
		err = w.tell(obj.(T))
	case watch.Deleted:
		err = w.forget(obj.(T))
	case watch.Bookmark:
	default:
		return fmt.Errorf("%w: an event of type %q", errFormat, e.Type)
	}
	if err == nil {
		w.version = obj.GetResourceVersion()
	}
	return err
}
