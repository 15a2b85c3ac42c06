package apiserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

const (
	minWatch      = 30 * time.Minute // of a watch whose client names no end; up to twice that, so that not all come back at once
	bookmarkEvery = time.Minute
)

// watch sends what happens to the objects that a client selects, until the client, the server or the time ends it.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	if m.format == asYAML {
		return notAcceptable("only the following media types are accepted: " + streamTypes)
	}
	l, err := c.listOptions(r)
	if err != nil {
		return err
	}
	silence := s.silence()
	select {
	case <-silence:
		return apierrors.NewServiceUnavailable("this server has lost its datastore, so that a watch here would stand still: ask another one")
	default:
	}
	f := &frames{w: w, m: m, c: c}
	if m.as == "Table" {
		if f.table, err = tableOptions(r); err != nil {
			return err
		}
	}
	timeout := minWatch + rand.N(minWatch)
	if l.TimeoutSeconds != nil && *l.TimeoutSeconds > 0 {
		timeout = time.Duration(*l.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()

	// Whatever goes wrong from here on is told in the stream, as upstream does.
	watcher, initial, err := s.beginWatch(ctx, c, &l)
	f.begin()
	if err != nil {
		f.fail(err)
		return nil
	}
	defer watcher.Stop()
	if node := auth.User(ctx).Node(); node != "" && s.cfg.Agents != nil {
		s.cfg.Agents.Began(node)
		defer s.cfg.Agents.Ended(node)
	}
	if initial != nil {
		if err := s.sendInitial(f, &l, initial); err != nil {
			return nil
		}
	}
	s.follow(ctx, f, &l, watcher, silence)
	return nil
}

// beginWatch starts watching; the snapshot is what the client wants to see first, or nil.
func (s *Server) beginWatch(ctx context.Context, c *call, l *listQuery) (*cache.Watcher, *cache.Snapshot, error) {
	after := l.revision
	var initial *cache.Snapshot
	if first := l.SendInitialEvents != nil && *l.SendInitialEvents; first || after == 0 {
		snap, err := s.at(ctx, l.ResourceVersion)
		if err != nil {
			return nil, nil, err
		}
		after = snap.Revision()
		if first {
			initial = snap
		}
	} else if _, err := s.notOlder(ctx, after); err != nil {
		return nil, nil, err
	}
	watcher, err := s.cache.Watch(c.kind, l.selection, after)
	if errors.Is(err, cache.ErrExpired) {
		err = apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", after, s.cache.Snapshot().Revision()))
	}
	return watcher, initial, err
}

func (s *Server) sendInitial(f *frames, l *listQuery, snap *cache.Snapshot) error {
	for obj := range snap.List(f.c.kind, l.selection) {
		if err := f.event(watch.Added, obj); err != nil {
			return err
		}
	}
	if l.AllowWatchBookmarks {
		if err := f.bookmark(snap.Revision(), true); err != nil {
			return err
		}
	}
	return f.flush()
}

// silence is closed when what comes from the store may have stopped.
func (s *Server) silence() <-chan struct{} {
	if s.cfg.Silence == nil {
		return nil
	}
	return s.cfg.Silence()
}

// follow sends events as they come, until there is silence. All that have come are written before they are flushed together.
func (s *Server) follow(ctx context.Context, f *frames, l *listQuery, watcher *cache.Watcher, silence <-chan struct{}) {
	var tick <-chan time.Time
	if l.AllowWatchBookmarks {
		t := time.NewTicker(bookmarkEvery)
		defer t.Stop()
		tick = t.C
	}
	events, told := watcher.Events(), int64(0)
	for {
		select {
		case e, ok := <-events:
			for more := true; more; {
				if !ok {
					if err := watcher.Err(); errors.Is(err, cache.ErrExpired) {
						f.fail(apierrors.NewResourceExpired(err.Error()))
					}
					return // a slow client comes back by itself
				}
				if f.event(e.Type, e.Object) != nil {
					return
				}
				select {
				case e, ok = <-events:
				default:
					more = false
				}
			}
			if f.flush() != nil {
				return
			}
		case <-tick:
			if at, ok := watcher.Progress(); ok && at > told {
				told = at
				if f.bookmark(at, false) != nil || f.flush() != nil {
					return
				}
			}
		case <-ctx.Done():
			// A last bookmark lets the client go on from here, and not from the last event that concerned it.
			if at, ok := watcher.Progress(); ok && at > told && l.AllowWatchBookmarks && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				_ = f.bookmark(at, false)
				_ = f.flush()
			}
			return
		case <-silence:
			return
		case <-s.stopping:
			return
		}
	}
}

