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
	"strconv"
	"strings"
	"sync"
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
	k := kindOf[T](c)
	w := &watcher{c: c, kind: k, s: s, known: map[types.NamespacedName]item{}}
	w.read = func(body []byte) (item, error) {
		obj := k.New()
		if err := decodeBody(body, k.GroupVersionKind, obj); err != nil {
			return item{}, err
		}
		return item{
			key: types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}, uid: obj.GetUID(), version: obj.GetResourceVersion(), obj: obj,
		}, nil
	}
	w.handle = func(t watch.EventType, i item) error {
		if t == Synced {
			if w.synced {
				return nil // once is enough
			}
			return handle(Event[T]{Type: t})
		}
		return handle(Event[T]{t, i.obj.(T)})
	}
	return w.watch(ctx, report)
}

// Change is one step of an object, as it travels.
type Change struct {
	Type      watch.EventType // Added, Modified, Deleted, or Synced
	Namespace string
	Name      string
	Revision  int64  // of this state; of a Deleted, of the deletion or what is known to come after it; of a Synced, of the list that has been told
	Data      []byte // the object in Kubernetes' protobuf, envelope and all; nil with Deleted and Synced
}

// Follower is Watch for those who keep objects as they are stored. It holds no copy of them; and it tells Synced after every list that it had to
// read, not only after the first.
type Follower struct{ w *watcher }

// NewFollower makes one, which calls handle as Watch does. Nothing is asked before Run.
func NewFollower(c *Client, k *resource.Kind, s Selection, handle func(Change) error) *Follower {
	w := &watcher{c: c, kind: k, s: s, known: map[types.NamespacedName]item{}}
	w.read = func(body []byte) (item, error) {
		var o metav1.PartialObjectMetadata // every kind has its metadata in the same place
		if err := o.Unmarshal(body); err != nil {
			return item{}, fmt.Errorf("%w: %w", errFormat, err)
		}
		return item{
			key: types.NamespacedName{Namespace: strings.Clone(o.Namespace), Name: strings.Clone(o.Name)}, uid: types.UID(strings.Clone(string(o.UID))),
			version: strings.Clone(o.ResourceVersion), body: body,
		}, nil
	}
	w.handle = func(t watch.EventType, i item) error {
		ch := Change{Type: t, Namespace: i.key.Namespace, Name: i.key.Name}
		var err error
		if ch.Revision, err = strconv.ParseInt(i.version, 10, 64); err != nil {
			return fmt.Errorf("%w: resourceVersion %q", errFormat, i.version)
		}
		if i.body != nil && t != watch.Deleted {
			if ch.Data, err = wrap(k.GroupVersionKind, i.body); err != nil {
				return err
			}
		}
		return handle(ch)
	}
	return &Follower{w}
}

// Run tells what there is and what changes, as Watch does.
func (f *Follower) Run(ctx context.Context, report func(error)) error { return f.w.watch(ctx, report) }

// Select changes what is followed, from now on: what is selected no more is told as Deleted, what is selected besides as Added.
func (f *Follower) Select(s Selection) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.next = &s
	if f.w.again != nil {
		f.w.again()
	}
}

// handlerError is an error of the one who handles events, not of the connection.
type handlerError struct{ error }

// item is an object at one version. What is kept of it to find out what went has no body.
type item struct {
	key     types.NamespacedName
	uid     types.UID
	version string
	obj     resource.Object // nil for those who want it as it travels
	body    []byte
}

// watcher is one Watch. It keeps what it has told, to find out what went while it was not connected.
type watcher struct {
	c      *Client
	kind   *resource.Kind
	s      Selection
	read   func(body []byte) (item, error)
	handle func(watch.EventType, item) error

	known   map[types.NamespacedName]item
	version string // that the next watch begins after; empty: list first
	synced  bool
	alive   bool // the connection has been of use

	mu    sync.Mutex // guards the fields below
	next  *Selection // what is to be watched instead; nil: the same
	again func()     // breaks off what runs; nil: nothing does
}

