package etcd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
	"sampan.dev/internal/store/snapshot"
)

// one starts an etcd of one member, after change, and returns a store on it.
func one(t *testing.T, cfg Config, change func(m *memberConfig)) *Store {
	t.Helper()
	members := plan(t, t.TempDir(), 1)
	if change != nil {
		change(&members[0])
	}
	t.Cleanup(startAll(t, members))
	cfg.Endpoints = endpoints(members)
	return open(t, cfg)
}

func TestLimitsOfEtcd(t *testing.T) {
	s := one(t, Config{}, nil)
	many := func(n, size int) (writes []store.Write) {
		for i := range n {
			writes = append(writes, store.Write{Key: fmt.Sprintf("/many/%d", i), Value: make([]byte, size)})
		}
		return writes
	}
	before := s.Revision()
	if _, err := s.ApplyAll(t.Context(), many(MaxWrites+1, 1)); !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "at most 128 changes") {
		t.Errorf("one write too many: %v", err)
	}
	if _, err := s.ApplyAll(t.Context(), many(3, 1<<20)); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a transaction of 3 MB: %v", err)
	}
	if now, err := s.Current(t.Context()); err != nil || now != before {
		t.Errorf("what was refused moved the revision from %d to %d (%v)", before, now, err)
	}
	records, err := s.ApplyAll(t.Context(), many(MaxWrites, 1))
	if err != nil || len(records) != MaxWrites {
		t.Errorf("as many writes as may be: %d records, %v", len(records), err)
	}
}

// A full etcd refuses writes and says so, reads go on; when there is room again so do writes.
func TestNoSpace(t *testing.T) {
	s := one(t, Config{}, func(m *memberConfig) { m.Quota = 4 << 20 })
	put(t, s, "/kept", "v", 0)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = s.Apply(t.Context(), store.Write{Key: "/fill", Value: make([]byte, 1<<20), Expect: store.Any})
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Get(t.Context(), "/kept"); err != nil {
		t.Errorf("a read of a full etcd: %v", err)
	}
	members := s.Members(t.Context())
	if len(members) != 1 || members[0].Err == nil || !strings.Contains(members[0].Err.Error(), "NOSPACE") || members[0].Quota != 4<<20 {
		t.Errorf("the member says %+v", members)
	}
	if facts := s.Facts(); len(facts.Members) != 1 || facts.Revision < 2 {
		t.Errorf("got %+v", facts)
	}
}

func TestWhatAnErrorSays(t *testing.T) {
	for _, c := range []struct {
		err  error
		sent bool
		want verdict
	}{
		{rpctypes.ErrGRPCNoSpace, true, refused},
		{rpctypes.ErrGRPCRequestTooLarge, true, refused},
		{rpctypes.ErrGRPCCompacted, true, refused},
		{rpctypes.ErrGRPCPermissionDenied, true, refused},
		{rpctypes.ErrGRPCRequestTooManyRequests, true, busy},
		{rpctypes.ErrGRPCTimeout, true, lost},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, true, lost},
		{rpctypes.ErrGRPCNoLeader, true, lost},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), true, lost},
		{status.Error(codes.Unavailable, "connection refused"), false, busy},
		{context.DeadlineExceeded, true, lost},
		{context.DeadlineExceeded, false, busy},
	} {
		if got := judge(c.err, c.sent); got != c.want {
			t.Errorf("%v (sent: %v): got %d, want %d", c.err, c.sent, got, c.want)
		}
	}
}

// Of two servers one compacts a round; both know how far it has come. What is younger than a round stays.
func TestCompactionInTurn(t *testing.T) {
	s := one(t, Config{CompactEvery: -1}, nil)
	other := open(t, Config{Endpoints: s.cfg.Endpoints, CompactEvery: -1})
	start := put(t, s, "/a", "1", 0).Revision
	var mine, theirs round
	play := func(s *Store, at *round) {
		t.Helper()
		next, err := s.compactOnce(t.Context(), *at)
		if err != nil {
			t.Fatal(err)
		}
		*at = next
	}
	play(s, &mine) // nothing is known to be old yet
	play(other, &theirs)
	if kept := s.kept(t.Context(), start); kept != nil {
		t.Fatalf("the first round forgot: %v", kept)
	}
	upTo := mine.revision
	young := put(t, s, "/a", "2", store.Any).Revision
	play(s, &mine)
	play(other, &theirs) // has lost the round, and learns of it
	if err := s.kept(t.Context(), upTo-1); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch from %d, after a round to %d: %v", upTo-1, upTo, err)
	}
	if err := s.kept(t.Context(), young-1); err != nil {
		t.Errorf("a watch from %d, after a round to %d: %v", young-1, upTo, err)
	}
	if mine.version != theirs.version || other.Facts().Compacted != upTo || s.Facts().Compacted != upTo {
		t.Errorf("rounds %+v and %+v, compacted to %d and %d, want %d", mine, theirs, s.Facts().Compacted, other.Facts().Compacted, upTo)
	}
	resp, err := s.client.Get(t.Context(), CompactKey)
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != fmt.Sprint(upTo) {
		t.Errorf("%s is %v (%v), want %d", CompactKey, resp.Kvs, err, upTo)
	}
}

