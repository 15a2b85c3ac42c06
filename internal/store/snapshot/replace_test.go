package snapshot

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sampan.dev/internal/store"
)

func streamed(t *testing.T, s store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Stream(t.Context(), s, &b, Head{Time: time.Unix(0, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func keepLeases(key string) bool { return strings.HasPrefix(key, "/registry/leases/") }

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	if _, err := s.Apply(t.Context(), store.Write{Key: key, Value: []byte(value), Expect: store.Any}); err != nil {
		t.Fatal(err)
	}
}

func TestReplaceBringsAStoreInUseBack(t *testing.T) {
	s, random := open(t), rand.New(rand.NewPCG(1, 2))
	churn(t, s, random, 2000)
	put(t, s, "/registry/leases/a", "old")
	saved, before := streamed(t, s), list(t, s)
	churn(t, s, random, 2000)
	put(t, s, "/registry/leases/a", "new")
	put(t, s, "/registry/leases/b", "new")
	revision := s.Revision()
	events, _, err := s.Watch(t.Context(), "", revision)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Replace(t.Context(), s, bytes.NewReader(saved), keepLeases)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range list(t, s) {
		got[r.Key] = string(r.Value)
	}
	if got["/registry/leases/a"] != "new" || got["/registry/leases/b"] != "new" {
		t.Error("what was to be kept was changed")
	}
	delete(got, "/registry/leases/a")
	delete(got, "/registry/leases/b")
	for _, r := range before {
		if keepLeases(r.Key) {
			continue
		}
		if v, ok := got[r.Key]; !ok || v != string(r.Value) {
			t.Errorf("%s is not what it was", r.Key)
		}
		delete(got, r.Key)
	}
	if len(got) > 0 {
		t.Errorf("%d keys are left that were not there", len(got))
	}
	if c.Written == 0 || c.Deleted == 0 || c.Same == 0 || c.Written+c.Same != len(before)-1 {
		t.Errorf("it says %+v of %d records", c, len(before))
	}
	count := 0
	for count < c.Written+c.Deleted {
		count += len(<-events)
	}
	if s.Revision() != revision+int64(count) {
		t.Errorf("revision %d after %d, with %d events", s.Revision(), revision, count)
	}
	if again, err := Replace(t.Context(), s, bytes.NewReader(saved), keepLeases); err != nil || again.Written+again.Deleted != 0 {
		t.Errorf("once more: %+v %v", again, err)
	}
}

func TestReplaceOfADamagedSnapshotChangesNothing(t *testing.T) {
	s, random := open(t), rand.New(rand.NewPCG(3, 4))
	churn(t, s, random, 500)
	saved := streamed(t, s)
	churn(t, s, random, 500)
	revision := s.Revision()
	for _, at := range []int{0, 60, len(saved) / 2, len(saved) - 1} {
		bad := bytes.Clone(saved)
		bad[at] ^= 1
		if _, err := Replace(t.Context(), s, bytes.NewReader(bad), keepLeases); err == nil {
			t.Errorf("byte %d: no error", at)
		}
	}
	if _, err := Replace(t.Context(), s, bytes.NewReader(saved[:len(saved)/3]), keepLeases); err == nil {
		t.Error("cut short: no error")
	}
	if s.Revision() != revision {
		t.Error("something was written")
	}
}

func TestReplaceBesideWritersEnds(t *testing.T) {
	s, random := open(t), rand.New(rand.NewPCG(5, 6))
	churn(t, s, random, 1000)
	saved, want := streamed(t, s), list(t, s)
	churn(t, s, random, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = s.Apply(ctx, store.Write{Key: "/registry/busy/x", Value: []byte(time.Now().String()), Expect: store.Any})
		}
	}()
	if _, err := Replace(t.Context(), s, bytes.NewReader(saved), keepLeases); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
	got := map[string]string{}
	for _, r := range list(t, s) {
		got[r.Key] = string(r.Value)
	}
	for _, r := range want {
		if got[r.Key] != string(r.Value) {
			t.Errorf("%s is not what it was", r.Key)
		}
	}
}
