package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sampan.dev/internal/store"
)

const (
	queueSize  = 512     // writes waiting for the committer; beyond that Apply blocks
	batchBytes = 2 << 20 // a batch takes no more writes once it has these many bytes
	batchCount = 4096
)

// request is a write on its way, or several that are made together. done takes exactly one answer.
type request struct {
	ctx   context.Context
	write store.Write
	more  []store.Write
	done  chan answer
}

func (r *request) size() int {
	n := len(r.write.Key) + len(r.write.Value)
	for i := range r.more {
		n += len(r.more[i].Key) + len(r.more[i].Value)
	}
	return n
}

type answer struct {
	records []store.Record // of several writes
	record  store.Record   // of the first
	err     error
	behind  *store.Write // that was not at the revision expected
}

// pending is a write of the batch at hand: the index does not know it yet.
type pending struct {
	write    store.Write
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
	a, err := s.submit(&request{ctx: ctx, write: w, done: make(chan answer, 1)})
	return a.record, err
}

// ApplyAll makes several changes; see store.Store.
func (s *Store) ApplyAll(ctx context.Context, writes []store.Write) ([]store.Record, error) {
	if len(writes) == 0 {
		return nil, nil
	}
	keys := make(map[string]bool, len(writes))
	for _, w := range writes {
		if err := w.Check(); err != nil {
			return nil, err
		}
		if keys[w.Key] {
			return nil, fmt.Errorf("write %s twice at once: %w", w.Key, store.ErrInvalid)
		}
		keys[w.Key] = true
	}
	a, err := s.submit(&request{ctx: ctx, write: writes[0], more: writes[1:], done: make(chan answer, 1)})
	return a.records, err
}

// submit hands a request to the committer and waits for the answer.
func (s *Store) submit(r *request) (a answer, err error) {
	key := r.write.Key
	select {
	case s.queue <- r:
	case <-r.ctx.Done():
		return answer{}, fmt.Errorf("write %s: %w", key, context.Cause(r.ctx))
	case <-s.closing:
		return answer{}, fmt.Errorf("write %s: %w", key, store.ErrClosed)
	}
	select {
	case a = <-r.done:
	case <-r.ctx.Done():
		return answer{}, fmt.Errorf("write %s: %w", key, context.Cause(r.ctx))
	case <-s.stopped:
		select {
		case a = <-r.done:
		default:
			a.err = store.ErrClosed
		}
	}
	switch {
	case a.behind != nil:
		current, err := s.Get(r.ctx, a.behind.Key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return answer{}, fmt.Errorf("write %s: %w, and then: %w", a.behind.Key, store.ErrConflict, err)
		}
		return answer{}, &store.ConflictError{Key: a.behind.Key, Expect: a.behind.Expect, Current: current}
	case a.err != nil:
		return answer{}, fmt.Errorf("write %s: %w", key, a.err)
	}
	return a, nil
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
		bytes := batch[0].size()
	more:
		for bytes < batchBytes && len(batch) < batchCount {
			select {
			case r := <-s.queue:
				batch = append(batch, r)
				bytes += r.size()
			default:
				break more
			}
		}
		if allPatient(batch) {
			batch = s.gather(batch)
		}
		s.commit(batch)
		clear(batch) // lets go of the values
	}
}

func allPatient(batch []*request) bool {
	return !slices.ContainsFunc(batch, func(r *request) bool { return !r.write.Patient })
}

// gather waits for more writes, as long as only patient ones come, and no longer than they have patience.
func (s *Store) gather(batch []*request) []*request {
	timer := time.NewTimer(store.Patience)
	defer timer.Stop()
	for bytes := 0; bytes < batchBytes && len(batch) < batchCount; {
		select {
		case r := <-s.queue:
			batch = append(batch, r)
			bytes += r.size()
			if !r.write.Patient {
				return batch
			}
		case <-timer.C:
			return batch
		case <-s.closing:
			return batch
		}
	}
	return batch
}

// commit checks the requests in their order, writes those that pass, and answers all.
func (s *Store) commit(requests []*request) {
	var staged []pending
	var passed, behind []*request
	s.buf = s.buf[:0]
	for _, r := range requests {
		before, size := len(staged), len(s.buf)
		failed, err := s.stage(r.ctx, &r.write, &staged)
		for i := 0; i < len(r.more) && err == nil; i++ {
			failed, err = s.stage(r.ctx, &r.more[i], &staged)
		}
		if err == nil {
			passed = append(passed, r)
			continue
		}
		if len(r.more) > 0 { // none of it is done
			s.unstage(&staged, before)
			s.buf = s.buf[:size]
		}
		if errors.Is(err, store.ErrConflict) {
			r.write = *failed
			behind = append(behind, r) // answered once what it lost against can be read
		} else {
			r.done <- answer{err: err}
		}
	}
	if len(staged) > 0 {
		events := s.events(staged)
		if err := s.write(); err != nil {
			for _, r := range slices.Concat(passed, behind) { // what they lost against may not have happened
				r.done <- answer{err: err}
			}
			behind = nil
		} else {
			s.publish(staged, events)
			i := 0
			for _, r := range passed {
				a := answer{record: staged[i].record()}
				if r.more != nil {
					for j := range 1 + len(r.more) {
						a.records = append(a.records, staged[i+j].record())
					}
				}
				i += 1 + len(r.more)
				r.done <- a
			}
		}
	}
	for _, r := range behind {
		r.done <- answer{behind: &r.write}
	}
	clear(s.pending)
	if cap(s.buf) > batchBytes {
		s.buf = nil
	}
}

// stage puts one write into the batch, or says what is wrong with it.
func (s *Store) stage(ctx context.Context, w *store.Write, staged *[]pending) (failed *store.Write, err error) {
	p, err := s.check(ctx, w, s.revision+1+int64(len(*staged)))
	if err != nil {
		return w, err
	}
	record := record{
		key: []byte(w.Key), value: w.Value, deleted: p.deleted, place: uint32(len(*staged)),
		revision: p.entry.revision, created: p.entry.created, previous: p.previous,
	}
	s.buf = appendRecord(s.buf, &record)
	*staged = append(*staged, p)
	s.pending[w.Key] = p
	return nil, nil
}

// unstage takes the last writes out of the batch again.
func (s *Store) unstage(staged *[]pending, to int) {
	gone := (*staged)[to:]
	*staged = (*staged)[:to]
	for _, p := range gone {
		delete(s.pending, p.write.Key)
	}
	for _, p := range *staged { // earlier writes of the batch to the same keys
		for _, g := range gone {
			if p.write.Key == g.write.Key {
				s.pending[p.write.Key] = p
			}
		}
	}
}

// check compares a write with what its key will be once the batch is written. It needs no lock: only the committer, who
// calls it, changes the index and the revision.
func (s *Store) check(ctx context.Context, w *store.Write, revision int64) (pending, error) {
	if s.broken != nil {
		return pending{}, s.broken
	}
	if ctx.Err() != nil {
		return pending{}, context.Cause(ctx)
	}
	current, exists := s.index.Get(w.Key)
	if p, ok := s.pending[w.Key]; ok {
		current, exists = p.entry, !p.deleted
	}
	if !exists {
		current = entry{}
	}
	p := pending{
		write: *w, previous: current.revision, value: w.Value, deleted: w.Value == nil,
		entry: entry{revision: revision, created: current.created},
		size:  recordSize(len(w.Key), len(w.Value)),
	}
	if !exists {
		p.entry.created = revision
	}
	switch {
	case w.Expect != store.Any && w.Expect != current.revision:
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
	defer s.pace.Begin()()
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