// A watch that is compacted away while it has no connection is told so, and does not go on with a gap.
func TestCompactedWhileAway(t *testing.T) {
	members := plan(t, t.TempDir(), 1)
	t.Cleanup(startAll(t, members))
	direct := open(t, Config{Endpoints: endpoints(members)})
	w := newWire(t, members[0].Client)
	s := open(t, Config{Endpoints: []string{"http://" + w.listener.Addr().String()}})
	batches, reason, err := s.Watch(t.Context(), "/", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	put(t, direct, "/a", "1", 0)
	<-batches
	w.noTell.Store(true)
	for i := range 10 {
		put(t, direct, "/a", fmt.Sprint(i), store.Any)
	}
	if err := direct.Compact(t.Context(), direct.Revision()); err != nil {
		t.Fatal(err)
	}
	w.cut()
	for batch := range batches {
		t.Errorf("got %v", batch)
	}
	if err := reason(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("the watch ended because: %v", err)
	}
}

func TestSlowReceiverIsTold(t *testing.T) {
	s := one(t, Config{}, nil)
	batches, reason, err := s.Watch(t.Context(), "/", s.Revision())
	if err != nil {
		t.Fatal(err)
	}
	for range 2*waitingBytes>>20/2 + 4 {
		if _, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: make([]byte, 1<<20), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	for reason() == nil {
		time.Sleep(time.Millisecond)
	}
	for range batches {
		t.Error("a watch that has ended sends something")
	}
	if err := reason(); !errors.Is(err, store.ErrSlow) {
		t.Errorf("the watch ended because: %v", err)
	}
}

// The keys and values of one engine are those of the other, through a copy both ways and through a file.
func TestFromTheLocalStoreAndBack(t *testing.T) {
	first, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	last, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for i := range 700 {
		put(t, first, fmt.Sprintf("/registry/pods/default/p%d", i), strings.Repeat("v", i*17%5000), 0)
	}
	put(t, first, "/registry/big", strings.Repeat("b", store.MaxValue), 0)
	s := one(t, Config{}, nil)
	head, err := snapshot.Copy(t.Context(), first, s)
	if err != nil || head.Count != 701 || s.Revision() <= first.Revision() {
		t.Fatalf("%+v, %v", head, err)
	}
	if _, err := s.compactOnce(t.Context(), round{}); err != nil { // leaves a key that is no object
		t.Fatal(err)
	}
	raw, err := s.client.Get(t.Context(), "/registry/pods/default/p3", clientv3.WithSerializable())
	if err != nil || len(raw.Kvs) != 1 || string(raw.Kvs[0].Value) != strings.Repeat("v", 51) {
		t.Errorf("etcd has %v (%v): not the key and the value as they are", raw.Kvs, err)
	}
	if head, err = snapshot.Copy(t.Context(), s, last); err != nil || head.Count != 701 {
		t.Fatalf("%+v, %v", head, err)
	}
	dir := t.TempDir()
	info, err := snapshot.Save(t.Context(), s, dir, time.Now())
	if err != nil || info.Count != 701 {
		t.Fatalf("%+v, %v", info, err)
	}
	again := one(t, Config{}, nil)
	if _, err := snapshot.Restore(t.Context(), filepath.Join(dir, info.Name), again); err != nil {
		t.Fatal(err)
	}
	if records, _, err := again.List(t.Context(), "/"); err != nil || len(records) != 701 {
		t.Errorf("%d records, %v", len(records), err)
	}
}
