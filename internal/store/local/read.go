package local

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"sampan.dev/internal/store"
)

// find returns where a revision lies, if it is still kept. The caller holds mu, or is the committer.
func (s *Store) find(revision int64) (spot, bool) {
	if s.base != nil && revision <= s.base.first {
		return s.base.find(revision)
	}
	i, found := slices.BinarySearchFunc(s.logs, revision, func(g *segment, r int64) int { return cmp.Compare(g.first, r) })
	if !found {
		i--
	}
	if i < 0 {
		return spot{}, false
	}
	return s.logs[i].find(revision)
}

// space lends buffers for reading a single record.
var space = sync.Pool{New: func() any { return new([]byte) }}

// value reads the value of a revision that is still kept.
func (s *Store) value(revision int64) ([]byte, error) {
	s.mu.RLock()
	p, ok := s.find(revision)
	if ok {
		p.seg.use()
	}
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("read revision %d: %w", revision, store.ErrCompacted)
	}
	defer p.seg.done()
	return p.value()
}

func (p spot) value() ([]byte, error) {
	buf := space.Get().(*[]byte)
	defer space.Put(buf)
	r, b, err := p.read(*buf)
	if *buf = b; cap(b) > scanChunk {
		*buf = nil
	}
	if err != nil {
		return nil, err
	}
	return keep(r.value), nil
}

// Get reads one key; see store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	if ctx.Err() != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", key, context.Cause(ctx))
	}
	p, e, err := s.current(key)
	if err != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", key, err)
	}
	defer p.seg.done()
	value, err := p.value()
	if err != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", key, err)
	}
	return store.Record{Key: key, Value: value, Revision: e.revision, Created: e.created}, nil
}

// current returns where the current record of a key lies. The caller is done with its segment in the end.
func (s *Store) current(key string) (spot, entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return spot{}, entry{}, store.ErrClosed
	}
	e, ok := s.index.Get(key)
	if !ok {
		return spot{}, entry{}, store.ErrNotFound
	}
	p, ok := s.find(e.revision)
	if !ok {
		return spot{}, entry{}, fmt.Errorf("%w: no revision %d", ErrDamaged, e.revision)
	}
	p.seg.use()
	return p, e, nil
}

// List reads all keys with a prefix; see store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Record, int64, error) {
	records, revision, held, err := s.keys(prefix)
	defer func() {
		for _, g := range held {
			g.done()
		}
	}()
	if err == nil {
		err = s.values(ctx, records, held)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	return records, revision, nil
}

// keys collects what List returns, still without values, and the segments in which the values lie, held open.
func (s *Store) keys(prefix string) (records []store.Record, revision int64, held []*segment, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, 0, nil, store.ErrClosed
	}
	s.index.Ascend(prefix, func(key string, e entry) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		records = append(records, store.Record{Key: key, Revision: e.revision, Created: e.created})
		return true
	})
	held = slices.Clone(s.segments())
	for _, g := range held {
		g.use()
	}
	return records, s.revision, held, nil
}

// values reads the value of each record, in the order in which they lie on disk.
func (s *Store) values(ctx context.Context, records []store.Record, held []*segment) error {
	order := make([]int32, len(records))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(records[a].Revision, records[b].Revision) })
	in := ahead{}
	if len(records) > 16 {
		in.limit = scanChunk / 4
	}
	for n, i := range order {
		if n%256 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, ok := s.spot(records[i].Revision, held)
		if !ok {
			return fmt.Errorf("%w: no revision %d", ErrDamaged, records[i].Revision)
		}
		r, err := in.read(p)
		if err != nil {
			return err
		}
		records[i].Value = keep(r.value)
	}
	return nil
}

// spot is find among segments that the caller holds.
func (s *Store) spot(revision int64, held []*segment) (spot, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range slices.Backward(held) {
		if p, ok := g.find(revision); ok {
			return p, ok
		}
	}
	return spot{}, false
}
