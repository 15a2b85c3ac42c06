// Package store is the contract of the durable map that keeps a cluster's state: from key to value and revision, with one
// counter for all keys.
//
// It holds no engine and does nothing by itself: store/local and store/etcd are engines, store/storetest is the suite that
// each of them passes. Always, in every engine:
//   - each write that succeeds takes the next revision, and revisions never go back, not even over a crash;
//   - a write is answered, visible to readers and sent to watchers only once it is on disk;
//   - what a write is based on is checked and changed in one step, so that of two writes expecting the same revision one fails;
//   - a watcher gets every event after the revision it names, once, in order, or is told that it cannot.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// Any as Write.Expect accepts the key at whatever revision it has, and also its absence.
	Any int64 = -1

	// First is the revision of a store that was never written to; its first write takes First+1. It is not zero because a
	// list's resourceVersion of "0" would mean "any" to Kubernetes' clients. (etcd begins the same way.)
	First int64 = 1

	// MaxValue is the most bytes a value may have; etcd's default limit for a request.
	MaxValue = 3 << 20 / 2

	// MaxKey is the most bytes a key may have.
	MaxKey = 4096
)

// Errors that callers choose by, with errors.Is. What an engine returns adds the operation and the key to them.
var (
	ErrNotFound  = errors.New("key not found")
	ErrConflict  = errors.New("key changed since it was read")
	ErrTooLarge  = errors.New("too large for the store")
	ErrCompacted = errors.New("revision is no longer kept")
	ErrFuture    = errors.New("revision has not been reached yet")
	ErrInvalid   = errors.New("not a key")
	ErrClosed    = errors.New("store is closed")

	// ErrNoSpace: the disk is full. The write did not happen and never will; the store goes on serving, and accepts writes
	// again as soon as there is room.
	ErrNoSpace = errors.New("no space left for the store")

	// ErrBroken: the disk failed while writing. The writes under way may or may not be found after a restart; all later ones
	// are refused, since what a failed sync has left on disk is unknown. Reads go on.
	ErrBroken = errors.New("store accepts no more writes")

	// ErrUnanswered: a store elsewhere does not answer. A write that fails with it, and not with ErrUnknown, was not made.
	ErrUnanswered = errors.New("the store does not answer")

	// ErrUnknown: a store elsewhere was lost before a write was answered, and whether it was made, or still will be, is not known.
	ErrUnknown = errors.New("whether the write was made is not known")

	// ErrSlow: a watcher was so far behind that events it had not taken are no longer kept.
	ErrSlow = errors.New("watcher is too slow")
)

// Record is one key at one revision. Everyone who reads it shares it: neither the key nor the value ever changes.
type Record struct {
	Key      string
	Value    []byte
	Revision int64 // of the write that made this value
	Created  int64 // of the write that made the key; equal to Revision for a key never updated since
}

// Write is one wished change. The value belongs to the store from the moment it is handed over: the caller must not change it.
type Write struct {
	Key    string // 1 to MaxKey bytes
	Value  []byte // nil deletes the key; an empty value that is not nil is a value
	Expect int64  // revision the key must have; 0: it must not exist; Any: no matter

	// Patient lets the write wait up to Patience for others, so that many that come all the time share a sync. An engine may take no notice.
	Patient bool
}

// Patience is how long a patient write waits for others, at the most.
const Patience = 100 * time.Millisecond

// Event is one committed write as a watcher sees it.
//
// For a create Created equals Revision and Previous is nil. For an update Previous is the value it replaced. For a
// delete Value is nil, Revision is the delete's own, Created is that of the key which went, Previous is its last value.
type Event struct {
	Record
	Deleted  bool
	Previous []byte
}

