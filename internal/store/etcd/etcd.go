// Package etcd is the store that an etcd cluster keeps, in etcd's own terms: a key and a value are stored as they come, which is how Kubernetes stores
// them, and revisions are etcd's.
//
// It watches and writes nothing but what it is told to, and once in a while the key by which Kubernetes' servers agree who compacts. Always:
//   - what a write is based on is compared in the transaction that makes it, so that of two servers' writes expecting the same revision one fails;
//   - a write is answered only when etcd has acknowledged it, or when what etcd holds shows that it was made; where neither is so, ErrUnknown says it;
//   - reads see every write that was acknowledged before, by whichever server: none is answered by a member that may be behind;
//   - a watch goes on when the member it was with goes, from where it was; all events of one revision are in one batch.
//
// One thing differs from a store that numbers writes one by one: the records that one ApplyAll makes share a revision. And etcd must be told
// --max-request-bytes=2097152 if values are to be as large as the contract lets them: by default their keys have to fit into the same 1.5 MB.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

// Errors of this engine, beside those of the contract.
var (
	// ErrUnknown: the connection broke before a write was answered, and what etcd holds does not tell whether it was made, or still will be.
	ErrUnknown = store.ErrUnknown
	// ErrUnanswered: no member answered in time. A write that fails with it, and not with ErrUnknown, was not made.
	ErrUnanswered = fmt.Errorf("etcd: %w", store.ErrUnanswered)
)

// MaxWrites is how many writes ApplyAll takes: etcd's default for operations in a transaction.
const MaxWrites = 128

const (
	readTimeout  = 3 * time.Second  // one attempt at a read; the next goes to another member
	writeTimeout = 8 * time.Second  // one attempt at a write; etcd itself gives up after seven seconds
	patience     = 12 * time.Second // all attempts
	pause        = 50 * time.Millisecond
)

// Config says which etcd, and how to reach it.
type Config struct {
	Endpoints []string // https://host:2379 each; one member or several
	CA        string   // file with the certificates that etcd's are checked by; empty: the system's
	Cert, Key string   // files with the client certificate; read anew for each connection

	// CompactEvery is how often old revisions are forgotten, by one of all servers. Zero takes five minutes; a negative one never does.
	CompactEvery time.Duration

	Log *slog.Logger // nil: slog.Default()
}

// Store is a client of etcd. It implements store.Store.
type Store struct {
	cfg      Config
	client   *clientv3.Client
	security *tls.Config // nil without https

	base    context.Context // ends with Close, because of store.ErrClosed
	end     context.CancelCauseFunc
	gate    sync.RWMutex // held for reading while something is added to running
	running sync.WaitGroup

	revision  atomic.Int64 // the highest seen in any answer
	compacted atomic.Int64 // the highest known to be forgotten

	asking  asking
	pace    store.Pace
	pulse   pulse
	silence silence
	health  health
}

var _ store.Store = (*Store)(nil)

// Open connects and returns once etcd has answered, or ctx ends: then the error says what each endpoint said.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.CompactEvery == 0 {
		cfg.CompactEvery = 5 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Endpoints = slices.Clone(cfg.Endpoints)
	client, security, err := dial(cfg)
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	s := &Store{cfg: cfg, client: client, security: security}
	s.revision.Store(store.First)
	s.pace.Of = "etcd"
	s.base, s.end = context.WithCancelCause(context.Background())
	s.pulse.began = time.Now()
	s.pulse.renew, s.pulse.suspect = make(chan struct{}), make(chan struct{}, 1)
	for {
		if err = s.distrust(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("open etcd: %w", err), s.Close())
		}
		if _, err = s.current(ctx); err == nil || ctx.Err() != nil || !errors.Is(err, ErrUnanswered) {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("open etcd: %w (%s)", err, s.WhoAnswers(s.base))
		return nil, errors.Join(err, s.Close())
	}
	s.running.Go(s.keepPulse)
	s.running.Go(s.listen)
	if cfg.CompactEvery > 0 {
		s.running.Go(s.compactor)
	}
	return s, nil
}

// Close ends everything that is under way and the connections.
func (s *Store) Close() error {
	s.gate.Lock()
	first := s.base.Err() == nil
	s.end(store.ErrClosed)
	s.gate.Unlock()
	s.running.Wait()
	if !first {
		return nil
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd: %w", err)
	}
	return nil
}

// Revision is the highest that any answer or watch has shown; it is not behind what this store has answered, but may be behind what other servers write.
// Who has to know asks for Current.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Slow says that etcd takes long to write, if it does; nil if not.
func (s *Store) Slow() error { return s.pace.Slow() }

// Stalled is for how much of the time since Open etcd took some write for a second or longer, or was silent.
func (s *Store) Stalled() time.Duration {
	s.quiet()
	return s.pace.Stalled()
}

// Standstill is for how long, up to now, etcd has been silent; zero if it is not. That one write is not answered is no standstill: another member may take the next.
// Stalled counts what Standstill says, always.
func (s *Store) Standstill() time.Duration {
	if quiet := s.quiet(); quiet > silentAfter {
		return quiet
	}
	return 0
}

// saw notes the revision that an answer shows.
func (s *Store) saw(revision int64) { raise(&s.revision, revision) }

func raise(n *atomic.Int64, to int64) {
	for {
		if now := n.Load(); now >= to || n.CompareAndSwap(now, to) {
			return
		}
	}
}

// begin makes a call part of the store: it ends with the caller's context or with Close, which waits for done.
func (s *Store) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.base.Err() != nil {
		return nil, nil, store.ErrClosed
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	s.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.base, func() { cancel(store.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.running.Done()
	}, nil
}

// wait pauses between two attempts; false when the context has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
