package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

// CompactKey is the key by which the servers on one etcd agree who compacts, Kubernetes' own among them: its version counts the rounds, its value is
// the revision compacted to last. It is no object; lists and watches of all keys show it like any other.
const CompactKey = "compact_rev_key"

func isCompacted(err error) bool { return errors.Is(err, store.ErrCompacted) }

// Compact forgets history; see store.Store.
func (s *Store) Compact(ctx context.Context, before int64) error {
	ask := func(ctx context.Context) error {
		_, err := s.client.Compact(ctx, before)
		return err
	}
	if before < store.First { // there is nothing before it
		ask = func(context.Context) error { return nil }
	}
	err := s.read(ctx, ask) // doing it twice is doing it once
	if err != nil && !isCompacted(err) {
		return fmt.Errorf("compact to %d: %w", before, err)
	}
	raise(&s.compacted, before)
	return nil
}

// round is where the compactor stands: how many rounds it knows of, and the revision that was current at the last of them.
type round struct{ version, revision int64 }

// compactor forgets, every so often, what is older than the time before. Whoever of all servers counts the round first does it.
func (s *Store) compactor() {
	var at round
	for wait(s.base, s.cfg.CompactEvery) {
		next, err := s.compactOnce(s.base, at)
		if err != nil {
			if s.base.Err() == nil {
				s.cfg.Log.Warn("history was not compacted; the next round tries again", "error", err)
			}
			continue
		}
		at = next
	}
}

// compactOnce plays one round: if nobody has since the last one, the revision of the last round is compacted to.
func (s *Store) compactOnce(ctx context.Context, at round) (round, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(CompactKey), "=", at.version)).
		Then(clientv3.OpPut(CompactKey, strconv.FormatInt(at.revision, 10))).
		Else(clientv3.OpGet(CompactKey)).
		Commit()
	if err != nil {
		return at, fmt.Errorf("count a round of compaction: %w", translate(err))
	}
	s.saw(resp.Header.Revision)
	next := round{at.version + 1, resp.Header.Revision}
	if !resp.Succeeded {
		next.version = 0
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			next.version = kvs[0].Version
			if done, err := strconv.ParseInt(string(kvs[0].Value), 10, 64); err == nil {
				raise(&s.compacted, done)
			}
		}
		return next, nil
	}
	if at.revision == 0 { // the first round: how old things are is not known yet
		return next, nil
	}
	return next, s.Compact(ctx, at.revision)
}