// Store is a durable map. All its methods may be called from many goroutines.
type Store interface {
	// Revision is that of the last write on disk, or First if there was none.
	Revision() int64

	// Current is the revision of the last write by anyone, other servers on the same store among them: no write that was answered before the call is later. An
	// engine that only this process writes to answers at once, and others ask.
	Current(ctx context.Context) (int64, error)

	// Apply makes one change and answers once it is durable, with the record as it is now: for a delete, the record
	// has no value, the revision of the delete and the Created of the key which went.
	//
	// It fails with a *ConflictError (ErrConflict) when the key is not at w.Expect; ErrNotFound when a key is to be deleted that does not
	// exist, and w.Expect is 0 or Any; ErrTooLarge, ErrInvalid, ErrNoSpace, ErrBroken, ErrClosed. After one of these but
	// ErrBroken, nothing has changed. When ctx ends first its error is returned; whether the write happens is then open.
	Apply(ctx context.Context, w Write) (Record, error)

	// ApplyAll makes several changes of different keys, or none of them, and answers with their records in the same order. What fails one fails all, as for
	// Apply; of several keys that are not at the revision expected, the error names the first. A crash before the answer may leave the first ones
	// done without the later: never the other way round. Each takes a revision of its own, or all share one, as in etcd; then one batch has all events.
	ApplyAll(ctx context.Context, writes []Write) ([]Record, error)

	// Get reads one key, ErrNotFound if it does not exist. It sees every write answered before it was called.
	Get(ctx context.Context, key string) (Record, error)

	// List reads all keys that begin with prefix, sorted, as they were at one revision, which it also returns: that of the
	// last write on disk or later. An empty prefix is all keys.
	List(ctx context.Context, prefix string) ([]Record, int64, error)

	// Watch sends every event after the revision `after` on keys that begin with prefix, each once, in batches by ascending revision; a batch is
	// never empty. Batches are shared: the receiver must not change them. It fails with ErrCompacted when events after `after` are no longer kept. A revision
	// still to come is accepted; nothing is sent until it has passed.
	//
	// The channel is closed when ctx ends, when the store closes, when the receiver is too slow (it delays nobody), or
	// when history cannot be read. Then, and only then, the function gives the reason: ctx's error, ErrClosed, ErrSlow, or what went wrong.
	Watch(ctx context.Context, prefix string, after int64) (<-chan []Event, func() error, error)

	// Compact forgets all events up to and including the revision `before`: from now on, and after a restart, Watch from an earlier revision
	// fails with ErrCompacted. Current records stay. An engine also forgets by itself, so that its disk use is bounded.
	// Compacting to a revision already forgotten does nothing; to one not reached yet it fails with ErrFuture.
	Compact(ctx context.Context, before int64) error

	// Close ends all watches, answers writes still waiting with ErrClosed, and returns once nothing runs any more.
	// A second call does nothing.
	Close() error
}

// ConflictError says that a key was not at the revision that a write expected.
type ConflictError struct {
	Key     string
	Expect  int64
	Current Record // what is there instead, or something newer; zero if the key does not exist
}

func (e *ConflictError) Error() string {
	switch {
	case e.Current.Revision == 0:
		return fmt.Sprintf("write %s: expected revision %d: key does not exist", e.Key, e.Expect)
	case e.Expect == 0:
		return fmt.Sprintf("write %s: expected no such key: it is at revision %d", e.Key, e.Current.Revision)
	}
	return fmt.Sprintf("write %s: expected revision %d: it is at revision %d", e.Key, e.Expect, e.Current.Revision)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Check finds what is wrong with a write before any engine looks at it: ErrInvalid, ErrTooLarge or nil.
func (w Write) Check() error {
	switch {
	case w.Key == "":
		return fmt.Errorf("write: %w: it is empty", ErrInvalid)
	case len(w.Key) > MaxKey:
		return fmt.Errorf("write %.64s...: %w: it has %d bytes, the most is %d", w.Key, ErrInvalid, len(w.Key), MaxKey)
	case len(w.Value) > MaxValue:
		return fmt.Errorf("write %s: %w: value has %d bytes, the most is %d", w.Key, ErrTooLarge, len(w.Value), MaxValue)
	case w.Expect < Any:
		return fmt.Errorf("write %s: %w: expected revision %d", w.Key, ErrInvalid, w.Expect)
	}
	return nil
}
