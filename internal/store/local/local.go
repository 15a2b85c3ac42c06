// Package local is the store that lives in one directory and needs nothing else.
//
// It writes records to the end of a log and syncs once for all writes that wait; it keeps in memory the keys with their revisions, and where
// each revision lies, but no values: these are read back from the files. A second kind of file, the base, holds what
// is left of older logs. Always:
//   - one goroutine commits: it alone gives revisions and changes the index, and it does so after the sync;
//   - revisions in the files follow one another without a gap, so that a place in a file is found by counting;
//   - of the base and the logs before revision `floor`, only the records that were current at the floor are of use;
//   - files take no more than twice what the current records take, plus HistoryBytes and a half. Only while old files
//     are being rewritten, the new base is there as well.
//
// No clock and no random number has a part in it: the same writes make the same files.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"sampan.dev/internal/store"
)

// Errors of this engine, beside those of the contract.
var (
	ErrLocked  = errors.New("in use")
	ErrDamaged = errors.New("store is damaged")
)

// Options of a store; the zero value is ready to use.
type Options struct {
	Log *slog.Logger // nil: slog.Default()

	// HistoryRevisions and HistoryBytes bound the events kept for Watch: those of the last so many
	// revisions, in about so many bytes on disk. Zero takes 65,536 and 32 MB.
	HistoryRevisions int64
	HistoryBytes     int64

	open func(path string, flag int) (file, int64, error) // nil: the real file
}

// Store is the embedded engine. It implements store.Store.
type Store struct {
	dir  string
	opts Options
	lock *os.File

	queue   chan *request
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed when the committer has returned
	forget  chan forget   // what Compact asks of the keeper
	tidy    chan struct{} // has one when the keeper should see whether files are worth rewriting
	running sync.WaitGroup
	once    sync.Once

	active  *segment           // the committer's: the last of logs
	buf     []byte             // the committer's: the batch being written
	pending map[string]pending // the committer's: keys that the batch changes

	writes, syncs atomic.Int64
	pace          store.Pace

	mu       sync.RWMutex // guards the fields below, and the slices and sizes of the segments
	index    btree.Map[string, entry]
	base     *segment   // nil before the first one
	logs     []*segment // ascending, without gaps; the last one is written to
	revision int64      // of the last durable write
	floor    int64      // events up to here are forgotten
	live     int64      // bytes of the current records
	broken   error      // why no more writes are accepted
	closed   bool
	recent   ring
	watchers map[*watcher]struct{}
	changed  chan struct{} // closed when the revision moves
}

var _ store.Store = (*Store)(nil)

// entry is what memory holds of a key.
type entry struct{ revision, created int64 }

// Open opens the store in dir, or makes one there. The directory belongs to this process until Close; ErrLocked names
// who else has it. ErrDamaged says that writes once acknowledged cannot be read any more; then nothing is changed.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.HistoryRevisions <= 0 {
		opts.HistoryRevisions = 1 << 16
	}
	if opts.HistoryBytes <= 0 {
		opts.HistoryBytes = 32 << 20
	}
	if opts.open == nil {
		opts.open = openFile
	}
	s := &Store{
		dir:      dir,
		opts:     opts,
		queue:    make(chan *request, queueSize),
		closing:  make(chan struct{}),
		stopped:  make(chan struct{}),
		forget:   make(chan forget),
		tidy:     make(chan struct{}, 1),
		pending:  map[string]pending{},
		watchers: map[*watcher]struct{}{},
		changed:  make(chan struct{}),
	}
	if err := s.recover(); err != nil {
		for _, g := range s.segments() {
			err = errors.Join(err, g.done())
		}
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.running.Go(s.runCommitter)
	s.running.Go(s.runKeeper)
	return s, nil
}

// Close ends everything and gives the directory back.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		close(s.closing)
		s.mu.Unlock()
		s.running.Wait()
		for _, g := range s.segments() {
			err = errors.Join(err, g.done())
		}
		err = errors.Join(err, s.lock.Close())
	})
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) segments() []*segment {
	if s.base == nil {
		return s.logs
	}
	return append([]*segment{s.base}, s.logs...)
}

// Revision is that of the last durable write.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Compacted is the revision up to which events are forgotten: Watch works from here on.
func (s *Store) Compacted() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.floor
}

// Current is Revision: nobody else writes here.
func (s *Store) Current(context.Context) (int64, error) { return s.Revision(), nil }

// Slow says that the disk is slow, if it is; nil if not.
func (s *Store) Slow() error { return s.pace.Slow() }

// Stalled is for how much of the time since Open the disk took nothing for a second or longer.
func (s *Store) Stalled() time.Duration { return s.pace.Stalled() }

// standsStill is how long a batch waits for the disk until the store counts as one that stands still.
const standsStill = 2 * time.Second

// Standstill is for how long, up to now, the disk has taken nothing; zero if it works. One batch is written after the other, so that a slow one is all there is. Stalled
// counts what Standstill says, always.
func (s *Store) Standstill() time.Duration {
	if waiting := s.pace.Waiting(); waiting >= standsStill {
		return waiting
	}
	return 0
}

// Facts are figures to be exported. Writes and Syncs count since Open; their ratio is how well writes share syncs.
type Facts struct {
	Size      int64 // bytes of all files
	Live      int64 // bytes of the current records
	Keys      int
	Revision  int64
	Compacted int64
	Watchers  int
	Waiting   int // writes not yet taken by the committer
	Writes    int64
	Syncs     int64
	Broken    error // why writes are refused; nil if they are not
}

// Facts returns the figures as they are now.
func (s *Store) Facts() Facts {
	size := s.Size()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Facts{
		Size: size, Live: s.live, Keys: s.index.Len(), Revision: s.revision, Compacted: s.floor,
		Watchers: len(s.watchers), Waiting: len(s.queue), Writes: s.writes.Load(), Syncs: s.syncs.Load(), Broken: s.broken,
	}
}

// Size is how many bytes the directory's files have.
func (s *Store) Size() int64 {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return 0
	}
	var size int64
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(s.dir, name.Name())); err == nil {
			size += info.Size()
		}
	}
	return size
}