// frames writes the events of one watch in the form that its client asked for.
type frames struct {
	w     http.ResponseWriter
	m     media
	c     *call
	table metav1.TableOptions
	rows  bool // the table's columns have been told
	buf   []byte
}

func (f *frames) begin() {
	contentType := f.m.format.String()
	if f.m.format == asProtobuf {
		contentType += ";stream=watch"
	}
	f.w.Header().Set("Content-Type", contentType)
	f.w.Header().Set("Cache-Control", "no-cache, private")
	f.w.WriteHeader(http.StatusOK)
	_ = f.flush()
}

func (f *frames) flush() error { return http.NewResponseController(f.w).Flush() }

// event sends one change. An object's bytes are made once for all watchers of a format.
func (f *frames) event(kind watch.EventType, obj *cache.Object) error {
	var data []byte
	var err error
	switch {
	case f.m.as != "":
		data, err = f.converted(obj.Decoded())
	case f.m.format == asJSON:
		data, err = f.c.json(obj)
	case f.c.isStored():
		data = obj.Protobuf()
	default:
		data, err = f.encoded(f.c.as.FromStored(obj.Decoded()))
	}
	if err != nil {
		return err
	}
	return f.frame(kind, data)
}

// encoded is an object of the client's version.
func (f *frames) encoded(obj resource.Object) ([]byte, error) {
	return encode(media{format: f.m.format}, f.c.as.GroupVersionKind, typed(obj, f.c.as.GroupVersionKind))
}

func (f *frames) converted(obj resource.Object) ([]byte, error) {
	m := media{format: f.m.format}
	if f.m.as != "Table" {
		p := partial(f.m, obj)
		return encode(m, p.GroupVersionKind(), p)
	}
	t := f.c.table(f.m, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()})
	if f.rows {
		t.ColumnDefinitions = nil
	}
	f.rows = true
	t.Rows = append(t.Rows, f.c.row(f.m, f.table, obj, time.Now()))
	return encode(m, f.m.targetKind(), t)
}

// bookmark tells up to where the client has seen all; last marks the end of what there was at the beginning.
func (f *frames) bookmark(revision int64, last bool) error {
	obj := f.c.kind.New()
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if last {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	var data []byte
	var err error
	if f.m.as != "" {
		data, err = f.converted(obj)
	} else {
		data, err = f.encoded(f.c.as.FromStored(obj))
	}
	if err != nil {
		return err
	}
	return f.frame(watch.Bookmark, data)
}

// fail tells an error as the last event.
func (f *frames) fail(err error) {
	data, err := encode(media{format: f.m.format}, statusKind, statusOf(err))
	if err == nil && f.frame(watch.Error, data) == nil {
		_ = f.flush()
	}
}

// frame writes one event: {"type":…,"object":…} and a newline, or its length in four bytes and {1: type, 2: {1: object}}.
func (f *frames) frame(kind watch.EventType, object []byte) error {
	if f.m.format == asJSON {
		f.buf = append(f.buf[:0], `{"type":"`...)
		f.buf = append(append(f.buf, kind...), `","object":`...)
		for len(object) > 0 && object[len(object)-1] == '\n' {
			object = object[:len(object)-1]
		}
		f.buf = append(append(f.buf, object...), "}\n"...)
	} else {
		inner := 1 + uvarintLen(len(object)) + len(object)
		f.buf = append(f.buf[:0], 0, 0, 0, 0, 0x0a)
		f.buf = binary.AppendUvarint(f.buf, uint64(len(kind)))
		f.buf = append(append(f.buf, kind...), 0x12)
		f.buf = binary.AppendUvarint(f.buf, uint64(inner))
		f.buf = append(f.buf, 0x0a)
		f.buf = binary.AppendUvarint(f.buf, uint64(len(object)))
		f.buf = append(f.buf, object...)
		binary.BigEndian.PutUint32(f.buf, uint32(len(f.buf)-4))
	}
	_, err := f.w.Write(f.buf)
	if cap(f.buf) > 64<<10 {
		f.buf = nil // an idle watch keeps no large buffer
	}
	if err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}
