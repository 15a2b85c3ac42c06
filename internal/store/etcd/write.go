package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"sampan.dev/internal/store"
)

// Apply makes one change; see store.Store.
func (s *Store) Apply(ctx context.Context, w store.Write) (store.Record, error) {
	records, err := s.ApplyAll(ctx, []store.Write{w})
	if err != nil {
		return store.Record{}, err
	}
	return records[0], nil
}

// ApplyAll makes several changes in one transaction; see store.Store. They share its revision. More than MaxWrites are refused: etcd would.
func (s *Store) ApplyAll(ctx context.Context, writes []store.Write) ([]store.Record, error) {
	if len(writes) == 0 {
		return nil, nil
	}
	if len(writes) > MaxWrites {
		return nil, fmt.Errorf("write %s and %d more: %w: etcd makes at most %d changes together", writes[0].Key, len(writes)-1, store.ErrTooLarge, MaxWrites)
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if err := w.Check(); err != nil {
			return nil, err
		}
		if seen[w.Key] {
			return nil, fmt.Errorf("write %s: %w: it is there twice", w.Key, store.ErrInvalid)
		}
		seen[w.Key] = true
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return nil, failed(writes, err)
	}
	defer done()
	end := s.pace.Begin()
	records, err := s.commit(ctx, writes)
	end()
	if err != nil {
		return nil, err
	}
	return records, nil
}

func failed(writes []store.Write, err error) error {
	if len(writes) > 1 {
		return fmt.Errorf("write %s and %d more: %w", writes[0].Key, len(writes)-1, err)
	}
	return fmt.Errorf("write %s: %w", writes[0].Key, err)
}

// commit sends the transaction until it is known what came of it.
//
// When an answer is lost the same transaction is sent again only if it can succeed but once: because one of its writes expects a revision, which is gone
// when it has been made. Otherwise what etcd holds is looked at; see settle.
func (s *Store) commit(ctx context.Context, writes []store.Write) ([]store.Record, error) {
	request, once := transaction(writes)
	floor := s.Revision() // what these writes make is above
	var missed error      // why there was no answer to a request that may have been carried out
	for started := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, writeTimeout)
		attempt, sent := markSent(attempt)
		slow := time.AfterFunc(readTimeout, s.pulse.suspected)
		resp, err := s.client.Txn(attempt).If(request.compare...).Then(request.then...).Else(request.otherwise...).Commit()
		slow.Stop()
		cancel()
		if err == nil {
			s.saw(resp.Header.Revision)
			if resp.Succeeded {
				return made(writes, resp), nil
			}
			if missed != nil {
				return s.settle(ctx, writes, floor, missed, refusal(writes, resp))
			}
			return nil, refusal(writes, resp)
		}
		switch judge(err, sent.Load()) {
		case refused:
			if missed != nil {
				return nil, failed(writes, fmt.Errorf("%w: %w; then: %w", ErrUnknown, missed, translate(err)))
			}
			return nil, failed(writes, translate(err))
		case lost:
			missed = err
			if !once && ctx.Err() == nil {
				return s.settle(ctx, writes, floor, missed, nil)
			}
		}
		switch {
		case ctx.Err() != nil && missed != nil:
			return nil, failed(writes, fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx)))
		case ctx.Err() != nil:
			return nil, failed(writes, context.Cause(ctx))
		case time.Since(started) > patience && missed != nil:
			return nil, failed(writes, fmt.Errorf("%w: %w (%s)", ErrUnknown, missed, s.WhoAnswers(ctx)))
		case time.Since(started) > patience:
			return nil, failed(writes, fmt.Errorf("%w: %w (%s)", ErrUnanswered, err, s.WhoAnswers(ctx)))
		}
		wait(ctx, pause)
	}
}

// txn is a transaction as etcd takes it.
type txn struct {
	compare         []clientv3.Cmp
	then, otherwise []clientv3.Op
}

// transaction compares what each write is based on, makes all, or else reads what is there. Once says that it cannot succeed a second time.
func transaction(writes []store.Write) (t txn, once bool) {
	for _, w := range writes {
		switch {
		case w.Value == nil && w.Expect <= 0: // there must be something to delete; that it is not expected is seen in the answer
			comparison := clientv3.Compare(clientv3.ModRevision(w.Key), ">", 0)
			if w.Expect == 0 {
				comparison = clientv3.Compare(clientv3.ModRevision(w.Key), "<", 0) // nothing is so: it fails in any case
			}
			t.compare = append(t.compare, comparison)
		case w.Expect != store.Any:
			t.compare = append(t.compare, clientv3.Compare(clientv3.ModRevision(w.Key), "=", w.Expect))
		}
		if w.Value == nil {
			t.then = append(t.then, clientv3.OpDelete(w.Key, clientv3.WithPrevKV()))
		} else {
			t.then = append(t.then, clientv3.OpPut(w.Key, string(w.Value), clientv3.WithPrevKV()))
		}
		t.otherwise = append(t.otherwise, clientv3.OpGet(w.Key))
		once = once || w.Expect > 0
	}
	return t, once
}

// made reads the records out of the answer to a transaction that succeeded.
func made(writes []store.Write, resp *clientv3.TxnResponse) []store.Record {
	records := make([]store.Record, len(writes))
	for i, w := range writes {
		r := store.Record{Key: w.Key, Value: w.Value, Revision: resp.Header.Revision, Created: resp.Header.Revision}
		if w.Value == nil {
			if gone := resp.Responses[i].GetResponseDeleteRange(); len(gone.PrevKvs) > 0 {
				r.Created = gone.PrevKvs[0].CreateRevision
			}
		} else if prev := resp.Responses[i].GetResponsePut().PrevKv; prev != nil {
			r.Created = prev.CreateRevision
		}
		records[i] = r
	}
	return records
}

// refusal says why a transaction was not made: the first write that does not find what it expects.
func refusal(writes []store.Write, resp *clientv3.TxnResponse) error {
	for i, w := range writes {
		if err := check(w, resp.Responses[i].GetResponseRange()); err != nil {
			return err
		}
	}
	return failed(writes, fmt.Errorf("etcd refused the transaction, but everything is as expected at revision %d", resp.Header.Revision))
}

// check compares what a write expects with what is there.
func check(w store.Write, there *pb.RangeResponse) error {
	var current store.Record
	if len(there.Kvs) > 0 {
		current = record(there.Kvs[0])
	}
	switch {
	case w.Value == nil && w.Expect <= 0 && current.Revision == 0:
		return fmt.Errorf("write %s: %w", w.Key, store.ErrNotFound)
	case w.Expect != store.Any && w.Expect != current.Revision:
		return &store.ConflictError{Key: w.Key, Expect: w.Expect, Current: current}
	}
	return nil
}
