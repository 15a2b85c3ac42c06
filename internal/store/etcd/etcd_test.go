package etcd

import (
	"testing"

	"sampan.dev/internal/store"
	"sampan.dev/internal/store/storetest"
)

func TestContractOnOneMember(t *testing.T) {
	t.Parallel()
	storetest.Run(t, ahead(t, 1))
}

func TestContractOnThreeMembers(t *testing.T) {
	t.Parallel()
	storetest.Run(t, ahead(t, 3))
}

func TestReopen(t *testing.T) {
	storetest.Reopen(t, func(t *testing.T, dir string) store.Store {
		members := plan(t, dir, 1)
		o := &opened{stop: startAll(t, members)}
		t.Cleanup(func() { o.Close() })
		o.Store = open(t, Config{Endpoints: endpoints(members)})
		return o
	})
}
