// Package mirror follows kinds of objects on the servers of a cluster, as a source of a cache on another machine.
//
// It watches what it is told to, over one connection, and writes nothing. Always: objects have the revisions that the cluster gave them, so
// that what they are written back with is right; of one kind changes come in order, while one kind may be ahead of another, as with
// any watcher of Kubernetes' API; and while no server answers, what was last known stays.
package mirror

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Source is a kind that is followed, and which objects of it.
type Source struct {
	Kind   *resource.Kind
	Select client.Selection
}

// Mirror is what is followed. It is a cache.Source for one cache.
type Mirror struct {
	log       *slog.Logger
	followers []*client.Follower
	sources   []Source
	synced    chan struct{} // closed once every source has told all that there is

	mu      sync.Mutex              // guards the fields below
	missing int                     // sources that have not
	down    bool                    // no server has answered since it was said that none does
	state   map[string]store.Record // until List has given it away; nil then
	top     int64                   // the highest revision seen
	listed  int64                   // at which List gave it away
	pending []store.Event           // that Watch has not passed on
	wake    chan struct{}           // gets a value when pending has grown
}

// New makes a mirror of these sources. Nothing is asked before Run.
func New(c *client.Client, sources []Source, log *slog.Logger) *Mirror {
	m := &Mirror{log: log, sources: sources, synced: make(chan struct{}), missing: len(sources), state: map[string]store.Record{}, wake: make(chan struct{}, 1), top: store.First}
	for _, s := range sources {
		first := true
		m.followers = append(m.followers, client.NewFollower(c, s.Kind, s.Select, func(ch client.Change) error {
			m.take(s.Kind, ch, &first)
			return nil
		}))
	}
	return m
}

// Select changes which objects of a kind are followed. A kind that is none of the sources is a mistake of the program.
func (m *Mirror) Select(k *resource.Kind, s client.Selection) {
	m.followers[slices.IndexFunc(m.sources, func(o Source) bool { return o.Kind == k })].Select(s)
}

// Run follows until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range m.followers {
		g.Go(func() error {
			return f.Run(ctx, m.lost)
		})
	}
	return g.Wait()
}

// lost says once, for all sources, that no server answers.
func (m *Mirror) lost(err error) {
	m.mu.Lock()
	first := !m.down
	m.down = true
	m.mu.Unlock()
	if first {
		m.log.Warn("the cluster's servers do not answer; what is known stays as it is", "error", err)
	} else {
		m.log.Debug("the cluster's servers do not answer", "error", err)
	}
}

// take brings one change in. First says whether the source has yet to tell all that there is.
func (m *Mirror) take(k *resource.Kind, ch client.Change, first *bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.top = max(m.top, ch.Revision)
	if m.down {
		m.down = false
		m.log.Warn("a server of the cluster answers again")
	}
	if ch.Type == client.Synced {
		if *first {
			*first = false
			if m.missing--; m.missing == 0 {
				close(m.synced)
			}
		}
		return
	}
	rec := store.Record{Key: k.Key(ch.Namespace, ch.Name), Value: ch.Data, Revision: ch.Revision}
	gone := ch.Type == watch.Deleted
	switch {
	case m.state != nil && gone:
		delete(m.state, rec.Key)
	case m.state != nil:
		m.state[rec.Key] = rec
	default:
		m.pending = append(m.pending, store.Event{Record: rec, Deleted: gone})
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// List gives what there is once every source has told it, for the first time only: a mirror has one cache.
func (m *Mirror) List(ctx context.Context, _ string) ([]store.Record, int64, error) {
	select {
	case <-m.synced:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]store.Record, 0, len(m.state))
	for _, rec := range m.state {
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
	m.state, m.listed = nil, m.top
	return all, m.top, nil
}

// Watch passes on what has changed since List. Of what was before it knows nothing.
func (m *Mirror) Watch(ctx context.Context, _ string, after int64) (<-chan []store.Event, func() error, error) {
	m.mu.Lock()
	early := m.state != nil || after < m.listed
	m.mu.Unlock()
	if early {
		return nil, nil, store.ErrCompacted
	}
	out := make(chan []store.Event)
	go func() {
		defer close(out)
		for {
			select {
			case <-m.wake:
			case <-ctx.Done():
				return
			}
			batch := m.batch()
			if len(batch) == 0 {
				continue
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, ctx.Err, nil
}

// batch takes what is pending. Whoever reads it takes the last event's revision for that of all, so that one that stands behind another kind's is followed
// by an event of no object.
func (m *Mirror) batch() []store.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch := m.pending
	m.pending = nil
	if n := len(batch); n > 0 && batch[n-1].Revision < m.top {
		batch = append(batch, store.Event{Record: store.Record{Revision: m.top}, Deleted: true})
	}
	return batch
}
