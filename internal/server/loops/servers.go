package loops

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// Of the Lease by which a server that shares its datastore says that it is there. Kubernetes' API servers have such Leases (KEP-1965); the annotations are ours.
const (
	ServerPrefix  = "apiserver-"
	ServerLabel   = "apiserver.kubernetes.io/identity"
	ServerAddress = "sampan.dev/address" // HOST:PORT of its API
	ServerID      = "sampan.dev/server-id"
	ServerLease   = 15 * time.Second
	forgetServer  = time.Hour // after that a Lease of a server that never came back is deleted
)

// servers knows which servers are there, by their Leases and this machine's clock.
type servers struct {
	*world
	*loop.Loop
	kind *resource.Kind
	tell func([]netip.AddrPort)

	mu   sync.Mutex
	seen map[string]sighting
}

// sighting is when a renewal of a Lease was first seen here.
type sighting struct {
	renewed time.Time
	since   time.Time
	at      netip.AddrPort
}

// followServers tells which servers are there, whenever that changes.
func followServers(w *world, tell func([]netip.AddrPort)) part {
	s := &servers{world: w, kind: w.kindOf(coordination.SchemeGroupVersion.WithKind("Lease")), tell: tell, seen: map[string]sighting{}}
	s.Loop = loop.New("servers", s.reconcile, loop.Options{Workers: 1, Metrics: w.Queues, Log: w.Log})
	return part{account: "kubernetes-service-controller", run: s.Run, on: map[*resource.Kind]func(change){s.kind: s.changed}}
}

func (s *servers) changed(ch change) {
	if ch.key.Namespace != metav1.NamespaceSystem || len(ch.key.Name) <= len(ServerPrefix) || ch.key.Name[:len(ServerPrefix)] != ServerPrefix {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.seen[ch.key.Name]
	now := sighting{since: time.Now()}
	if ch.new != nil {
		l := cache.Typed[*coordination.Lease](ch.new)
		now.at, _ = netip.ParseAddrPort(l.Annotations[ServerAddress])
		if l.Spec.RenewTime != nil {
			now.renewed = l.Spec.RenewTime.Time
		}
	}
	if !now.at.IsValid() {
		delete(s.seen, ch.key.Name)
		s.Mark(loop.Key{})
		return
	}
	if known && was.renewed.Equal(now.renewed) {
		now.since = was.since
	}
	s.seen[ch.key.Name] = now
	if !known || was.at != now.at || now.since.Sub(was.since) > ServerLease {
		s.Mark(loop.Key{})
	}
}

func (s *servers) reconcile(ctx context.Context, _ loop.Key) error {
	live, gone, next := s.live(time.Now())
	s.tell(live)
	for _, name := range gone {
		if err := s.delete(ctx, s.kind, metav1.NamespaceSystem, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if next > 0 {
		s.MarkAfter(loop.Key{}, next)
	}
	return nil
}

// live are the servers whose Leases hold, those that are to be forgotten, and after how long to look again.
func (s *servers) live(now time.Time) (live []netip.AddrPort, gone []string, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, seen := range s.seen {
		left := ServerLease - now.Sub(seen.since)
		if left > 0 {
			live = append(live, seen.at)
		} else if left += forgetServer; left <= 0 {
			gone = append(gone, name)
			continue
		}
		if next == 0 || left < next {
			next = left
		}
	}
	slices.SortFunc(live, netip.AddrPort.Compare)
	return live, gone, next
}