// begin gives the context of the next attempt, which begins anew if another selection is wanted.
func (w *watcher) begin(ctx context.Context) (context.Context, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		w.s, w.next, w.version = *w.next, nil, ""
	}
	ctx, w.again = context.WithCancel(ctx)
	return ctx, w.again
}

func (w *watcher) watch(ctx context.Context, report func(error)) error {
	delay := firstDelay
	for {
		attempt, end := w.begin(ctx)
		err := w.run(attempt)
		again := attempt.Err() != nil
		end()
		if ctx.Err() != nil {
			return nil
		}
		if failed := (*handlerError)(nil); errors.As(err, &failed) {
			return failed.error
		}
		if again {
			continue
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
			delay = min(2*delay, w.c.lastDelay)
		}
	}
}

// run lists if need be, and watches until the connection ends. A nil error means that it ended in the ordinary way.
func (w *watcher) run(ctx context.Context) error {
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

func (w *watcher) list(ctx context.Context) error {
	var all []item
	version, err := w.c.list(ctx, w.kind, w.s, func() { all = nil }, func(body []byte) error {
		i, err := w.read(body)
		all = append(all, i)
		return err
	})
	if err != nil {
		return err
	}
	there := make(map[types.NamespacedName]bool, len(all))
	for _, i := range all {
		there[i.key] = true
		if err := w.tell(i); err != nil {
			return err
		}
	}
	for key, i := range w.known {
		if !there[key] {
			i.version = version
			if err := w.forget(i); err != nil {
				return err
			}
		}
	}
	w.version, w.alive = version, true
	err = wrapHandler(w.handle(Synced, item{version: version}))
	w.synced = true
	return err
}

func wrapHandler(err error) error {
	if err != nil {
		return &handlerError{err}
	}
	return nil
}

// tell passes on an object's state if it is news. An object that was replaced by another of its name is told as deleted first.
func (w *watcher) tell(i item) error {
	old, known := w.known[i.key]
	kind := watch.Added
	if known {
		if old.version == i.version {
			return nil
		}
		kind = watch.Modified
		if old.uid != i.uid {
			if err := w.forget(old); err != nil {
				return err
			}
			kind = watch.Added
		}
	}
	keep := i
	keep.body = nil
	w.known[i.key] = keep
	return wrapHandler(w.handle(kind, i))
}

// forget tells that an object has gone, as of i's version, and in the last state that was told.
func (w *watcher) forget(i item) error {
	last, known := w.known[i.key]
	if !known {
		return nil
	}
	if i.obj == nil {
		i.obj = last.obj
	}
	delete(w.known, i.key)
	return wrapHandler(w.handle(watch.Deleted, i))
}

func (w *watcher) stream(ctx context.Context, q url.Values) error {
	r, err := w.c.request(ctx, http.MethodGet, path(w.kind, w.s.Namespace, "", ""), q, nil, "")
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	response, err := w.c.send(r)
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

func (w *watcher) take(e *metav1.WatchEvent) error {
	if watch.EventType(e.Type) == watch.Error {
		var status metav1.Status
		if err := decode(e.Object.Raw, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &status); err != nil {
			return err
		}
		return &apierrors.StatusError{ErrStatus: status}
	}
	body, err := bodyOf(e.Object.Raw, w.kind.GroupVersionKind)
	if err != nil {
		return err
	}
	i, err := w.read(body)
	if err != nil {
		return err
	}
	switch watch.EventType(e.Type) {
	case watch.Added, watch.Modified:
		err = w.tell(i)
	case watch.Deleted:
		err = w.forget(i)
	case watch.Bookmark:
	default:
		return fmt.Errorf("%w: an event of type %q", errFormat, e.Type)
	}
	if err == nil {
		w.version = i.version
	}
	return err
}
