package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"sampan.dev/internal/store"
)

// Errors that callers choose by.
var (
	ErrNotEmpty = errors.New("the store is not empty")
	// ErrDiffers: after a copy the two stores do not hold the same, because one of them was written to meanwhile.
	ErrDiffers = errors.New("the stores do not hold the same")
)

const (
	batchCount = 100       // writes made together; etcd takes 128
	batchBytes = 768 << 10 // of keys and values in a batch; etcd takes 1.5 MB
)

// Restore puts a snapshot into an empty store. Nothing is written if the file is damaged or the store has any key.
//
// The records get new revisions. So that whoever holds a resourceVersion of before is told that it is no longer kept, and lists again, instead of going on
// from some other event that now has the number, the store is brought to a revision above the snapshot's, and its history up to there is compacted. A
// resourceVersion given out after the snapshot was taken may still be ahead of a restored etcd: it is refused as one from the future until it is reached.
// The local store is brought ahead far enough for these too.
//
// If it fails while writing, what has been written stays: the store must be emptied before another try.
func Restore(ctx context.Context, path string, to store.Store) (Info, error) {
	info, err := Verify(path)
	if err != nil {
		return info, err
	}
	fail := func(err error) (Info, error) { return info, fmt.Errorf("restore %s: %w", path, err) }
	if err := empty(ctx, to); err != nil {
		return fail(err)
	}
	l := loader{ctx: ctx, to: to}
	var head Head
	if err := each(path, func(_ Head, r store.Record) error { return l.add(r) }, &head); err != nil {
		return fail(l.explain(err))
	}
	if err := l.flush(); err != nil {
		return fail(l.explain(err))
	}
	if err := advance(ctx, to, head.Revision+1, margin); err != nil {
		return fail(err)
	}
	return info, nil
}

// Copy puts all that one store holds into another, which is empty, and then compares the two. It gives the new revisions as Restore does. If the first
// is written to meanwhile, as by a server that still runs on it, the copy is refused with ErrDiffers.
func Copy(ctx context.Context, from, to store.Store) (Head, error) {
	fail := func(err error) (Head, error) { return Head{}, fmt.Errorf("copy store: %w", err) }
	if err := empty(ctx, to); err != nil {
		return fail(err)
	}
	records, revision, err := contents(ctx, from)
	if err != nil {
		return fail(err)
	}
	l := loader{ctx: ctx, to: to}
	for _, r := range records {
		if err := l.add(r); err != nil {
			return fail(l.explain(err))
		}
	}
	if err := l.flush(); err != nil {
		return fail(l.explain(err))
	}
	if err := advance(ctx, to, revision+1, 0); err != nil {
		return fail(err)
	}
	was, _, err := contents(ctx, from)
	if err != nil {
		return fail(err)
	}
	is, _, err := contents(ctx, to)
	if err != nil {
		return fail(err)
	}
	if err := compare(was, is); err != nil {
		return fail(err)
	}
	return Head{Revision: revision, Count: int64(len(records))}, nil
}

// compare finds the first key in which two lists differ; revisions may.
func compare(from, to []store.Record) error {
	for i := range max(len(from), len(to)) {
		switch {
		case i >= len(to) || i < len(from) && from[i].Key < to[i].Key:
			return fmt.Errorf("%w: %s is only in the first", ErrDiffers, from[i].Key)
		case i >= len(from) || from[i].Key > to[i].Key:
			return fmt.Errorf("%w: %s is only in the second", ErrDiffers, to[i].Key)
		case !bytes.Equal(from[i].Value, to[i].Value):
			return fmt.Errorf("%w: %s has another value in each", ErrDiffers, from[i].Key)
		}
	}
	return nil
}

func empty(ctx context.Context, s store.Store) error {
	records, _, err := contents(ctx, s)
	if err != nil {
		return err
	}
	if len(records) > 0 {
		return fmt.Errorf("%w: it has %d keys, the first is %s", ErrNotEmpty, len(records), records[0].Key)
	}
	return nil
}

// loader creates records, many at a time.
type loader struct {
	ctx    context.Context
	to     store.Store
	writes []store.Write
	bytes  int
	done   int
}

func (l *loader) add(r store.Record) error {
	return l.write(store.Write{Key: r.Key, Value: r.Value})
}

// write makes a change, with others. A conflict loses those that were to be made with it.
func (l *loader) write(w store.Write) error {
	size := len(w.Key) + len(w.Value)
	if len(l.writes) > 0 && (len(l.writes) == batchCount || l.bytes+size > batchBytes) {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.writes = append(l.writes, w)
	l.bytes += size
	return nil
}

func (l *loader) flush() error {
	if len(l.writes) == 0 {
		return nil
	}
	writes := l.writes
	l.writes, l.bytes = nil, 0
	if _, err := l.to.ApplyAll(l.ctx, writes); err != nil {
		return err
	}
	l.done += len(writes)
	return nil
}

// explain adds what a failure leaves behind.
func (l *loader) explain(err error) error {
	if l.done == 0 {
		return err
	}
	return fmt.Errorf("%w; %d keys have been written: empty the store before another try", err, l.done)
}

// fillers is the prefix of keys that are written and deleted only to count revisions up.
const fillers = "/sampan-restore/"

// margin is by how much more a restored store is brought ahead where that takes a moment: for the revisions given out after the snapshot was taken.
const margin = 1_000_000

// advance brings the store to a revision, by writes that leave nothing behind, and forgets the history before it. If each write takes a revision of its
// own they are made many together, about a million in two seconds, and extra is added; if writes made together share one, as in etcd, it is some
// thousands a second.
func advance(ctx context.Context, s store.Store, revision, extra int64) error {
	made, err := fill(ctx, s, fillers+"first/", 2)
	if err != nil {
		return err
	}
	together, writers := int64(1), int64(128)
	if made[0].Revision != made[1].Revision {
		together, writers, revision = batchCount, 32, revision+extra
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			prefix := fillers + strconv.FormatInt(i, 10) + "/"
			for ctx.Err() == nil {
				missing := revision - s.Revision()
				if missing <= 0 {
					return
				}
				if _, err := fill(ctx, s, prefix, int(min(max(missing/writers, 1), together))); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("count revisions up to %d: %w", revision, context.Cause(ctx))
	}
	return tidy(ctx, s)
}

// tidy takes the fillers away, and all history.
func tidy(ctx context.Context, s store.Store) error {
	for {
		left, _, err := s.List(ctx, fillers)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		var writes []store.Write
		for _, r := range left[:min(len(left), batchCount)] {
			writes = append(writes, store.Write{Key: r.Key, Expect: r.Revision})
		}
		if _, err := s.ApplyAll(ctx, writes); err != nil {
			return err
		}
	}
	return s.Compact(ctx, s.Revision())
}

func fill(ctx context.Context, s store.Store, prefix string, n int) ([]store.Record, error) {
	writes := make([]store.Write, n)
	for i := range writes {
		writes[i] = store.Write{Key: prefix + strconv.Itoa(i), Value: []byte{}, Expect: store.Any}
	}
	return s.ApplyAll(ctx, writes)
}
