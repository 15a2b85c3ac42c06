package netpol

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// broken is a kernel that refuses for a while.
type broken struct {
	*nft.Fake
	refuse atomic.Bool
}

func (b *broken) Change(ctx context.Context, c nft.Change) error {
	if b.refuse.Load() {
		return errors.New("no")
	}
	return b.Fake.Change(ctx, c)
}

func (b *broken) Replace(ctx context.Context, t nft.Table) error {
	if b.refuse.Load() {
		return errors.New("no")
	}
	return b.Fake.Replace(ctx, t)
}

// locked is a world that changes while others look at it.
type locked struct {
	*world
	mu sync.Mutex
}

func (l *locked) Policy(key loop.Key) *networking.NetworkPolicy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.world.Policy(key)
}

func (l *locked) Pod(key loop.Key) *corev1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.world.Pod(key)
}

func (l *locked) All(each func(kind Kind, key loop.Key)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.world.All(each)
}

// put sets a pod; nil takes it away.
func (l *locked) put(key loop.Key, p *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.pods, key); p != nil {
		l.pods[key] = p
	}
}

func TestARunningTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &locked{world: newWorld()}
		kernel := &broken{Fake: &nft.Fake{}}
		p := New(Config{Node: here, Network: Network{Table: table, Bridge: bridge}, View: w, Kernel: kernel})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()

		deny := loop.Key{Namespace: "x", Name: "deny"}
		w.mu.Lock()
		w.policies[deny] = &networking.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "deny"}, Spec: networking.NetworkPolicySpec{PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress}},
		}
		w.mu.Unlock()
		w.mark(PolicyKind, deny)
		synctest.Wait()
		key, addr := loop.Key{Namespace: "x", Name: "p"}, netip.MustParseAddr("10.244.0.9")
		asks := func() string {
			return kernel.Trace(nft.Packet{In: "eth0", Out: bridge, From: netip.MustParseAddr("198.51.100.7"), To: addr, Proto: nft.TCP, Port: 80}).Fate
		}
		// The pod has an address that the API does not show yet.
		bound := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Spec: corev1.PodSpec{NodeName: here}}
		with := func(ip string) *corev1.Pod {
			p := bound.DeepCopy()
			p.Status.PodIPs = []corev1.PodIP{{IP: ip}}
			return p
		}
		w.put(key, bound)
		if asks() != "accept" {
			t.Error("an address that is nobody's is guarded")
		}
		if err := p.Ready(ctx, key, []netip.Addr{addr}); err != nil || asks() != "drop" {
			t.Errorf("once it is ready: %v, a packet's fate is %s", err, asks())
		}
		// The API shows the address of an earlier sandbox for a while.
		w.put(key, with("10.244.0.8"))
		w.mark(PodKind, key)
		synctest.Wait()
		if asks() != "drop" {
			t.Error("the API's older word has opened it")
		}
		w.put(key, with(addr.String()))
		w.mark(PodKind, key)
		synctest.Wait()
		p.mu.Lock()
		if asks() != "drop" || len(p.begun) != 0 {
			t.Errorf("once the API shows it: %s, %v", asks(), p.begun)
		}
		p.mu.Unlock()

		kernel.Disturb(table)
		synctest.Wait()
		if asks() != "drop" {
			t.Error("a table that somebody has emptied stays so")
		}

		// A kernel that refuses: who waits goes on waiting, and is told in the end.
		kernel.refuse.Store(true)
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := p.Ready(limited, key, []netip.Addr{addr}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a kernel that refuses it is ready: %v", err)
		}
		kernel.refuse.Store(false)
		if err := p.Ready(ctx, key, []netip.Addr{addr}); err != nil || asks() != "drop" {
			t.Errorf("with a kernel that does not refuse any more: %v, %s", err, asks())
		}
		w.put(key, nil)
		w.mark(PodKind, key)
		synctest.Wait()
		if asks() != "accept" {
			t.Error("the address of a pod that has gone is guarded")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
