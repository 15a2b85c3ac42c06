package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

const (
	pageFirst = 500     // keys in the first page of a list, as Kubernetes asks for
	pageMost  = 10_000  // keys in any page
	pageBytes = 4 << 20 // what a page should have about
)

// read asks etcd, and other members when one does not answer. What is asked must change nothing.
func (s *Store) read(ctx context.Context, ask func(ctx context.Context) error) error {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	for started := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, readTimeout)
		err := ask(attempt)
		if attempt.Err() != nil && ctx.Err() == nil {
			s.pulse.suspected()
		}
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case judge(err, true) == refused:
			return translate(err)
		case time.Since(started) > patience:
			return fmt.Errorf("%w: %w (%s)", ErrUnanswered, err, s.WhoAnswers(ctx))
		case !wait(ctx, pause):
			return context.Cause(ctx)
		}
	}
}

// get reads a range with all that etcd says of it.
func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (resp *clientv3.GetResponse, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		resp, err = s.client.Get(ctx, key, opts...)
		return err
	})
	if err == nil {
		s.saw(resp.Header.Revision)
	}
	return resp, err
}

// record is a key as the contract shows it.
func record(kv *mvccpb.KeyValue) store.Record {
	return store.Record{Key: string(kv.Key), Value: value(kv.Value), Revision: kv.ModRevision, Created: kv.CreateRevision}
}

// value makes an empty value one that is not nil: etcd does not tell these apart, and nil means no value.
func value(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

// current asks etcd for its revision: that of the last write by any server.
func (s *Store) current(ctx context.Context) (int64, error) {
	resp, err := s.get(ctx, CompactKey, clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read etcd's revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// Get reads one key; see store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	resp, err := s.get(ctx, key)
	if err == nil && len(resp.Kvs) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", key, err)
	}
	return record(resp.Kvs[0]), nil
}

// List reads all keys with a prefix, page by page, all at the revision of the first; see store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Record, int64, error) {
	for {
		records, revision, err := s.list(ctx, prefix)
		if err == nil {
			return records, revision, nil
		}
		// The revision of the first page can be forgotten before the last page is read: then once more, from the beginning.
		if revision == 0 || !isCompacted(err) {
			return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
		}
	}
}

// list is one try. Its error comes with the revision if there was a first page.
func (s *Store) list(ctx context.Context, prefix string) (records []store.Record, revision int64, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	if prefix == "" {
		from = "\x00"
	}
	limit := int64(pageFirst)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(limit)}
		if revision > 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		resp, err := s.get(ctx, from, opts...)
		if err != nil {
			return nil, revision, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
			records = make([]store.Record, 0, resp.Count)
		}
		size := 1
		for _, kv := range resp.Kvs {
			records = append(records, record(kv))
			size += len(kv.Value)
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return records, revision, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		limit = min(max(int64(len(resp.Kvs))*pageBytes/int64(size), 1), 2*limit, pageMost)
	}
}
