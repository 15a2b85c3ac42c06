package local

import (
	"context"
	"errors"
	"fmt"

	"sampan.dev/internal/store"
)

const (
	queueSize  = 512     // writes waiting for the committer; beyond that Apply blocks
	batchBytes = 2 << 20 // a batch takes no more writes once it has these many bytes
	batchCount = 4096
)

// request is one write on its way. done takes exactly one answer.
type request struct {
	ctx   context.Context
	write store.Write
	done  chan answer
}

type answer struct {
	record store.Record
	err    error
	behind bool // the key was not at the revision expected
}

// pending is a write of the batch at hand: the index does not know it yet.
type pending struct {
	*request
	entry    entry // as it will be
	previous int64
	value    []byte
	deleted  bool
	size     int
}

// Apply makes one change; see store.Store.
func (s *Store) Apply(ctx context.Context, w store.Write) (store.Record, error) {
	if err := w.Check(); err != nil {
		return store.Record{}, err
	}
	r := &request{ctx: ctx, write: w, done: make(chan answer, 1)}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return store.Record{}, fmt.Errorf("write %s: %w", w.Key, context.Cause(ctx))
	case <-s.closing:
		return store.Record{}, fmt.Errorf("write %s: %w", w.Key, store.ErrClosed)
	}
	var a answer
	select {
	case a = <-r.done:
	case <-ctx.Done():
		return store.Record{}, fmt.Errorf("write %s: %w", w.Key, context.Cause(ctx))
	case <-s.stopped:
		select {
		case a = <-r.done:
		default:
			a.err = store.ErrClosed
		}
	}
	switch {
	case a.behind:
		current, err := s.Get(ctx, w.Key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return store.Record{}, fmt.Errorf("write %s: %w, and then: %w", w.Key, store.ErrConflict, err)
		}
		return store.Record{}, &store.ConflictError{Key: w.Key, Expect: w.Expect, Current: current}
	case a.err != nil:
		return store.Record{}, fmt.Errorf("write %s: %w", w.Key, a.err)
	}
	return a.record, nil
}

// runCommitter takes what waits, commits it, and begins again, until the store closes.
func (s *Store) runCommitter() {
	defer close(s.stopped)
	var batch []*request
	for {
		select {
		case <-s.closing:
			return
		case r := <-s.queue:
			batch = append(batch[:0], r)
		}
		bytes := len(batch[0].write.Value)
	more:
		for bytes < batchBytes && len(batch) < batchCount {
			select {
			case r := <-s.queue:
				batch = append(batch, r)
				bytes += len(r.write.Key) + len(r.write.Value)
			default:
				break more
			}
		}
		s.commit(batch)
		clear(batch) // lets go of the values
	}
}

// commit checks the requests in their order, writes those that pass, and answers all.
func (s *Store) commit(requests []*request) {
	var staged []pending
	var behind []*request
	s.buf = s.buf[:0]
	for _, r := range requests {
		p, err := s.check(r, s.revision+1+int64(len(staged)))
		switch {
		case errors.Is(err, store.ErrConflict):
			behind = append(behind, r) // answered once what it lost against can be read
		case err != nil:
			r.done <- answer{err: err}
		default:
			record := record{
				key: []byte(r.write.Key), value: r.write.Value, deleted: p.deleted, place: uint32(len(staged)),
				revision: p.entry.revision, created: p.entry.created, previous: p.previous,
			}
			s.buf = appendRecord(s.buf, &record)
			staged = append(staged, p)
			s.pending[r.write.Key] = p
		}
	}
	if len(staged) > 0 {
		events := s.events(staged)
		if err := s.write(); err != nil {
			for _, p := range staged {
				p.done <- answer{err: err}
			}
			for _, r := range behind { // what they lost against may not have happened
				r.done <- answer{err: err}
			}
			behind = nil
		} else {
			s.publish(staged, events)
			for _, p := range staged {
				p.done <- answer{record: p.record()}
			}
		}
	}
	for _, r := range behind {
		r.done <- answer{behind: true}
	}
	clear(s.pending)
	if cap(s.buf) > batchBytes {
		s.buf = nil
	}
}

// check compares a write with what its key will be once the batch is written. It needs no lock: only the committer, who
// calls it, changes the index and the revision.
func (s *Store) check(r *request, revision int64) (pending, error) {
	if s.broken != nil {
		return pending{}, s.broken
	}
	if r.ctx.Err() != nil {
		return pending{}, context.Cause(r.ctx)
	}
	current, exists := s.index.Get(r.write.Key)
	if p, ok := s.pending[r.write.Key]; ok {
		current, exists = p.entry, !p.deleted
	}
	if !exists {
		current = entry{}
	}
	p := pending{
		request: r, previous: current.revision, value: r.write.Value, deleted: r.write.Value == nil,
		entry: entry{revision: revision, created: current.created},
		size:  recordSize(len(r.write.Key), len(r.write.Value)),
	}
	if !exists {
		p.entry.created = revision
	}
	switch {
	case r.write.Expect != store.Any && r.write.Expect != current.revision:
		return pending{}, store.ErrConflict
	case p.deleted && !exists:
		return pending{}, store.ErrNotFound
	}
	return p, nil
}

func (p pending) record() store.Record {
	return store.Record{Key: p.write.Key, Value: p.value, Revision: p.entry.revision, Created: p.entry.created}
}

// write puts the batch in buf on disk. An error is the answer to every write of the batch.
func (s *Store) write() error {
	var err error
	if s.active.size >= s.logSize() {
		err = s.rotate()
	}
	if err == nil {
		err = s.active.append(s.buf)
	}
	if errors.Is(err, store.ErrBroken) {
		s.opts.Log.Error("The store accepts no more writes until it is opened again", "dir", s.dir, "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.broken = err
	}
	return err
}

// publish makes a batch that is on disk visible.
func (s *Store) publish(staged []pending, events []store.Event) {
	s.writes.Add(int64(len(staged)))
	s.syncs.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range staged {
		s.active.add(p.entry.revision, p.size)
		s.account(p.write.Key, p.entry, p.previous, p.deleted, p.size)
	}
	s.revision += int64(len(staged))
	s.recent.add(s.revision, events, s.slowest())
	close(s.changed)
	s.changed = make(chan struct{})
}

// account brings the index, and the count of bytes in use, up to one write.
func (s *Store) account(key string, e entry, previous int64, deleted bool, size int) {
	if previous != 0 {
		if old, ok := s.find(previous); ok {
			s.live -= int64(old.size)
		}
	}
	if deleted {
		s.index.Delete(key)
		return
	}
	s.live += int64(size)
	s.index.Set(key, e)
}
