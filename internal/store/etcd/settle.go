package etcd

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

// settleSteps is how many later writes of a key are looked behind for the one in question.
const settleSteps = 64

// settle finds out what came of writes whose answer was lost, from what etcd holds. Refused is why the same transaction failed when it was sent again, or
// nil if it was not.
//
// They were made if there is a revision above floor in which each key got exactly the value, over exactly what was expected. (That another server made
// the same change of the same bytes over the same revision in that moment is the one thing that cannot be told from it; objects have identities of
// their own, so that what is made is the same then.) They were not made, and never will be, if the transaction was refused and no such revision is
// there. All else is ErrUnknown.
func (s *Store) settle(ctx context.Context, writes []store.Write, floor int64, missed, refused error) ([]store.Record, error) {
	unknown := func(why string) ([]store.Record, error) {
		return nil, failed(writes, fmt.Errorf("%w: %w: %s", ErrUnknown, missed, why))
	}
	var probe *store.Write // a write by which the revision can be found
	for i, w := range writes {
		if w.Value == nil || w.Expect == store.Any {
			continue
		}
		if floor = max(floor, w.Expect); probe == nil {
			probe = &writes[i]
		}
	}
	if probe == nil {
		return unknown("what it leaves does not tell who did it")
	}
	at, err := s.keyAt(ctx, probe.Key, 0)
	for range settleSteps {
		switch {
		case err != nil:
			return unknown(err.Error())
		case at == nil:
			if refused != nil && probe.Expect > 0 {
				return unknown("the key has been deleted since")
			}
			return unknown("the key is not there yet")
		case at.ModRevision <= floor:
			if refused != nil {
				return nil, refused
			}
			return unknown("it is not there yet")
		}
		if bytes.Equal(at.Value, probe.Value) {
			records, err := s.madeAt(ctx, writes, at.ModRevision)
			if err != nil {
				return unknown(err.Error())
			}
			if records != nil {
				return records, nil
			}
		}
		at, err = s.keyAt(ctx, probe.Key, at.ModRevision-1)
	}
	return unknown("the key was changed too often since")
}

// madeAt returns the records if a revision is that of the writes, nil if it is not.
func (s *Store) madeAt(ctx context.Context, writes []store.Write, revision int64) ([]store.Record, error) {
	records := make([]store.Record, len(writes))
	for i, w := range writes {
		was, err := s.keyAt(ctx, w.Key, revision-1)
		if err != nil {
			return nil, err
		}
		is, err := s.keyAt(ctx, w.Key, revision)
		if err != nil {
			return nil, err
		}
		base := int64(0)
		if was != nil {
			base = was.ModRevision
		}
		r := store.Record{Key: w.Key, Value: w.Value, Revision: revision}
		switch {
		case w.Expect != store.Any && base != w.Expect:
			return nil, nil
		case w.Value == nil && (is != nil || was == nil):
			return nil, nil
		case w.Value == nil:
			r.Created = was.CreateRevision
		case is == nil || is.ModRevision != revision || !bytes.Equal(is.Value, w.Value):
			return nil, nil
		default:
			r.Created = is.CreateRevision
		}
		records[i] = r
	}
	return records, nil
}

// keyAt reads a key as it was at a revision, nil if it was not there; 0 is now.
func (s *Store) keyAt(ctx context.Context, key string, revision int64) (*mvccpb.KeyValue, error) {
	resp, err := s.get(ctx, key, clientv3.WithRev(revision))
	if err != nil {
		return nil, fmt.Errorf("read %s at revision %d: %w", key, revision, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	return resp.Kvs[0], nil
}
