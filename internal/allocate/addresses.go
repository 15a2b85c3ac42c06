package allocate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/store"
)

// What upstream labels IPAddresses with that it makes itself.
const (
	managedBy = "ipallocator.k8s.io"
)

// addressWrites makes the IPAddresses of addresses that a Service has got, and deletes those of addresses that it has no more.
func (a *Services) addressWrites(ctx context.Context, s, old *corev1.Service) (writes []store.Write, err error) {
	now, before := ipsOf(s), ipsOf(old)
	for _, ip := range sorted(now) {
		if before[ip] {
			continue
		}
		value, err := a.cfg.Table.Encode(a.addressOf(ip, s))
		if err != nil {
			return nil, fmt.Errorf("encode IPAddress %s: %w", ip, err)
		}
		writes = append(writes, store.Write{Key: a.addresses.Key("", ip.String()), Value: value})
	}
	for _, ip := range sorted(before) {
		if now[ip] {
			continue
		}
		rec, err := a.cfg.Store.Get(ctx, a.addresses.Key("", ip.String()))
		if errors.Is(err, store.ErrNotFound) {
			continue // somebody has deleted it by hand
		}
		if err != nil {
			return nil, fmt.Errorf("give back %s: %w", ip, err)
		}
		if obj, err := a.cfg.Table.Decode(rec.Value); err != nil || !belongs(obj.(*networking.IPAddress), old) {
			continue // it is another Service's now
		}
		writes = append(writes, store.Write{Key: rec.Key, Expect: rec.Revision})
	}
	return writes, nil
}

func sorted(set map[netip.Addr]bool) []netip.Addr {
	all := make([]netip.Addr, 0, len(set))
	for ip := range set {
		all = append(all, ip)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func belongs(ip *networking.IPAddress, s *corev1.Service) bool {
	ref := ip.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == s.Namespace && ref.Name == s.Name
}

func (a *Services) addressOf(ip netip.Addr, s *corev1.Service) *networking.IPAddress {
	o := &networking.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(), UID: uuid.NewUUID(), CreationTimestamp: metav1.NewTime(a.cfg.Now()).Rfc3339Copy(), Generation: 1,
			Labels: map[string]string{networking.LabelIPAddressFamily: string(familyOf(ip)), networking.LabelManagedBy: managedBy},
		},
		Spec: networking.IPAddressSpec{ParentRef: &networking.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
	o.SetGroupVersionKind(a.addresses.GroupVersionKind)
	return o
}

// Repair compares what is taken with what Services have, and puts right what differs: IPAddresses of Services that are not there or have another address,
// addresses and node ports of Services that nothing says are taken. It is for the start, when nothing else is under way.
func (a *Services) Repair(ctx context.Context) (mended int, err error) {
	snap := a.cfg.Cache.Snapshot()
	owners := map[netip.Addr]*corev1.Service{}
	var services []*corev1.Service
	for o := range snap.List(a.services, cache.Selection{}) {
		s := cache.Typed[*corev1.Service](o)
		services = append(services, s)
		for ip := range ipsOf(s) {
			if owners[ip] == nil {
				owners[ip] = s
			}
		}
	}
	var writes []store.Write
	for o := range snap.List(a.addresses, cache.Selection{}) {
		ip := cache.Typed[*networking.IPAddress](o)
		if ip.Labels[networking.LabelManagedBy] != managedBy {
			continue // somebody else's, who knows why
		}
		addr, err := netip.ParseAddr(ip.Name)
		if s := owners[addr]; err == nil && s != nil && belongs(ip, s) {
			delete(owners, addr)
			continue
		}
		writes = append(writes, store.Write{Key: a.addresses.Key("", ip.Name), Expect: o.Revision()})
	}
	for ip, s := range owners {
		if snap.Get(a.addresses, "", ip.String()) != nil {
			continue // taken by another: deleted above, and made at the next start
		}
		value, err := a.cfg.Table.Encode(a.addressOf(ip, s))
		if err != nil {
			return 0, fmt.Errorf("encode IPAddress %s: %w", ip, err)
		}
		writes = append(writes, store.Write{Key: a.addresses.Key("", ip.String()), Value: value})
	}
	for _, w := range writes {
		if _, err := a.cfg.Store.Apply(ctx, w); err != nil && !errors.Is(err, store.ErrConflict) {
			return mended, fmt.Errorf("repair cluster IPs: %w", err)
		}
		mended++
	}
	n, err := a.repairPorts(ctx, services)
	return mended + n, err
}
